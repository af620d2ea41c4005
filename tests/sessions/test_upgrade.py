"""Every version that has landed can be updated to this one, and the result is the same as a fresh install."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import create_database

ROOT = Path(__file__).resolve().parents[2]
RELEASES = sorted((ROOT / "sql" / "releases").glob("pgedge--*.sql"))
CURRENT = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]

CATALOG = """
SELECT pg_describe_object(d.classid, d.objid, 0), coalesce(pg_get_functiondef(p.oid), pg_get_viewdef(c.oid), ''), coalesce(p.proacl::text, c.relacl::text, ''),
       obj_description(d.objid), coalesce((SELECT string_agg(attname || format_type(atttypid, atttypmod) || attnotnull, ',' ORDER BY attname)
       FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), ''),
       (SELECT string_agg(conname || pg_get_constraintdef(oid), E'\n' ORDER BY conname) FROM pg_constraint WHERE conrelid = c.oid AND contype <> 'n'),
       (SELECT string_agg(pg_get_triggerdef(oid) || tgenabled::text, E'\n' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal),
       (SELECT string_agg(pg_get_indexdef(indexrelid), E'\n' ORDER BY pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = c.oid)
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgedge'
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid AND p.prokind <> 'a'
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
WHERE d.deptype = 'e' ORDER BY 1
"""


def script_of_this_build(cluster) -> str:
    folder = subprocess.run([str(cluster.bindir / "pg_config"), "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(folder, "extension", f"pgedge--{CURRENT}.sql").read_text()


def statements(script: str) -> list[str]:
    """The script's lines without the comments that pgrx writes, which hold line numbers of the source; sorted, since pgrx keeps no order among equals."""
    return sorted(line for line in script.splitlines() if line.strip() and not line.lstrip().startswith(("--", "/*", "*/", "//")))


def loadable(script: str, library: Path) -> str:
    """An older script with this build's library: a function whose C symbol is gone since gets another's, as it only has to exist until the update drops it."""
    symbols = {line.split()[-1] for line in subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True).stdout.splitlines()}
    return re.sub(r"(AS 'MODULE_PATHNAME', ')(\w+)(')", lambda m: m[0] if m[2] in symbols else m[1] + "log_pattern_wrapper" + m[3], script)


def test_a_released_script_is_never_changed(cluster):
    frozen = ROOT / "sql" / "releases" / f"pgedge--{CURRENT}.sql"
    if not frozen.exists():
        pytest.skip(f"version {CURRENT} has not landed yet")
    assert statements(script_of_this_build(cluster)) == statements(frozen.read_text()), \
        "the SQL changed after this version landed: raise the version and write an update script (CONTRIBUTING.md)"


EVENTS = """
SELECT string_agg(format('%s %s %s', attname, format_type(atttypid, atttypmod), attnotnull), ', ' ORDER BY attname),
       (SELECT string_agg(pg_get_indexdef(indexrelid), E'\n' ORDER BY pg_get_indexdef(indexrelid)) FROM pg_index WHERE indrelid = 'claude_events'::regclass),
       (SELECT string_agg(pg_get_triggerdef(oid) || tgenabled::text, E'\n' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'claude_events'::regclass)
FROM pg_attribute WHERE attrelid = 'claude_events'::regclass AND attnum > 0 AND NOT attisdropped
"""


def old_database(cluster, release):
    """A database with an earlier version, whose C functions need only be there."""
    version = release.stem.removeprefix("pgedge--")
    if version == CURRENT:
        pytest.skip("it is this version")
    folder = Path(subprocess.run([str(cluster.bindir / "pg_config"), "--sharedir"], capture_output=True, text=True, check=True).stdout.strip(), "extension")
    library = Path(subprocess.run([str(cluster.bindir / "pg_config"), "--pkglibdir"], capture_output=True, text=True, check=True).stdout.strip(), "pgedge.so")
    (folder / release.name).write_text(loadable(release.read_text(), library))
    old = create_database(cluster, extension=False)
    cluster.psql("CREATE EXTENSION vector", old.name)
    cluster.psql(f"CREATE EXTENSION pgedge VERSION '{version}'", old.name)
    return old


@pytest.mark.parametrize("release", [r for r in RELEASES if r.stem == "pgedge--0.1.0"], ids=lambda p: p.stem)
@pytest.mark.parametrize("view", [False, True], ids=["", "a view on a column that goes"])
def test_the_queue_goes_on_after_the_update(release, view, cluster):
    """0.1.0 kept leases in the rows."""
    old, fresh = old_database(cluster, release), create_database(cluster)
    with old.connect() as conn:
        enqueue = "SELECT pgedge.enqueue_event(%s, '{}', max_attempts => 1)"
        ids = {what: conn.execute(enqueue, (what,)).fetchone()[0] for what in ("done", "dead", "leased", "late", "waiting", "plain", "cancelled")}
        conn.execute("INSERT INTO claude_events (event_type, payload, ordering_key) VALUES ('ordered', '{}', 'k')")
        claim = "SELECT id, lease_token FROM pgedge.claim_events(1, '1 hour', ARRAY[%s], 'w')"
        conn.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", conn.execute(claim, ("done",)).fetchone())
        conn.execute("SELECT pgedge.fail_events(ARRAY[%s]::bigint[], %s, 'no')", conn.execute(claim, ("dead",)).fetchone())
        lease = conn.execute(claim, ("leased",)).fetchone()
        conn.execute("UPDATE claude_events SET run_at = now() + interval '1 hour' WHERE event_type = 'late'")
        conn.execute("UPDATE claude_events SET status = 'processing' WHERE event_type = 'plain'")
        conn.execute("SELECT pgedge.cancel_events(ARRAY[%s]::bigint[])", (ids["cancelled"],))
        if view:
            conn.execute("CREATE VIEW holders AS SELECT id, lease_token FROM claude_events")
        before = conn.execute("SELECT id, event_type, payload, priority, created_at, processed_at, run_at, max_attempts, ordering_key, last_error, claimed_by FROM claude_events ORDER BY id").fetchall()
    cluster.psql("ALTER EXTENSION pgedge UPDATE", old.name)
    with old.connect() as conn:
        assert conn.execute("SELECT id, event_type, payload, priority, created_at, processed_at, run_at, max_attempts, ordering_key, last_error, claimed_by FROM claude_events ORDER BY id").fetchall() == before
        assert dict(conn.execute("SELECT event_type, status FROM claude_events")) == {
            "done": "processed", "dead": "dead", "leased": "pending", "late": "pending", "waiting": "pending", "plain": "processing", "cancelled": "cancelled", "ordered": "pending"}
        if view:
            assert conn.execute("SELECT lease_token FROM holders WHERE id = %s", (ids["leased"],)).fetchone() == (lease[1],)
        else:
            assert conn.execute(EVENTS).fetchall() == fresh.sql(EVENTS)
        assert conn.execute("SELECT pgedge.create_tables()").fetchall() == []
        assert conn.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", lease).fetchall() == []
        rows = conn.execute("SELECT event_type, attempt, id, lease_token FROM pgedge.claim_events(10)").fetchall()
        assert [r[:2] for r in rows] == [("leased", 1), ("waiting", 1), ("ordered", 1)]
        assert len(conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", ([r[2] for r in rows], rows[0][3])).fetchall()) == 3
        conn.execute("UPDATE claude_events SET run_at = NULL WHERE event_type = 'late'")
        conn.execute("UPDATE claude_events SET status = 'pending' WHERE event_type = 'plain'")
        assert conn.execute("SELECT pgedge.redrive_events()").fetchone() == (1,)
        assert sorted(r[0] for r in conn.execute("SELECT event_type FROM pgedge.claim_events(10)")) == ["dead", "late", "plain"]


@pytest.mark.parametrize("release", [r for r in RELEASES if r.stem == "pgedge--0.2.0"], ids=lambda p: p.stem)
def test_hours_that_are_still_to_come_end_with_the_update(release, cluster):
    """0.2.0 counted lines of a clock that was ahead in the hours that it showed, and kept those for ever."""
    old = old_database(cluster, release)
    with old.connect() as conn:
        conn.execute("INSERT INTO aggregated_logs (message_pattern, count) VALUES ('ahead', 10), ('right', 10)")
        conn.execute("INSERT INTO pgedge._log_rows (row_id, source_no, no, pattern, sample_ranks, open_hour, lines_before)"
                     " SELECT a.id, 1, 1, a.message_pattern, '{}', date_trunc('hour', now(), 'UTC') + CASE a.message_pattern WHEN 'ahead' THEN interval '9 days' ELSE '0' END, 7 FROM aggregated_logs a")
        conn.execute("INSERT INTO pgedge._log_hours SELECT a.id, date_trunc('hour', now(), 'UTC') + make_interval(hours => h), 1 FROM aggregated_logs a,"
                     " unnest(CASE a.message_pattern WHEN 'ahead' THEN ARRAY[-4, -3, -2, -1, 0, 1, 2] ELSE ARRAY[-7, -6, -5, -4, -3, -2, -1] END) h")
    cluster.psql("ALTER EXTENSION pgedge UPDATE", old.name)
    hours = old.sql("SELECT message_pattern, extract(epoch FROM hour - date_trunc('hour', now(), 'UTC'))::int / 3600, lines FROM pgedge.log_trends('1 day') ORDER BY 1, 2")
    assert hours == [("ahead", -4, 1), ("ahead", -3, 1), ("ahead", -2, 1), ("ahead", -1, 4), ("ahead", 0, 3), *(("right", h, 1) for h in range(-7, 0)), ("right", 0, 3)]


@pytest.mark.parametrize("release", RELEASES, ids=lambda p: p.stem)
def test_update_gives_the_catalog_of_a_fresh_install(release, cluster):
    old, fresh = old_database(cluster, release), create_database(cluster)
    old.sql("INSERT INTO claude_events (event_type, payload) VALUES ('kept', '{}')")
    cluster.psql("ALTER EXTENSION pgedge UPDATE", old.name)
    old.sql("SELECT pgedge.create_tables()")
    assert old.sql(CATALOG) == fresh.sql(CATALOG)
    assert old.value("SELECT count(*) FROM claude_events WHERE event_type = 'kept'") == 1
