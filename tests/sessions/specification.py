"""The SQL of docs/specification.md, statement by statement, and what the product offers where PostgreSQL 16 refuses one."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "specification.md"
NOTES = ROOT / "docs" / "specification-notes.md"

FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
HEADING = re.compile(r"^#+ (.+)$", re.M)
# What begins a statement in a block that is not marked as SQL.
KEYWORD = re.compile(r"^(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|WITH|GRANT|ANALYZE|VACUUM|REINDEX|EXPLAIN)\b")


@dataclass(frozen=True)
class Statement:
    """One statement of the document, on one line, with the heading it stands under."""

    section: str
    sql: str


def statements() -> list[Statement]:
    text = DOCUMENT.read_text(encoding="utf-8")
    headings = [(m.start(), m.group(1)) for m in HEADING.finditer(FENCE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text))]
    found = []
    for block in FENCE.finditer(text):
        section = [title for at, title in headings if at < block.start()][-1]
        language, body = block.groups()
        body = re.sub(r"--.*$", "", body, flags=re.M) if language == "sql" else re.sub(r"^#.*$", "", body, flags=re.M)
        for part in body.split(";"):
            sql = " ".join(part.split())
            if sql and (language == "sql" or KEYWORD.match(sql)):
                found.append(Statement(section, sql))
    return found


@dataclass(frozen=True)
class Equivalent:
    """A statement that PostgreSQL 16 refuses, or that cannot do what its heading says; and the product's way."""

    statement: str
    sqlstate: str | None  # what PostgreSQL 16 says to it; None when it runs, but without the answer wanted
    reason: str
    sql: str


NO_TABLENAME = "`pg_stat_user_indexes` calls these columns `relname` and `indexrelname`"
NO_FROM = "there is no `FROM`, so no `embedding` to take the distance from"

EQUIVALENTS = [
    Equivalent(
        "SELECT schemaname, tablename, indexname, idx_tup_read, idx_tup_fetch FROM pg_stat_user_indexes WHERE tablename = 'vectors'",
        "42703", NO_TABLENAME,
        "SELECT schemaname, tablename, indexname, idx_tup_read, idx_tup_fetch FROM pgedge.index_usage WHERE tablename = 'vectors'"),
    Equivalent(
        "SELECT indexname, idx_tup_read, idx_tup_fetch, idx_scan FROM pg_stat_user_indexes WHERE tablename = 'vectors'",
        "42703", NO_TABLENAME,
        "SELECT indexname, idx_tup_read, idx_tup_fetch, idx_scan FROM pgedge.index_usage WHERE tablename = 'vectors'"),
    Equivalent(
        "SELECT indexname, idx_scan, idx_tup_read FROM pg_stat_user_indexes WHERE tablename = 'vectors'",
        "42703", NO_TABLENAME,
        "SELECT indexname, idx_scan, idx_tup_read FROM pgedge.index_usage WHERE tablename = 'vectors'"),
    Equivalent(
        "SELECT query, calls, total_time, mean_time, rows FROM pg_stat_statements ORDER BY mean_time DESC LIMIT 10",
        "42703", "since PostgreSQL 13 the columns are `total_exec_time` and `mean_exec_time`",
        "SELECT query, calls, total_time, mean_time, rows FROM pgedge.slow_queries ORDER BY mean_time DESC LIMIT 10"),
    Equivalent(
        "SELECT embedding <-> '[1,2,3]'::vector AS l2_distance", "42703", NO_FROM,
        "SELECT embedding <-> '[1,2,3]'::vector AS l2_distance FROM vectors"),
    Equivalent(
        "SELECT embedding <=> '[1,2,3]'::vector AS cosine_distance", "42703", NO_FROM,
        "SELECT embedding <=> '[1,2,3]'::vector AS cosine_distance FROM vectors"),
    Equivalent(
        "SELECT embedding <#> '[1,2,3]'::vector AS inner_product", "42703", NO_FROM + "; and `<#>` is the negative inner product",
        "SELECT -(embedding <#> '[1,2,3]'::vector) AS inner_product FROM vectors"),
    Equivalent(
        "SELECT net.http_post( 'https://api.example.com/webhook', '{\"message\": \"hello\"}'::jsonb, 'application/json' )",
        "22P02", "the third argument of `net.http_post` is `params jsonb`; the content type is a header",
        "SELECT net.http_post( url := 'https://api.example.com/webhook', body := '{\"message\": \"hello\"}'::jsonb,"
        " headers := '{\"Content-Type\": \"application/json\"}'::jsonb )"),
    Equivalent(
        "SELECT name, setting FROM pg_settings WHERE name LIKE '%temp%'", None,
        "it runs, but finds settings of temporary files: PostgreSQL knows no temperature",
        "SELECT zone, celsius FROM pgedge.device_temperature()"),
]


def notes() -> str:
    """docs/specification-notes.md, which a test compares with the file."""
    lines = [
        "# Where the specification's SQL is wrong for PostgreSQL 16", "",
        "Every other statement of [the specification](specification.md) runs as it is written there, with a real vector for `[0.1,0.2,0.3,...]`,",
        "`[1,2,3]` and `target_vector`, and with a table `my_table` made first. `CREATE TABLE` and `CREATE INDEX` of its schema need not be run: the",
        "extension has done so. This file is compared with the test that runs them all (`tests/sessions/test_specification.py`).", "",
    ]
    for e in EQUIVALENTS:
        said = f"SQLSTATE {e.sqlstate}" if e.sqlstate else "no error"
        lines += ["```sql", f"{e.statement};", "```", f"{e.reason[0].upper()}{e.reason[1:]} ({said}). Instead:", "", "```sql", f"{e.sql};", "```", "", "---", ""]
    return "\n".join(lines[:-2])
