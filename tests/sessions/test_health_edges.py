"""health() where it is hard: locked and missing tables, odd names, long lists, a clock that was wrong, an archive that stands still."""
from __future__ import annotations

import re
import threading
from contextlib import closing

import psycopg
import pytest

from cluster import Cluster
from conftest import Database, create_database
from test_health import OF_PGEDGE, changed, follow, replaced, switch_wal
from test_ops import drop_role, health, role, wait_for


def lines(db: Database, user: str = "postgres") -> dict[str, tuple[str, str, str | None]]:
    """The lines of health(), those of checks that failed too."""
    return {r[0]: r[1:] for r in db.sql("SELECT * FROM pgedge.health()", user=user)}


# Locks ---------------------------------------------------------------------------------------------------------------------------------


def test_it_does_not_wait_for_who_rewrites_a_table(db):
    """VACUUM FULL and ALTER TABLE hold such locks for as long as they run."""
    whole = set(lines(db))
    with db.connect() as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("UPDATE pg_class SET reltuples = 20000 WHERE oid = 'vectors'::regclass")
    with closing(db.connect(autocommit=False)) as holder, db.connect() as conn:
        holder.execute("LOCK TABLE vectors, claude_events IN ACCESS EXCLUSIVE MODE")
        conn.execute("SET statement_timeout = '60s'")
        got = {r[0]: r[1:] for r in conn.execute("SELECT * FROM pgedge.health()")}
        assert conn.execute("SHOW lock_timeout").fetchone() == ("0",)
        for check in ("events", "toast"):
            status, detail, hint = got[check]
            assert status == "warning" and "is locked" in detail
            held = conn.execute(re.match(r"SELECT [^;]*;", hint)[0]).fetchall()
            assert {(holder.info.backend_pid, "vectors"), (holder.info.backend_pid, "claude_events")} <= set(held)
        assert whole - set(got) == {"expired_leases", "dead_events", "oldest_ready_event", "toasted_vectors"}
    assert set(lines(db)) == whole


# Tables and indexes --------------------------------------------------------------------------------------------------------------------


def test_what_a_cancelled_reindex_leaves_is_dropped(db):
    """Its double is invalid, the index itself is whole: built anew, the double would stay for good."""
    db.sql("CREATE TABLE twins (x int)")
    db.sql("CREATE INDEX twins_x ON twins (x)")
    with closing(db.connect(autocommit=False)) as old, db.connect() as conn:
        old.execute("INSERT INTO twins VALUES (1)")
        conn.execute("SET statement_timeout = '1s'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("REINDEX INDEX CONCURRENTLY twins_x")
    status, detail, hint = health(db)["invalid_indexes"]
    assert (status, detail, hint) == ("warning", "left behind by a build that failed: public.twins_x_ccnew", "DROP INDEX CONCURRENTLY public.twins_x_ccnew;")
    db.sql(hint)
    assert health(db)["invalid_indexes"][0] == "ok" and db.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'twins_x'::regclass")


def test_the_index_of_a_partitioned_table_is_not_a_failed_build(db):
    with db.connect() as conn:
        conn.execute("CREATE TABLE parts (x int) PARTITION BY RANGE (x); CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)")
        conn.execute("CREATE INDEX parts_x ON ONLY parts (x)")
        assert not conn.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'parts_x'::regclass").fetchone()[0]
    assert health(db)["invalid_indexes"] == ("ok", "none", None)


def test_a_table_whose_counters_know_nothing_and_that_was_never_analyzed(db):
    """As after pg_upgrade, and after a crash: the planner knows nothing, and autovacuum sees no change."""
    with db.connect() as conn:
        conn.execute("CREATE TABLE unknown (x int, y text) WITH (autovacuum_enabled = off); INSERT INTO unknown SELECT i, repeat('y', 900) FROM generate_series(1, 9500) i")
        conn.execute("SELECT pg_stat_force_next_flush()")
    db.sql("SELECT pg_stat_reset()")
    status, detail, hint = health(db)["statistics"]
    assert (status, detail, hint) == ("warning", "public.unknown: never analyzed", "ANALYZE public.unknown;")
    db.sql(hint)
    assert health(db)["statistics"][0] == "ok"


def test_without_tables_and_without_counters(db):
    """Nothing of pgedge's tables is there, and no statistics: one line is critical, no check fails."""
    monitor = role(db, "monitor", "GRANT pg_monitor TO {role}")
    db.sql("DROP TABLE vectors, analytics_results, aggregated_logs, claude_events")
    with db.connect() as conn:
        conn.execute("SELECT pg_stat_reset()")
        for shared in ("bgwriter", "archiver", "io", "wal", "recovery_prefetch"):
            conn.execute("SELECT pg_stat_reset_shared(%s)", [shared])
    got = health(db, monitor)
    assert got["tables"][0] == "critical" and all(f"table {t}" in got["tables"][1] for t in ("vectors", "analytics_results", "aggregated_logs", "claude_events"))
    assert not {"events", "oldest_ready_event", "hnsw_index"} & set(got)
    follow(db, got["tables"][2])
    assert health(db)["tables"][0] == "ok"
    drop_role(db, monitor)


ODD = 'o\'dd "x"; -- %s'


def test_odd_names(empty_db):
    """In a schema, tables, indexes, a sequence, a column and a prepared name that want quotes; every hint is a statement that runs."""
    quoted = ODD.replace('"', '""')
    with empty_db.connect() as conn:
        conn.execute(f'CREATE SCHEMA "{quoted}"')
        # PostgreSQL allows no quotes and dollars in an extension's schema.
        conn.execute('CREATE SCHEMA "Edge; -- %s"; CREATE EXTENSION pgedge SCHEMA "Edge; -- %s" CASCADE')
        conn.execute(f'SET search_path = "{quoted}", "Edge; -- %s"')
        conn.execute(f'CREATE TABLE "{quoted} 1" ("{quoted}" serial, v vector(3), c int) WITH (autovacuum_enabled = off)')
        conn.execute(f'SELECT setval(pg_get_serial_sequence(quote_ident(%s), %s), 2000000000)', [f"{ODD} 1", ODD])
        conn.execute(f'CREATE INDEX "{quoted} i" ON "{quoted} 1" USING ivfflat (v vector_l2_ops) WITH (lists = 2)')
        conn.execute("SELECT FROM pgedge.health()")
        conn.execute(f'INSERT INTO "{quoted} 1" (v, c) SELECT ARRAY[i, 1, 2]::vector, 1 FROM generate_series(1, 15000) i')
        conn.execute(f'UPDATE "{quoted} 1" SET c = 2')
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute(f'CREATE UNIQUE INDEX CONCURRENTLY "{quoted} u" ON "{quoted} 1" (c)')
        conn.execute("SELECT pg_stat_force_next_flush()")
        conn.execute("SELECT 1")
    got = health(empty_db)
    for check in ("dead_tuples", "statistics", "invalid_indexes", "ivfflat_training", "sequences"):
        assert got[check][0] != "ok" and ODD.replace('"', '""') in got[check][1], got[check]
    # What is not unique cannot be built: the index goes instead.
    empty_db.sql(got["invalid_indexes"][2].replace("REINDEX INDEX", "DROP INDEX"))
    for check in ("dead_tuples", "ivfflat_training"):
        empty_db.sql(re.match(r"(.*;)", got[check][2])[1])
    for statement in re.match(r"(ALTER TABLE .*? TYPE bigint;) (ALTER SEQUENCE .*? AS bigint;)", got["sequences"][2]).groups():
        empty_db.sql(statement)
    got = health(empty_db)
    assert {got[check][0] for check in ("tables", "dead_tuples", "statistics", "invalid_indexes", "ivfflat_training", "sequences")} == {"ok"}


# Long lists ----------------------------------------------------------------------------------------------------------------------------


def test_hundreds_of_slots():
    """The first twenty by name, and how many more."""
    with Cluster({"max_replication_slots": "400", "max_wal_size": "32MB", "min_wal_size": "32MB", "autovacuum": "off"}) as cluster:
        db = create_database(cluster)
        db.sql("SELECT count(pg_create_physical_replication_slot('slot_' || to_char(i, 'FM000'), true)) FROM generate_series(1, 300) i")
        assert health(db)["replication_slots"][1] == "300 slots, none holds much WAL"
        switch_wal(db, 4)
        status, detail, hint = health(db)["replication_slots"]
        assert status == "warning" and detail.count("holds") == 20 and detail.startswith("slot slot_001 (inactive") and detail.endswith("; and 280 more")
        assert hint.count("pg_drop_replication_slot") == 20 and hint.endswith(" and 280 more")


# The archive ---------------------------------------------------------------------------------------------------------------------------


def test_an_archive_that_is_not_there_or_stands_still():
    """Neither counts as a failure for PostgreSQL, and pg_wal grows all the same."""
    with Cluster({"archive_mode": "on", "archive_command": "", "max_wal_size": "32MB", "min_wal_size": "32MB"}) as cluster:
        db = create_database(cluster)
        status, detail, hint = health(db)["wal_archiving"]
        assert status == "critical" and "neither archive_command nor archive_library" in detail and "ALTER SYSTEM SET archive_command = " in hint
        db.sql("ALTER SYSTEM SET archive_command = 'test ! -e /nonexistent'")
        db.sql("SELECT pg_reload_conf()")
        switch_wal(db, 1)
        wait_for(lambda: health(db)["wal_archiving"][1].endswith(" archived " + str(db.value("SELECT date_trunc('second', last_archived_time)::text FROM pg_stat_archiver"))), 90)
        assert health(db)["wal_archiving"][0] == "ok"
        # One that hangs: the archiver waits for it, and no attempt fails.
        db.sql("ALTER SYSTEM SET archive_command = 'while test ! -e %s; do sleep 0.2; done'" % (cluster.folder / "goes-on"))
        db.sql("SELECT pg_reload_conf()")
        wait_for(lambda: (switch_wal(db, 1), db.value("SELECT count(*) FROM pg_sleep(0.5), pg_ls_archive_statusdir() WHERE name ~ 'ready$'"))[1])
        assert health(db)["wal_archiving"][0] == "ok"
        changed(db, "_health_11_wal", r"\bnow\(\)", "(now() + interval '20 minutes')")
        status, detail, hint = health(db)["wal_archiving"]
        assert status == "warning" and re.match(r"\d segments \(\d+ MB\) wait to be archived, the oldest for 00:2\d:", detail) and "hangs" in hint
        changed(db, "_health_11_wal", r"\(now\(\) \+ interval '20 minutes'\)", "now()")
        switch_wal(db, 3)
        assert health(db)["wal_archiving"][0] == "warning"
        switch_wal(db, 6)
        assert health(db)["wal_archiving"][0] == "critical"
        cluster.run("touch", cluster.folder / "goes-on")
        wait_for(lambda: health(db)["wal_archiving"][0] == "ok", 60)


# A clock that was wrong ----------------------------------------------------------------------------------------------------------------


def test_backups_of_a_time_to_come(db):
    """A board without a battery starts at any time; what it wrote down then must not hide that backups are missing."""
    replaced_files = "SELECT NULL::text AS name, 0::bigint AS size, NULL::timestamptz AS modification WHERE false"
    changed(db, "_health_12_backup", r"pg_ls_waldir\(\) w", f"({replaced_files}) w")
    db.sql("INSERT INTO pgedge.backups VALUES (now() + interval '30 years', 'dump')")
    status, detail, hint = health(db)["backup_age"]
    assert (status, detail) == ("warning", "no backup known; 1 are recorded in the future, so the clock was wrong then or is now")
    assert "record_backup" in hint and "DELETE FROM pgedge.backups WHERE finished_at > CURRENT_TIMESTAMP;" in hint
    db.sql("INSERT INTO pgedge.backups SELECT now() + i * interval '1 day', 'dump' FROM generate_series(1, 150) i")
    db.sql("SELECT pgedge.record_backup('dump')")
    status, detail, _ = health(db)["backup_age"]
    assert (status, detail) == ("warning", "the last backup known is 00:00:00 old; 151 are recorded in the future, so the clock was wrong then or is now")
    db.sql("DELETE FROM pgedge.backups WHERE finished_at > now()")
    assert health(db)["backup_age"] == ("ok", "the last backup known is 00:00:00 old", None)


def test_positions_of_a_time_to_come_are_noted_anew(db):
    db.sql("SELECT nextval('claude_events_id_seq')")
    health(db)
    place = "SELECT seen_at BETWEEN now() - interval '1 minute' AND now() FROM pgedge.sequence_positions WHERE sequence_oid = 'claude_events_id_seq'::regclass"
    assert db.value(place)
    for wrong in ("30 years", "-30 years"):
        db.sql("UPDATE pgedge.sequence_positions SET seen_at = now() + %s::interval", [wrong])
        assert health(db)["sequences"][0] == "ok"
        assert db.value(place), wrong


# The machine ---------------------------------------------------------------------------------------------------------------------------


def test_disk_space_of_a_tablespace(cluster, db):
    """It may be on another disk than the data directory."""
    folder = cluster.folder / "a place"
    cluster.run("mkdir", folder)
    db.sql(f"CREATE TABLESPACE elsewhere LOCATION '{folder}'")
    try:
        assert f"tablespace {folder}" in health(db)["disk_space"][1]
        assert db.sql("SELECT total_bytes > 0 FROM pgedge._disk_space() WHERE place = %s", [f"tablespace {folder}"]) == [(True,)]
    finally:
        db.sql("DROP TABLESPACE elsewhere")


def test_a_machine_that_shows_nothing(db):
    """No /proc, no /sys, no /dev/shm, as in some sandboxes: the lines that say so, and no other."""
    replaced(db, "_host", "SELECT NULL::bigint, NULL::text, 1, 'ssd'::text, NULL::text")
    replaced(db, "device_temperature", "SELECT ''::text, 0::real WHERE false")
    replaced(db, "_disk_space", "SELECT 'data directory'::text, 0::bigint, 0::bigint, 1::bigint")
    got = health(db)
    assert got["temperature"] == ("ok", "this machine shows no temperature", None) and got["settings"][0] == "ok" and "shared_memory" not in got
    assert got["disk_space"] == ("ok", "data directory: 0 bytes of 0 bytes free", None)


def test_huge_numbers(db):
    """What 64 bits hold, in every place that a server gives numbers: no check overflows."""
    big = (1 << 63) - 1
    db.sql("CREATE SEQUENCE endless MAXVALUE %d" % big)
    db.sql("SELECT setval('endless', %s)", [big])
    db.sql("CREATE SEQUENCE downhill INCREMENT -1")
    replaced(db, "_disk_space", f"SELECT p, {big}::bigint, {big - 1}::bigint, {big}::bigint FROM unnest('{{data directory,pg_wal,/dev/shm}}'::text[]) p")
    replaced(db, "_host", f"SELECT {big // 4}::bigint, 'x'::text, 4, 'ssd'::text, NULL::text")
    db.sql("INSERT INTO pgedge.sequence_positions SELECT s.seqrelid, 0, now() - interval '29 days' FROM pg_sequence s ON CONFLICT (sequence_oid) DO UPDATE SET reached = 0, seen_at = excluded.seen_at")
    with db.connect() as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("UPDATE pg_class SET reltuples = 1e18 WHERE relname IN ('vectors', 'claude_events')")
    got = lines(db)
    failed = {name: line for name, line in got.items() if "could not" in line[1]}
    assert failed == {}
    assert got["sequences"][0] == "critical" and f"endless stands at {big} of {big} (100.0 %)" in got["sequences"][1]


def test_two_at_a_time(db):
    """Many look at once while tables come and go: every call gives every line."""
    whole = set(lines(db))
    problems: list[str] = []
    stop = threading.Event()

    def look() -> None:
        with db.connect() as conn:
            while not stop.is_set():
                got = {r[0]: r[1:] for r in conn.execute("SELECT * FROM pgedge.health()")}
                problems.extend(f"{name}: {line}" for name, line in got.items() if "could not" in line[1])
                if set(got) != whole:
                    problems.append(str(set(got) ^ whole))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for t in threads:
        t.start()
    with db.connect() as conn:
        for i in range(60):
            conn.execute(f"CREATE TABLE t{i} (id serial, v vector(3)); CREATE INDEX i{i} ON t{i} USING ivfflat (v vector_l2_ops) WITH (lists = 1)")
            conn.execute(f"DROP TABLE t{i}")
    stop.set()
    for t in threads:
        t.join()
    assert problems == []
    assert db.value(f"SELECT count(*) FROM pg_proc WHERE {OF_PGEDGE}", ["health"]) == 1
