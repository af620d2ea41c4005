"""Operations: views, health(), recommended settings, roles. Every line of health() that can be provoked is provoked."""
from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest

from cluster import Cluster
from conftest import Database, create_database
from support import fails, start_standby

VIEWS = {
    "database_size": ["db_size"],
    "table_sizes": ["schemaname", "tablename", "size"],
    "index_usage": ["schemaname", "tablename", "indexname", "idx_scan", "idx_tup_read", "idx_tup_fetch"],
    "connections": ["active_connections", "state", "application_name"],
    "blocking": ["pid", "state", "query", "query_start"],
    "slow_queries": ["query", "calls", "total_time", "mean_time", "rows"],
}
VECTOR = "array_fill(0.1, ARRAY[384])::vector"


def health(db: Database, user: str = "postgres") -> dict[str, tuple[str, str, str | None]]:
    """The lines of health() by name; of several lines of one name the worst."""
    worst = {"ok": 0, "warning": 1, "critical": 2}
    lines: dict[str, tuple[str, str, str | None]] = {}
    for name, status, detail, hint in db.sql("SELECT * FROM pgedge.health()", user=user):
        assert status in worst and name and detail, (name, status, detail)
        assert status == "ok" or hint, f"{name} is {status} without a hint"
        assert "could not be checked" not in detail, (name, detail)
        if name not in lines or worst[status] > worst[lines[name][0]]:
            lines[name] = (status, detail, hint)
    return lines


def role(db: Database, name: str, *statements: str) -> str:
    """A login role of this test's database."""
    name = f"{name}_{db.name}"
    db.sql(f'CREATE ROLE "{name}" LOGIN')
    for s in statements:
        db.sql(s.format(role=f'"{name}"'))
    return name


def drop_role(db: Database, name: str) -> None:
    db.sql(f'DROP OWNED BY "{name}"')
    db.sql(f'DROP ROLE "{name}"')


@pytest.fixture
def monitor(db):
    name = role(db, "monitor", "GRANT pg_monitor TO {role}")
    yield name
    drop_role(db, name)


@pytest.fixture(scope="module")
def box(cluster):
    """One database for the tests that change nothing but roles."""
    database = create_database(cluster)
    yield database
    cluster.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')


# Views ---------------------------------------------------------------------------------------------------------------------------------


def test_views_have_the_specified_columns_and_pg_monitor_reads_them(db, monitor):
    with db.connect(monitor) as conn:
        for view, columns in VIEWS.items():
            conn.execute(f"SELECT {', '.join(columns)} FROM pgedge.{view}")
        assert conn.execute("SELECT count(*) FROM pgedge.index_usage WHERE tablename = 'vectors'").fetchone()[0] == 6
        assert {r[0] for r in conn.execute("SELECT tablename FROM pgedge.table_sizes WHERE schemaname = 'public'")} == {"vectors", "analytics_results", "aggregated_logs", "claude_events"}
        # Nothing of the users' rows.
        fails_without_hint(conn, "SELECT * FROM claude_events")


def fails_without_hint(conn: psycopg.Connection, query: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(query)


def test_views_are_not_for_everyone(box):
    name = role(box, "nobody")
    with box.connect(name) as conn:
        for view in VIEWS:
            fails_without_hint(conn, f"SELECT * FROM pgedge.{view}")
        for call in ("health()", "recommended_settings()", "record_backup('dump')", f"grant_reader('{name}')", f"grant_service('{name}', 'vectors')",
                     "create_tables()", "_sequences()", "_observe()", "_device_temperature('/')", "_host()", "_disk_space()"):
            fails_without_hint(conn, f"SELECT * FROM pgedge.{call}")
        conn.execute("SELECT * FROM pgedge.device_temperature()")
    drop_role(box, name)


def test_blocking_names_both_sides(box):
    with box.connect(autocommit=False) as holder, box.connect() as waiter, box.connect() as watcher:
        holder.execute("LOCK TABLE vectors")
        pid = holder.info.backend_pid
        thread = threading.Thread(target=waiter.execute, args=["SELECT count(*) FROM vectors"])
        thread.start()
        blocking = lambda: watcher.execute("SELECT pid, state, blocked_pid, blocked_relation = 'vectors'::regclass, blocked_query FROM pgedge.blocking").fetchall()  # noqa: E731
        wait_for(blocking)
        assert blocking() == [(pid, "idle in transaction", waiter.info.backend_pid, True, "SELECT count(*) FROM vectors")]
        holder.rollback()
        thread.join()
        assert blocking() == []


def test_slow_queries_follow_pg_stat_statements(db):
    """Empty without it, and not an error when it is created but not preloaded, as on this server."""
    assert db.sql("SELECT * FROM pgedge.slow_queries") == []
    assert health(db)["pg_stat_statements"][0] == "warning"
    if not db.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'"):
        pytest.skip("pg_stat_statements is not installed: only its absence was tested")
    db.sql("CREATE SCHEMA elsewhere; CREATE EXTENSION pg_stat_statements SCHEMA elsewhere")
    assert db.sql("SELECT * FROM pgedge.slow_queries") == []
    status, detail, hint = health(db)["pg_stat_statements"]
    assert status == "warning" and "not preloaded" in detail and "shared_preload_libraries" in hint


# health() ------------------------------------------------------------------------------------------------------------------------------


def test_a_new_database_is_well(db, monitor):
    lines = health(db)
    not_ok = {name for name, line in lines.items() if line[0] != "ok"}
    # What a new database on a machine like this may lack.
    assert not_ok <= {"pgvector_version", "pg_net", "pg_stat_statements", "backup_age", "disk_space", "temperature", "throttling", "shared_memory"}
    assert {name: line[0] for name, line in health(db, monitor).items()} == {name: line[0] for name, line in lines.items()}
    assert len(lines) >= 27


def test_missing_tables_columns_and_indexes(db):
    db.sql("DROP INDEX idx_vectors_source")
    assert health(db)["tables"] == ("warning", "missing: index idx_vectors_source on vectors (source)", "SELECT pgedge.create_tables();")
    db.sql("DROP INDEX vectors_embedding_idx")
    lines = health(db)
    assert lines["hnsw_index"][0] == "warning" and "no HNSW" in lines["hnsw_index"][1]
    db.sql("ALTER TABLE vectors DROP COLUMN content")
    assert "column vectors.content" in health(db)["tables"][1]
    db.sql("DROP TABLE claude_events")
    status, detail, _ = health(db)["tables"]
    assert status == "critical" and detail.startswith("missing: table claude_events")
    db.sql("SELECT pgedge.create_tables()")
    assert health(db)["tables"][0] == "ok"


def test_ivfflat_built_on_too_little_data(db, monitor):
    """Told from the index's file: built empty, then rebuilt on data."""
    index = db.value("SELECT indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam WHERE amname = 'ivfflat'")
    assert db.value("SELECT rows FROM pgedge.index_builds WHERE index_oid = %s::regclass", [index]) == 0
    assert health(db)["ivfflat_training"][0] == "ok"
    with db.connect() as conn:
        conn.execute("DROP INDEX vectors_embedding_idx")  # the HNSW index, slow to fill
        conn.execute(f"INSERT INTO vectors (embedding) SELECT (ARRAY(SELECT random() + 0 * i FROM generate_series(1, 384)))::vector FROM generate_series(1, 1200) i")
        conn.execute("SELECT pg_stat_force_next_flush()")
        conn.execute("ANALYZE vectors")
    status, detail, hint = health(db, monitor)["ivfflat_training"]
    assert status == "warning" and "built on 0 rows, now about 1200" in detail
    assert hint == f"REINDEX INDEX CONCURRENTLY {index};" or hint == f"REINDEX INDEX CONCURRENTLY public.{index};"
    with db.connect() as conn:
        conn.execute(hint)
    status, detail, _ = health(db)["ivfflat_training"]
    assert status == "ok" and "built on 1200 rows" in detail
    db.sql("TRUNCATE vectors")
    assert health(db)["ivfflat_training"][0] == "ok"
    assert db.value("SELECT rows FROM pgedge.index_builds") == 0


def test_sequences_near_their_end(db, monitor):
    db.sql("SELECT setval('claude_events_id_seq', 1200000000)")
    status, detail, hint = health(db, monitor)["sequences"]
    assert status == "warning" and "claude_events_id_seq stands at 1200000000 of 2147483647 (55.9 %)" in detail
    db.sql("SELECT setval('claude_events_id_seq', 2100000000)")
    status, detail, hint = health(db, monitor)["sequences"]
    assert status == "critical"
    for statement in hint.split(";")[:2]:
        db.sql(statement)
    assert db.value("SELECT nextval('claude_events_id_seq')") == 2100000001
    assert health(db)["sequences"][0] == "ok"


def test_sequences_that_run_fast(db):
    """At 1,000,000 a day the end of INTEGER is less than a year away once a fifth of it is used."""
    db.sql("SELECT setval('aggregated_logs_id_seq', 1900000000)")
    health(db)
    db.sql("UPDATE pgedge.sequence_positions SET reached = 1889900000, seen_at = now() - interval '1 day' WHERE sequence_oid = 'aggregated_logs_id_seq'::regclass")
    status, detail, _ = health(db)["sequences"]
    assert status == "critical" and "at its present pace it ends about" in detail


def test_vacuum_lines(db):
    with db.connect() as conn:
        conn.execute("CREATE TABLE churn (x int) WITH (autovacuum_enabled = off)")
        conn.execute("INSERT INTO churn SELECT generate_series(1, 30000)")
        conn.execute("UPDATE churn SET x = 0")
        conn.execute("SELECT pg_stat_force_next_flush()")
        conn.execute("SELECT 1")
    lines = health(db)
    assert lines["dead_tuples"][0] == "warning" and "churn: 30000 dead" in lines["dead_tuples"][1]
    assert lines["statistics"][0] == "warning" and "churn" in lines["statistics"][1]
    with db.connect() as conn:
        conn.execute("VACUUM ANALYZE churn")
    lines = health(db)
    assert lines["dead_tuples"][0] == "ok" and lines["statistics"][0] == "ok"


def test_invalid_index(db):
    with db.connect() as conn:
        conn.execute("CREATE TABLE twice (x int); INSERT INTO twice VALUES (1), (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (x)")
    status, detail, hint = health(db)["invalid_indexes"]
    assert status == "warning" and "broken" in detail and hint.startswith("REINDEX INDEX CONCURRENTLY")


def test_toasted_vectors(db):
    assert health(db)["toasted_vectors"][0] == "ok"
    with db.connect() as conn:
        conn.execute("CREATE TABLE wide (embedding vector(384), content text)")
        # Together beyond 2 kB, so PostgreSQL moves the larger value out.
        conn.execute(f"INSERT INTO wide SELECT {VECTOR}, (SELECT string_agg(md5((i * 100 + n)::text), '') FROM generate_series(1, 25) n) FROM generate_series(1, 1500) i")
        conn.execute("ANALYZE wide")
    status, detail, hint = health(db)["toasted_vectors"]
    assert status == "warning" and "wide.embedding" in detail
    with db.connect() as conn:
        for statement in hint.split(";")[:2]:
            conn.execute(statement)
        conn.execute("ANALYZE wide")
        # The remedy must not close the table to rows that do not fit in a page.
        conn.execute("ALTER TABLE wide ALTER COLUMN content SET STORAGE PLAIN")
        conn.execute("INSERT INTO wide SELECT array_agg(n)::vector, repeat('x', 7000) FROM generate_series(1, 384) n")
    assert health(db)["toasted_vectors"][0] == "ok"


def test_event_lines(db, monitor):
    db.sql("INSERT INTO claude_events (event_type, payload, created_at) VALUES ('a', '{}', now() - interval '2 hours')")
    db.sql("INSERT INTO claude_events (event_type, payload, status) VALUES ('a', '{}', 'dead')")
    db.sql("INSERT INTO claude_events (event_type, payload) VALUES ('b', '{}')")
    db.sql("SELECT FROM pgedge.claim_events(1, '1 microsecond', '{b}')")
    lines = health(db, monitor)
    assert lines["oldest_ready_event"][0] == "warning" and "1 events are ready, the oldest for 02:00" in lines["oldest_ready_event"][1]
    assert lines["dead_events"][:2] == ("warning", "1 events failed for good")
    assert lines["expired_leases"][0] == "warning"


def test_backup_age(db, monitor):
    if db.value("SELECT count(*) FROM pg_ls_waldir() WHERE name LIKE '%.backup'") == 0:
        assert health(db)["backup_age"][:2] == ("warning", "no backup known")
    db.sql("SELECT pgedge.record_backup('dump', '/backup/2031-01-01.sql.gz')")
    assert health(db, monitor)["backup_age"][0] == "ok"
    db.sql("UPDATE pgedge.backups SET finished_at = finished_at - interval '3 days'")
    assert health(db)["backup_age"][0] in ("warning", "ok")
    db.sql("INSERT INTO pgedge.backups SELECT now() - i * interval '1 minute', 'base' FROM generate_series(1, 300) i")
    db.sql("SELECT pgedge.record_backup('base')")
    assert db.value("SELECT count(*) FROM pgedge.backups") == 100
    with db.connect() as conn:
        fails(conn, "22023", "SELECT pgedge.record_backup('tape')")
        fails(conn, "22023", "SELECT pgedge.record_backup(NULL)")


def test_health_never_waits_and_never_writes_in_vain(db):
    """Another session's uncommitted look does not block, a read-only transaction is served, and a second look writes nothing."""
    health(db)
    with db.connect(autocommit=False) as other:
        db.sql("DROP INDEX vectors_embedding_idx1")
        db.sql("CREATE INDEX ON vectors USING ivfflat (embedding vector_l2_ops) WITH (lists = 100)")
        other.execute("SELECT count(*) FROM pgedge.health()")
        with db.connect() as conn:
            conn.execute("SET lock_timeout = '1s'")
            assert conn.execute("SELECT count(*) FROM pgedge.health() WHERE detail LIKE '%could not%'").fetchone()[0] == 0
            conn.execute("SET default_transaction_read_only = on")
            assert conn.execute("SELECT count(*) FROM pgedge.health() WHERE detail LIKE '%could not%'").fetchone()[0] == 0
        other.commit()
    with db.connect(autocommit=False) as conn:
        conn.execute("SELECT count(*) FROM pgedge.health()")
        assert conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()[0] is None


def test_health_under_a_hostile_search_path(db):
    with db.connect() as conn:
        conn.execute("CREATE SCHEMA evil; CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'")
        conn.execute("CREATE FUNCTION evil.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_format'; CREATE TEMP TABLE pg_class (oid oid)")
        conn.execute("SET search_path = evil, pg_temp, pg_catalog")
        assert conn.execute("SELECT count(*) FROM pgedge.health() WHERE detail LIKE '%could not%'").fetchone()[0] == 0
        conn.execute("SELECT * FROM pgedge.table_sizes; SELECT * FROM pgedge.index_usage; SELECT * FROM pgedge.connections")


SETTINGS_OF_A_BAD_SERVER = {
    "fsync": "off", "synchronous_commit": "off", "autovacuum": "off", "archive_mode": "on", "archive_command": "false", "max_connections": "12",
    "superuser_reserved_connections": "3", "max_wal_size": "32MB", "min_wal_size": "32MB", "max_prepared_transactions": "2",
}


def test_a_bad_server_and_its_standby(monkeypatch):
    """What concerns the whole server: settings, archiving, slots, connections, prepared transactions; and the same on a standby."""
    with Cluster(SETTINGS_OF_A_BAD_SERVER) as cluster:
        db = create_database(cluster)
        monitor = role(db, "monitor", "GRANT pg_monitor TO {role}")
        db.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")
        with db.connect(autocommit=False) as conn:
            conn.execute("CREATE TABLE unfinished ()")
            conn.execute("PREPARE TRANSACTION 'half'")
        for _ in range(4):  # 16 MB each
            db.sql("SELECT pg_logical_emit_message(false, '', '')")
            db.sql("SELECT pg_switch_wal()")
        sessions = [db.connect() for _ in range(7)]
        wait_for(lambda: health(db)["wal_archiving"][0] == "critical")
        lines = health(db, monitor)
        assert lines["settings"][0] == "critical"
        for name in ("fsync = off", "synchronous_commit = off", "autovacuum = off"):
            assert name in lines["settings"][1] and f"ALTER SYSTEM SET {name.split()[0]} = on" in lines["settings"][2]
        assert lines["replication_slots"][0] == "warning" and "pg_drop_replication_slot('forgotten')" in lines["replication_slots"][2]
        assert lines["connections"][:2] == ("warning", "8 of 9 connections in use")
        assert lines["long_transactions"][0] == "ok"
        for s in sessions:
            s.close()

        standby = start_standby(cluster)
        try:
            there = Database(standby, db.name)
            wait_for(lambda: there.value("SELECT pg_is_in_recovery()"))
            status = {name: line[0] for name, line in health(there, monitor).items()}
            assert status["tables"] == "ok" and status["settings"] == "critical" and "sequences" in status and "ivfflat_training" in status
            with there.connect(monitor) as conn:
                for view, columns in VIEWS.items():
                    conn.execute(f"SELECT {', '.join(columns)} FROM pgedge.{view}")
                conn.execute("SELECT * FROM pgedge.recommended_settings()")
        finally:
            standby.destroy()


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


# Machine and settings ------------------------------------------------------------------------------------------------------------------


def test_temperature_is_read_from_the_kernel(box):
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        for n, (kind, temp) in enumerate([("cpu-thermal", "48750"), ("nvme", "39000")]):
            zone = folder / f"sys/class/thermal/thermal_zone{n}"
            zone.mkdir(parents=True)
            (zone / "type").write_text(kind + "\n")
            (zone / "temp").write_text(temp + "\n")
        assert box.sql("SELECT zone, celsius FROM pgedge._device_temperature(%s)", [str(folder)]) == [("cpu-thermal", 48.75), ("nvme", 39.0)]
    finally:
        shutil.rmtree(folder)
    assert box.sql("SELECT * FROM pgedge._device_temperature('/no/such/place')") == []
    assert box.sql("SELECT * FROM pgedge._device_temperature(NULL)") == []
    zones = box.sql("SELECT zone, celsius FROM pgedge.device_temperature()")
    if not Path("/sys/class/thermal/thermal_zone0").exists():
        assert zones == []
    for _, celsius in zones:
        assert -60 < celsius < 150


SPECIFIED = {
    "shared_buffers": "512MB", "effective_cache_size": "2GB", "work_mem": "16MB", "maintenance_work_mem": "128MB", "max_connections": "100",
    "log_min_duration_statement": "1000", "log_statement": "ddl", "logging_collector": "on", "log_directory": "pg_log", "checkpoint_timeout": "5min",
    "max_wal_size": "1GB", "min_wal_size": "80MB", "wal_compression": "on", "random_page_cost": "1.1", "effective_io_concurrency": "200",
}


def recommended(db: Database, *args) -> dict[str, str]:
    rows = db.sql("SELECT name, recommended, reason FROM pgedge.recommended_settings(%s, %s, %s)", (list(args) + [None] * 3)[:3])
    assert all(reason for _, _, reason in rows)
    return {name: value for name, value, _ in rows}


def test_recommended_settings(box):
    got = recommended(box, "2GB", 4, "ssd")
    assert {name: got[name] for name in SPECIFIED} == SPECIFIED
    assert recommended(box, " 2 gib", 4, "NVMe") == got == recommended(box, "2147483648", 4, "SSD")
    small = recommended(box, "512MB", 2, "sd")
    assert small["shared_buffers"] == "128MB" and small["work_mem"] == "4MB" and small["checkpoint_timeout"] == "15min" and small["synchronous_commit"] == "on"
    assert recommended(box, "8GB", 4, "hdd")["random_page_cost"] == "4"
    # Detected: whatever it is, PostgreSQL takes every value.
    with box.connect() as conn:
        for name, value in recommended(box).items():
            context, kind = conn.execute("SELECT context, vartype FROM pg_settings WHERE name = %s", [name]).fetchone()
            if name != "shared_preload_libraries":
                conn.execute(f"ALTER SYSTEM SET {name} = '{value}'")
                conn.execute(f"ALTER SYSTEM RESET {name}")
    current = dict(box.sql("SELECT name, current FROM pgedge.recommended_settings()"))
    assert current["shared_buffers"] == "256MB"


def test_recommended_settings_refuse_nonsense(box):
    with box.connect() as conn:
        for bad in ("2XB", "-2GB", "", "1kB", "lots", "NaN", "99999999TB", "9" * 400):
            error = fails(conn, "22023", "SELECT pgedge.recommended_settings(%s)", [bad])
            assert bad in str(error)
        for bad in (0, -1, 100000):
            assert str(bad) in str(fails(conn, "22023", "SELECT pgedge.recommended_settings(cpus => %s)", [bad]))
        assert "tape" in str(fails(conn, "22023", "SELECT pgedge.recommended_settings(storage => 'tape')"))
