"""Dumps restore: whole and by table, plain and custom, with what the user added, and the queue and the patterns go on."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import create_database

TABLES = ("vectors", "analytics_results", "aggregated_logs", "claude_events")


@pytest.fixture
def filled(db):
    """A database with rows in every table, made through the functions where there are some, and a user's column and index."""
    with db.connect() as conn:
        conn.execute("INSERT INTO vectors (embedding, content, source) SELECT array_agg(sin(i * j))::vector, 'text ' || i, 'test'"
                     " FROM generate_series(1, 50) i, generate_series(1, 384) j GROUP BY i")
        conn.execute("INSERT INTO analytics_results (analysis_type, results, vector_count) VALUES ('space', '{\"n\": 50}', 50)")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in', 'User 2 logged in', 'disk /dev/sda1 is full'], 'INFO', 'auth')")
        conn.execute("SELECT pgedge.enqueue_event('metrics', jsonb_build_object('n', i)) FROM generate_series(1, 20) i")
        conn.execute("ALTER TABLE vectors ADD COLUMN reviewed_by text DEFAULT 'nobody'")
        conn.execute("CREATE INDEX my_own_index ON vectors (reviewed_by)")
        leased = conn.execute("SELECT id, lease_token FROM pgedge.claim_events(5)").fetchall()
        conn.execute("SELECT pgedge.complete_events(%s, %s)", ([r[0] for r in leased[:2]], leased[0][1]))
    return db


def contents(db, tables=TABLES):
    # But for the place in the queue, which a server gives anew to events that come from elsewhere.
    return {t: db.sql(f"SELECT (to_jsonb(t) - 'qx')::text FROM {t} t ORDER BY 1") for t in tables}


def index_definitions(db) -> list[str]:
    """PostgreSQL writes varchar IN (…) in two ways, before and after it has read it once; both are `column in 'a', 'b'` here."""
    rows = db.sql("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
    listed = re.compile(r"\(status\)::text = ANY \(.*?\]\)*(?:::text\[\]\)*)?")
    return [listed.sub(lambda m: "status in " + ", ".join(re.findall(r"'\w+'", m[0])), definition).rstrip(")") for (definition,) in rows]


def catalog(db):
    """Columns, indexes, triggers, sequences' owners and extension members."""
    return {
        "columns": db.sql("SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)"
                          " FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND adnum = attnum"
                          f" WHERE attrelid::regclass::text = ANY ('{{{','.join(TABLES)}}}') AND attnum > 0 AND NOT attisdropped ORDER BY 1, attnum"),
        "indexes": index_definitions(db),
        "triggers": db.sql("SELECT tgrelid::regclass::text, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"),
        "members": db.sql("SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend WHERE deptype = 'e' AND refobjid ="
                          " (SELECT oid FROM pg_extension WHERE extname = 'pgedge') ORDER BY 1"),
    }


def support_tables(db) -> list[str]:
    return [r[0] for r in db.sql("SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'pgedge'::regnamespace AND relkind = 'r' ORDER BY 1")]


def restore(cluster, target, dump: Path, kind: str):
    if kind == "plain":
        cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-d", target.name, "-f", str(dump), stdout=subprocess.DEVNULL)
    else:
        cluster.tool("pg_restore", "--exit-on-error", "-d", target.name, str(dump))


@pytest.mark.parametrize("kind", ["plain", "custom"])
def test_whole_dump_restores(cluster, filled, empty_db, tmp_path, kind):
    dump = tmp_path / "dump"
    cluster.tool("pg_dump", "-F", kind[0], "-d", filled.name, "-f", str(dump))
    restore(cluster, empty_db, dump, kind)
    assert contents(empty_db) == contents(filled)
    assert catalog(empty_db) == catalog(filled)
    state = support_tables(filled)
    assert support_tables(empty_db) == state
    # the aggregation and the sequences go on where they were
    for database in (filled, empty_db):
        database.sql("SELECT pgedge.aggregate_logs(ARRAY['User 77 logged in'], 'INFO', 'auth')")
    assert empty_db.value("SELECT count FROM aggregated_logs WHERE message_pattern = 'User {ID} logged in'") == 3
    new = empty_db.value("SELECT pgedge.enqueue_event('metrics', '{}')")
    assert new > 20
    # nothing that was waiting is lost: all but the two completed are handed out in the end
    with empty_db.connect() as conn:
        conn.execute("SELECT pgedge.release_events(array_agg(id), t) FROM (SELECT 0 AS t, 0 AS id WHERE false) x GROUP BY t")
        got = [r[0] for r in conn.execute("SELECT id FROM pgedge.claim_events(100)").fetchall()]
        waiting = {r[0] for r in conn.execute("SELECT id FROM claude_events WHERE status <> 'processed'").fetchall()}
    leased_at_dump = 3
    assert len(got) >= 21 - 2 - leased_at_dump and set(got) <= waiting and len(waiting) == 19


@pytest.mark.parametrize("kind", ["plain", "custom"])
def test_dump_of_two_tables_restores_where_only_pgvector_is(cluster, filled, empty_db, tmp_path, kind):
    dump = tmp_path / "dump"
    cluster.tool("pg_dump", "-F", kind[0], "-d", filled.name, "--table=vectors", "--table=analytics_results", "-f", str(dump))
    cluster.psql("CREATE EXTENSION vector", empty_db.name)
    restore(cluster, empty_db, dump, kind)
    tables = TABLES[:2]
    assert contents(empty_db, tables) == contents(filled, tables)
    assert empty_db.value("SELECT count(*) FROM pg_indexes WHERE tablename = 'vectors'") == filled.value("SELECT count(*) FROM pg_indexes WHERE tablename = 'vectors'")
    assert empty_db.value("INSERT INTO analytics_results (analysis_type, results) VALUES ('next', '{}') RETURNING id") == 2
    # and the extension can be created over them afterwards
    cluster.psql("CREATE EXTENSION pgedge", empty_db.name)
    assert contents(empty_db, tables) == {**contents(filled, tables), "analytics_results": contents(empty_db, tables)["analytics_results"]}


def test_data_only_dump_restores_into_a_database_with_the_extension(cluster, filled, tmp_path):
    dump = tmp_path / "dump"
    cluster.tool("pg_dump", "-F", "p", "--data-only", "-d", filled.name, *[f"--table={t}" for t in TABLES], "-f", str(dump))
    target = create_database(cluster)
    try:
        target.sql("ALTER TABLE vectors ADD COLUMN reviewed_by text")
        restore(cluster, target, dump, "plain")
        assert contents(target) == contents(filled)
        assert len(target.sql("SELECT id FROM pgedge.claim_events(100)")) >= 18 - 3
    finally:
        cluster.psql(f'DROP DATABASE "{target.name}" WITH (FORCE)')


def test_drop_extension_keeps_every_row(cluster, filled):
    before = contents(filled)
    filled.sql("DROP EXTENSION pgedge")
    assert contents(filled) == before
    # plain inserts go on without it
    filled.sql("INSERT INTO claude_events (event_type, payload) VALUES ('plain', '{}')")
    cluster.psql("CREATE EXTENSION pgedge", filled.name)
    filled.sql("SELECT pgedge.create_tables()")
    assert contents(filled, TABLES[:3]) == {t: before[t] for t in TABLES[:3]}
    assert "plain" in [r[0] for r in filled.sql("SELECT event_type FROM pgedge.claim_events(100)")]
