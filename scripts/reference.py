#!/usr/bin/env python3
"""The README's reference, made from the catalog: every public function, aggregate, view and setting with its COMMENT.

    scripts/reference.py        rewrites the part of README.md between the two markers
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cluster import Cluster  # noqa: E402

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- reference: made by scripts/reference.py -->\n", "<!-- end of reference -->\n"

# Families by the names in them; what fits none goes to the last.
FAMILIES = [
    ("Log patterns", r"log"),
    ("Event queue", r"event|queue|lease|webhook"),
    ("Similarity", r"similar|top_k|batch_|knn|simd|vector|cluster|kmeans|space|duplicate"),
    ("Installing and operating", r""),
]

FUNCTIONS = """
SELECT p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prokind = 'a', obj_description(p.oid, 'pg_proc')
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgedge'
WHERE p.proname !~ '^_' AND obj_description(p.oid, 'pg_proc') !~ '^internal' ORDER BY p.proname, pg_get_function_arguments(p.oid)
"""
VIEWS = """
SELECT c.relname, (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), obj_description(c.oid)
FROM pg_class c WHERE c.relnamespace = 'pgedge'::regnamespace AND c.relkind IN ('v', 'r') AND c.relname !~ '^_' AND obj_description(c.oid) !~ '^internal' ORDER BY 1
"""
SETTINGS = "SELECT name, boot_val, coalesce(unit, ''), short_desc, coalesce(extra_desc, '') FROM pg_settings WHERE name LIKE 'pgedge.%' ORDER BY 1"


def entries(conn) -> str:
    families: dict[str, list[str]] = {name: [] for name, _ in FAMILIES}

    def add(name: str, text: str) -> None:
        families[next(f for f, pattern in FAMILIES if re.search(pattern, name))].append(text)

    for name, _, arguments, result, aggregate, comment in conn.execute(FUNCTIONS).fetchall():
        add(name, f"**`{name}({arguments})`** → `{result}`{' (aggregate)' if aggregate else ''}  \n{comment}\n")
    for name, columns, comment in conn.execute(VIEWS).fetchall():
        add(name, f"**`{name}`** ({columns})  \n{comment}\n")
    conn.execute("SELECT pgedge.enqueue_event('reference', '{}')")  # loads the library, which declares the settings
    settings = [f"| `{name}` | {default}{' ' + unit if unit else ''} | {short} {extra} |" for name, default, unit, short, extra in conn.execute(SETTINGS).fetchall()]
    out = ["All names are in schema `pgedge`. Every error carries its SQLSTATE, the offending value and a hint.\n"]
    for family, texts in families.items():
        out += [f"### {family}: reference\n", *texts]
    if settings:
        out += ["### Settings\n", "| setting | default | what it does |\n| --- | --- | --- |\n" + "\n".join(settings) + "\n"]
    return "\n".join(out)


def with_reference(readme: str, conn) -> str:
    before, rest = readme.split(BEGIN)
    return before + BEGIN + "\n" + entries(conn) + "\n" + END + rest.split(END)[1]


def main() -> None:
    import psycopg

    with Cluster() as cluster, psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION pgedge CASCADE")
        README.write_text(with_reference(README.read_text(), conn))


if __name__ == "__main__":
    main()
