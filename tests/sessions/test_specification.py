"""The specification against the product: the same catalog, and every statement of the document runs or has an equivalent that does."""
from __future__ import annotations

import os
import random

import psycopg
import pytest

from cluster import Cluster
from conftest import Database
from specification import EQUIVALENTS, NOTES, Statement, notes, statements

SCHEMA_SECTIONS = ("Core Tables", "Indexes for Performance")


def literal(seed: int) -> str:
    generator = random.Random(seed)
    return "'[" + ",".join(f"{generator.uniform(0.1, 1):.4f}" for _ in range(384)) + "]'"


# What the document abbreviates.
REAL = [("'[0.1,0.2,0.3,...]'", literal(1)), ("'[0.4,0.5,0.6,...]'", literal(2)), ("'[0.1,0.2,0.3]'", literal(1)), ("'[1,2,3]'", literal(3)),
        ("target_vector", literal(1) + "::vector")]


def real(sql: str) -> str:
    for short, whole in REAL:
        sql = sql.replace(short, whole)
    return sql


@pytest.fixture(scope="module")
def server():
    """A server set up as the document says, so that its names of databases and roles can be taken literally."""
    plain = Cluster()
    sharedir = plain.run(plain.bindir / "pg_config", "--sharedir", capture_output=True, text=True).stdout.strip()
    libraries = [name for name in ("pg_net", "pg_stat_statements") if os.path.exists(f"{sharedir}/extension/{name}.control")]
    plain.settings = {"shared_preload_libraries": ",".join(libraries), "pg_net.database_name": "ai_platform_db"}
    if "pg_net" not in libraries:
        del plain.settings["pg_net.database_name"]
    with plain as cluster:
        cluster.libraries = libraries
        cluster.psql("CREATE DATABASE ai_platform_db")
        cluster.psql("CREATE DATABASE comparison")
        cluster.psql("CREATE EXTENSION vector", "comparison")
        cluster.psql("CREATE EXTENSION pgedge CASCADE", "ai_platform_db")
        if "pg_net" in libraries:
            cluster.psql("CREATE EXTENSION pg_net", "ai_platform_db")
        cluster.psql("CREATE TABLE my_table (id int)", "ai_platform_db")
        cluster.psql("SELECT setseed(0.5); INSERT INTO vectors (embedding, source, content)"
                     " SELECT ARRAY(SELECT random() + 0 * i FROM generate_series(1, 384))::vector, 'source' || i % 110, 'text ' || i FROM generate_series(1, 1500) i", "ai_platform_db")
        comparison = Database(cluster, "comparison")
        for s in statements():
            if s.section in SCHEMA_SECTIONS:
                comparison.sql(s.sql)
        yield cluster


COLUMNS = """
    SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname IN ('vectors', 'analytics_results', 'aggregated_logs', 'claude_events')"""
INDEXES = """SELECT pg_get_indexdef(indexrelid), indisprimary, indisunique, indisvalid FROM pg_index
    WHERE indrelid IN ('vectors'::regclass, 'analytics_results'::regclass, 'aggregated_logs'::regclass, 'claude_events'::regclass)"""
CONSTRAINTS = """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid IN ('vectors'::regclass, 'analytics_results'::regclass, 'aggregated_logs'::regclass, 'claude_events'::regclass)"""
SEQUENCES = "SELECT sequencename, data_type::text, start_value, increment_by, max_value, cycle FROM pg_sequences WHERE schemaname = 'public'"


@pytest.mark.parametrize("query", [COLUMNS, INDEXES, CONSTRAINTS, SEQUENCES], ids=["columns", "indexes", "constraints", "sequences"])
def test_catalog_has_all_that_is_specified(server, query):
    specified = set(Database(server, "comparison").sql(query))
    ours = set(Database(server, "ai_platform_db").sql(query))
    assert specified, "the specification's DDL made nothing"
    assert not specified - ours, f"specified, but missing or different: {sorted(map(str, specified - ours))}"
    for added in sorted(map(str, ours - specified)):
        print(f"added: {added}")


def test_document_is_understood():
    found = statements()
    assert len(found) == 54, f"{len(found)} statements"
    assert sum(s.section in SCHEMA_SECTIONS for s in found) == 17
    texts = [s.sql for s in found]
    unknown = [e.statement for e in EQUIVALENTS if e.statement not in texts]
    assert not unknown, f"mapped, but not in the document: {unknown}"


def test_notes_are_current():
    if os.environ.get("PGEDGE_UPDATE_NOTES"):
        NOTES.write_text(notes(), encoding="utf-8")
    assert NOTES.read_text(encoding="utf-8") == notes(), "run with PGEDGE_UPDATE_NOTES=1"


def run(conn: psycopg.Connection, sql: str) -> list[tuple]:
    cur = conn.execute(real(sql))
    return cur.fetchall() if cur.description else []


def run_schema_statement(conn: psycopg.Connection, s: Statement) -> str:
    """It was run in the comparison database; here the object must be there already."""
    if s.sql.startswith("CREATE INDEX ON"):
        return "run in the comparison database; the catalog test finds its index here"
    with pytest.raises(psycopg.errors.DuplicateTable):
        conn.execute(s.sql)
    return "run in the comparison database; the extension has made it here"


def test_every_statement_runs_or_has_an_equivalent(server):
    db = Database(server, "ai_platform_db")
    mapped = {e.statement: e for e in EQUIVALENTS}
    results: dict[str, list[tuple]] = {}
    done = []
    with db.connect() as conn:
        for s in statements():
            needs_net = "net.http" in s.sql
            if needs_net and "pg_net" not in server.libraries:
                outcome = "not run: pg_net is not installed on this server"
            elif s.section in SCHEMA_SECTIONS:
                outcome = run_schema_statement(conn, s)
            elif e := mapped.get(s.sql):
                if e.sqlstate:
                    with pytest.raises(psycopg.Error) as refused:
                        run(conn, s.sql)
                    assert refused.value.sqlstate == e.sqlstate
                else:
                    assert all("temperature" not in str(row) for row in run(conn, s.sql))
                results[e.sql] = run(conn, e.sql)
                outcome = f"wrong for PostgreSQL 16 ({e.reason}); run instead: {e.sql}"
            else:
                results[s.sql] = run(conn, s.sql)
                outcome = "run"
            done.append(s)
            print(f"{s.section}: {s.sql[:100]}\n    {outcome}")
    assert done == statements()

    # Some answers, so that "it ran" means that it did its work.
    found = next(rows for sql, rows in results.items() if "> 0.7 ORDER BY" in sql)
    assert len(found) == 10 and all(row[3] > 0.7 for row in found)
    assert [row[3] for row in found] == sorted((row[3] for row in found), reverse=True)
    for sql, rows in results.items():
        if "index_usage" in sql:
            assert {"idx_vectors_hnsw", "vectors_embedding_idx", "vectors_embedding_idx1", "idx_vectors_source"} <= {v for row in rows for v in row}
        if "slow_queries" in sql:
            assert len(rows) == 10 and rows[0][3] >= rows[-1][3] > 0
        if "AS db_size" in sql:
            assert rows[0][0].endswith("MB")
        if "FROM pg_stats" in sql:
            assert rows, "ANALYZE came before"


def test_roles_made_by_the_document_can_do_their_work(server):
    """After the statements above: the reader reads, the embeddings service inserts, neither more."""
    db = Database(server, "ai_platform_db")
    assert db.value("SELECT count(*) FROM vectors", user="analytics_reader") >= 1500
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.sql("DELETE FROM vectors", user="analytics_reader")
    db.sql(f"INSERT INTO vectors (embedding) VALUES ({literal(9)})", user="embeddings_service")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.sql("UPDATE vectors SET content = NULL", user="embeddings_service")
