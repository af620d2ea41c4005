"""health() line by line: what each warns of is brought about, seen, mended by the statement of its hint, and gone.

Time is not waited for: a check's function is created again, in the test's own database, with its clock moved on (`later`). The machine is
another one below a folder that looks like /sys, or by a function that tells of one (`replaced`)."""
from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cluster import Cluster
from conftest import Database, create_database
from test_ops import VECTOR, drop_role, health, role, wait_for

OF_PGEDGE = "pronamespace = 'pgedge'::regnamespace AND proname = %s"


def changed(db: Database, function: str, pattern: str, by: str) -> None:
    """Creates a function of pgedge again with another text in place of each match of a pattern."""
    source = db.value(f"SELECT pg_get_functiondef(oid) FROM pg_proc WHERE {OF_PGEDGE}", [function])
    text, count = re.subn(pattern, by, source)
    assert count, f"{function} has no {pattern}"
    db.sql(text)


def later(db: Database, function: str, by: str) -> None:
    """Lets a check see what is there now as it will see it after some time."""
    changed(db, function, r"\b(clock_timestamp|now)\(\)", rf"(\1() + interval '{by}')")


def replaced(db: Database, function: str, rows: str) -> None:
    """Lets a function of pgedge return these rows."""
    signature, result = db.sql(f"SELECT pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc WHERE {OF_PGEDGE}", [function])[0]
    db.sql(f"CREATE OR REPLACE FUNCTION pgedge.{function}({signature}) RETURNS {result} LANGUAGE sql AS $$ {rows} $$")


def follow(db: Database, hint: str) -> None:
    """Runs the statements of a hint, each by itself, and leaves out its prose."""
    for statement in re.findall(r"(?:SELECT|ROLLBACK|ALTER|VACUUM|REINDEX|CREATE) [^;]*;", hint):
        db.sql(statement)


@pytest.fixture(scope="module")
def server():
    """A small server whose archiving can be broken, with few connections and little room for WAL."""
    cluster = Cluster({"max_connections": "12", "superuser_reserved_connections": "3", "max_prepared_transactions": "4", "max_wal_size": "32MB", "min_wal_size": "32MB",
                       "archive_mode": "on", "autovacuum": "off", "wal_level": "replica"})
    cluster.settings["archive_command"] = f"test ! -e {cluster.folder}/broken"
    with cluster:
        yield cluster


@pytest.fixture
def there(server):
    """A database on that server."""
    database = create_database(server)
    yield database
    server.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')


def switch_wal(db: Database, segments: int) -> None:
    """Fills segments of 16 MB, as far as their number goes."""
    with db.connect() as conn:
        for _ in range(segments):
            conn.execute("SELECT pg_logical_emit_message(false, '', '')")
            conn.execute("SELECT pg_switch_wal()")


# Sessions ------------------------------------------------------------------------------------------------------------------------------


def test_long_transactions(there):
    """One that wrote, one that only holds a snapshot, and a prepared one; an idle session holds nothing."""
    there.sql("CREATE TABLE x (y int)")
    monitor = role(there, "monitor", "GRANT pg_monitor TO {role}")
    with there.connect(autocommit=False) as conn:
        conn.execute("INSERT INTO x VALUES (1)")
        conn.execute("PREPARE TRANSACTION 'half done'")
    with closing(there.connect(autocommit=False)) as writer, closing(there.connect(autocommit=False)) as reader, there.connect():
        writer.execute("INSERT INTO x VALUES (2)")
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT * FROM x")
        assert health(there, monitor)["long_transactions"] == ("ok", "none longer than 15 minutes", None)
        later(there, "_health_09_sessions", "20 minutes")
        status, detail, hint = health(there, monitor)["long_transactions"]
        assert status == "warning" and "cannot remove" in detail and detail.count(" for 00:20:") == 3
        assert f"process {writer.info.backend_pid} (postgres, idle in transaction) for 00:20:" in detail and f"process {reader.info.backend_pid} " in detail
        assert f"prepared transaction 'half done' in {there.name} for 00:20:" in detail
        later(there, "_health_09_sessions", "4 hours")
        assert health(there)["long_transactions"][0] == "critical"
        follow(there, hint)
        assert health(there)["long_transactions"][0] == "ok"
        with pytest.raises(psycopg.OperationalError):
            writer.execute("SELECT 1")
    drop_role(there, monitor)


def test_connections(there):
    """8 of the 9 that users may have, and the last one."""
    sessions = [there.connect() for _ in range(6)]
    assert health(there)["connections"][:2] == ("ok", "7 of 9 connections in use")
    sessions.append(there.connect())
    status, detail, hint = health(there)["connections"]
    assert (status, detail) == ("warning", "8 of 9 connections in use") and "pgedge.connections" in hint
    sessions.append(there.connect())
    assert health(there)["connections"][:2] == ("critical", "9 of 9 connections in use")
    for s in sessions:
        s.close()
    wait_for(lambda: health(there)["connections"][0] == "ok")


def test_blocked_sessions(db):
    with closing(db.connect(autocommit=False)) as holder, db.connect() as waiter:
        holder.execute("LOCK TABLE vectors")
        thread = threading.Thread(target=waiter.execute, args=["SELECT count(*) FROM vectors"])
        thread.start()
        wait_for(lambda: health(db)["blocked_sessions"][1].startswith("1 waiting"))
        assert health(db)["blocked_sessions"][0] == "ok"
        definition = db.value("SELECT pg_get_viewdef('pgedge.blocking'::regclass)")
        db.sql("CREATE OR REPLACE VIEW pgedge.blocking AS " + definition.replace("now()", "(now() + interval '7 minutes')"))
        status, detail, hint = health(db)["blocked_sessions"]
        assert status == "warning" and re.fullmatch(r"1 waiting for a lock, the longest for 00:07:\d\d", detail) and "pg_terminate_backend(pid)" in hint
        assert db.value("SELECT pg_terminate_backend(pid) FROM pgedge.blocking")
        thread.join()
        assert health(db)["blocked_sessions"][:2] == ("ok", "none")


# WAL, archive, backups -----------------------------------------------------------------------------------------------------------------


def test_a_forgotten_replication_slot(there):
    """Holds more than max_wal_size, then four times as much, then has lost what it needs; and goes by the hint."""
    assert health(there)["replication_slots"] == ("ok", "0 slots, none holds much WAL", None)
    there.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")
    assert health(there)["replication_slots"][:2] == ("ok", "1 slots, none holds much WAL")
    switch_wal(there, 4)
    status, detail, hint = health(there)["replication_slots"]
    assert status == "warning" and re.match(r"slot forgotten \(inactive, \w+\) holds \d+ MB of WAL", detail) and hint == "SELECT pg_drop_replication_slot('forgotten'); if nobody needs it."
    switch_wal(there, 6)
    assert health(there)["replication_slots"][0] == "critical"
    there.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '48MB'")
    there.sql("SELECT pg_reload_conf()")
    wait_for(lambda: there.value("SHOW max_slot_wal_keep_size") == "48MB")
    there.sql("CHECKPOINT")
    status, detail, hint = health(there)["replication_slots"]
    assert (status, detail) == ("critical", "slot forgotten (inactive, lost) has lost WAL that its consumer needs")
    follow(there, hint)
    assert health(there)["replication_slots"][0] == "ok"
    there.sql("ALTER SYSTEM RESET max_slot_wal_keep_size")
    there.sql("SELECT pg_reload_conf()")


def test_a_consumer_of_wal_that_falls_behind(server, there):
    folder = server.folder / "received"
    server.run("mkdir", folder)
    there.sql("SELECT pg_create_physical_replication_slot('slow', true)")
    consumer = subprocess.Popen([server.bindir / "pg_receivewal", "-h", server.folder, "-p", str(server.port), "-U", "postgres", "-D", folder, "-S", "slow", "-s", "1"],
                                stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: there.value("SELECT active FROM pg_replication_slots"))
        consumer.send_signal(signal.SIGSTOP)
        switch_wal(there, 4)
        status, detail, hint = health(there)["replication_slots"]
        assert status == "warning" and "slot slow (active, " in detail and hint == "The consumer of slot slow falls behind."
        consumer.send_signal(signal.SIGCONT)
        wait_for(lambda: health(there)["replication_slots"][0] == "ok", 60)
    finally:
        consumer.kill()
        consumer.wait()
        wait_for(lambda: not there.value("SELECT active FROM pg_replication_slots"))
        there.sql("SELECT pg_drop_replication_slot('slow')")


def test_archiving_that_fails(server, there):
    switch_wal(there, 1)
    wait_for(lambda: "archived" in health(there)["wal_archiving"][1])
    assert health(there)["wal_archiving"][0] == "ok"
    (server.folder / "broken").touch()
    switch_wal(there, 1)
    wait_for(lambda: health(there)["wal_archiving"][0] == "critical")
    _, detail, hint = health(there)["wal_archiving"]
    assert re.match(r"[0-9A-F]{24} failed .*, \d+ failures in all; pg_wal grows", detail) and "server log" in hint
    (server.folder / "broken").unlink()

    def works_again():
        # The archiver rests for a minute after three failures; a new segment wakes it.
        switch_wal(there, 1)
        return health(there)["wal_archiving"][0] == "ok"

    wait_for(works_again, 90)


@pytest.mark.parametrize("archiving, warned, alarmed", [(False, "37 hours", "145 hours"), (True, "193 hours", "769 hours")], ids=["dumps", "archiving"])
def test_the_age_of_the_last_backup(server, cluster, archiving, warned, alarmed):
    """36 hours for dumps and 8 days with an archive; critical at four times as much."""
    db = create_database(server if archiving else cluster)
    assert db.value("SELECT count(*) FROM pg_ls_waldir() WHERE name LIKE '%.backup'") == 0, "another test made a base backup of this server"
    assert health(db)["backup_age"][:2] == ("warning", "no backup known")
    db.sql("SELECT pgedge.record_backup('dump', '/backup/last.sql.gz')")
    assert health(db)["backup_age"] == ("ok", "the last backup known is 00:00:00 old", None)
    later(db, "_health_12_backup", warned)
    status, detail, hint = health(db)["backup_age"]
    assert status == "warning" and " old" in detail and "pgedge.record_backup" in hint
    source = db.value(f"SELECT prosrc FROM pg_proc WHERE {OF_PGEDGE}", ["_health_12_backup"])
    assert warned in source
    changed(db, "_health_12_backup", warned, alarmed)
    assert health(db)["backup_age"][0] == "critical"
    db.cluster.psql(f'DROP DATABASE "{db.name}" WITH (FORCE)')


def test_a_base_backup_is_seen_without_being_told(server, there):
    """Last of those on this server, since the history file stays."""
    server.run(server.bindir / "pg_basebackup", "-h", server.folder, "-p", str(server.port), "-U", "postgres", "-D", server.folder / "base", "-c", "fast", "-X", "none",
               stderr=subprocess.DEVNULL)
    assert there.value("SELECT count(*) FROM pgedge.backups") == 0
    assert health(there)["backup_age"][0] == "ok"


# Tables and indexes --------------------------------------------------------------------------------------------------------------------


def test_an_hnsw_index_that_nothing_uses(db):
    """Told from statistics, so those of a large table are put there; rows are not needed."""
    with db.connect() as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("UPDATE pg_class SET reltuples = 20000 WHERE oid = 'vectors'::regclass")
        for _ in range(101):
            conn.execute("SELECT count(*) FROM vectors WHERE content IS NULL")
        conn.execute("SELECT pg_stat_force_next_flush()")
    status, detail, hint = health(db)["hnsw_index"]
    assert status == "warning" and "vectors_embedding_idx: 0 scans over about 20000 rows" in detail and "ORDER BY embedding <=>" in hint
    with db.connect() as conn:
        conn.execute("SET enable_seqscan = off; SET enable_sort = off")
        conn.execute(f"SELECT id FROM vectors ORDER BY embedding <=> {VECTOR} LIMIT 3")
        conn.execute("SELECT pg_stat_force_next_flush()")
    assert health(db)["hnsw_index"][0] == "ok"


def test_an_ivfflat_index_that_its_table_outgrew(db):
    """Built on enough rows for its lists, then ten times as many."""
    with db.connect() as conn:
        conn.execute("CREATE TABLE grown (embedding vector(3)); INSERT INTO grown SELECT ARRAY[i, i % 7, 1]::vector FROM generate_series(1, 120) i")
        conn.execute("CREATE INDEX grown_index ON grown USING ivfflat (embedding vector_l2_ops) WITH (lists = 10)")
    line = lambda: next(r for r in db.sql("SELECT status, detail, hint FROM pgedge.health() WHERE check_name = 'ivfflat_training' AND detail LIKE '%grown_index: %'"))  # noqa: E731
    assert line()[0] == "ok" and "built on 120 rows" in line()[1]
    with db.connect() as conn:
        conn.execute("INSERT INTO grown SELECT ARRAY[i, i % 7, 1]::vector FROM generate_series(1, 1080) i")
        conn.execute("SELECT pg_stat_force_next_flush()")
        conn.execute("ANALYZE grown")
    status, detail, hint = line()
    assert status == "warning" and "built on 120 rows, now about 1200, lists = 10" in detail
    db.sql(hint)
    assert line()[0] == "ok" and "built on 1200 rows" in line()[1]


PGVECTOR = [
    ("0.8.0", "warning", "CVE-2026-3172"), ("0.8.1", "warning", "CVE-2026-3172"), ("0.8.2", "warning", "vacuum can damage"), ("0.8.3", "warning", "its objects in this database are of"),
    ("0.10.0", "warning", "its objects in this database are of"),
]


@pytest.mark.parametrize("version, status, words", PGVECTOR, ids=[v[0] for v in PGVECTOR])
def test_versions_of_pgvector(db, version, status, words):
    """With the installed files' version replaced, and its objects left at another one until they are updated too."""
    real = db.value("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    changed(db, "_health_02_pgvector", "pg_available_extensions a", f"(VALUES ('vector'::name, '{version}')) a(name, default_version)")
    with db.connect() as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    got = health(db)["pgvector_version"]
    assert got[0] == status and words in got[1] and "ALTER EXTENSION vector UPDATE" in got[2]
    with db.connect() as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", [version])
    safe = tuple(int(n) for n in version.split(".")) >= (0, 8, 3)
    assert health(db)["pgvector_version"][0] == ("ok" if safe else "warning")
    with db.connect() as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", [real])


def test_a_table_of_events_without_the_queues_columns(db):
    db.sql("ALTER TABLE claude_events DROP COLUMN run_at CASCADE")
    lines = health(db)
    assert lines["events"] == ("warning", "claude_events lacks the columns of the queue", "SELECT pgedge.create_tables();")
    follow(db, lines["events"][2])
    assert "events" not in health(db) and health(db)["oldest_ready_event"][0] == "ok"


def test_events_that_wait_for_days_and_what_helps(db):
    db.sql("INSERT INTO claude_events (event_type, payload, created_at) VALUES ('a', '{}', now() - interval '25 hours')")
    db.sql("SELECT pgedge.enqueue_event('b', '{}', max_attempts => 1)")
    event, token = db.sql("SELECT id, lease_token FROM pgedge.claim_events(1, event_types => '{b}')")[0]
    db.sql("SELECT pgedge.fail_events(ARRAY[%s], %s, 'no')", [event, token])
    db.sql("SELECT pgedge.enqueue_event('c', '{}')")
    db.sql("SELECT pgedge.claim_events(1, '0.05 seconds', '{c}')")
    wait_for(lambda: health(db)["expired_leases"][0] == "warning")
    lines = health(db)
    assert lines["oldest_ready_event"][0] == "critical" and "the oldest for 1 day 01:00:0" in lines["oldest_ready_event"][1]
    assert lines["dead_events"][:2] == ("warning", "1 events failed for good") and lines["expired_leases"][:2] == ("warning", "1 events whose consumer let its lease run out")
    follow(db, lines["dead_events"][2])
    db.sql("SELECT pgedge.complete_events(ARRAY[c.id], c.lease_token) FROM pgedge.claim_events(10) c")
    assert {health(db)[name][0] for name in ("oldest_ready_event", "dead_events", "expired_leases")} == {"ok"}


# health() itself -----------------------------------------------------------------------------------------------------------------------


def test_a_check_that_fails_says_so_and_the_rest_goes_on(db):
    whole = {r[0] for r in db.sql("SELECT check_name FROM pgedge.health()")}
    db.sql("ALTER TABLE pgedge.index_builds RENAME TO elsewhere")
    lines = {r[0]: r[1:] for r in db.sql("SELECT * FROM pgedge.health()")}
    assert lines["observations"][0] == "warning" and "index_builds" in lines["observations"][1] and "42P01" in lines["observations"][1]
    assert lines["ivfflat"][0] == "warning" and "could not be checked" in lines["ivfflat"][1] and lines["ivfflat"][2]
    assert set(lines) == whole - {"ivfflat_training"} | {"ivfflat", "observations"}
    db.sql("ALTER TABLE pgedge.elsewhere RENAME TO index_builds")
    assert {r[0] for r in db.sql("SELECT check_name FROM pgedge.health()")} == whole


def test_every_line_is_in_the_manual(db):
    """The table of docs/operations.md names each line, and no other."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    table = text[text.index("| check | warning"):].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    there = {r[0] for r in db.sql("SELECT check_name FROM pgedge.health()")} | {"shared_memory"}
    assert there == named


# The machine ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(db):
    """A folder that the checks of the machine take for /, in this database."""
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    changed(db, "_health_13_machine", r"pgedge\._throttling\('/'\)", f"pgedge._throttling('{root}')")
    changed(db, "_health_13_machine", r"pgedge\.device_temperature\(\)", f"pgedge._device_temperature('{root}')")
    yield root
    shutil.rmtree(root)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_temperature(db, machine):
    assert health(db)["temperature"] == ("ok", "this machine shows no temperature", None)
    write(machine, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(machine, "sys/class/thermal/thermal_zone1/type", "nvme\n")
    write(machine, "sys/class/thermal/thermal_zone1/temp", "39000\n")
    for millidegrees, status in (("48750", "ok"), ("74999", "ok"), ("75000", "warning"), ("84900", "warning"), ("85000", "critical")):
        write(machine, "sys/class/thermal/thermal_zone0/temp", millidegrees + "\n")
        got = health(db)["temperature"]
        assert got[0] == status and f"cpu-thermal {round(int(millidegrees) / 1000, 1)} °C" in got[1] and "nvme 39.0 °C" in got[1], got
        assert (got[2] is not None) == (status != "ok")


def test_throttling(db, machine):
    """The firmware's bits: low ones for now, 16 higher for since boot."""
    assert health(db)["throttling"] == ("ok", "no Raspberry Pi firmware to ask", None)
    for bits, status, detail, hint in (("0", "ok", "now: none; since boot: none", None), ("50000", "warning", "now: none; since boot: undervoltage, throttled", "5 A power supply"),
                                       ("20002", "critical", "now: frequency capped; since boot: frequency capped", "Cool it."),
                                       ("50005", "critical", "now: undervoltage, throttled; since boot: undervoltage, throttled", "5 A power supply"),
                                       ("80000", "warning", "now: none; since boot: soft temperature limit", "Cool it.")):
        write(machine, "sys/devices/platform/soc/soc:firmware/get_throttled", bits + "\n")
        got = health(db)["throttling"]
        assert got[:2] == (status, detail) and (got[2] or "").find(hint or "") >= 0 and (got[2] is None) == (hint is None), got


GB = 1 << 30


def test_disk_space(db):
    def disk(*places: str) -> tuple[str, str, str | None]:
        replaced(db, "_disk_space", " UNION ALL ".join(f"SELECT {p}" for p in places))
        return health(db)["disk_space"]

    data = "'data directory'::text, {}::bigint, {}::bigint, 1::bigint"
    wal = "'pg_wal'::text, {}::bigint, {}::bigint, {}::bigint"
    status, detail, hint = disk(data.format(100 * GB, 16 * GB), wal.format(100 * GB, 16 * GB, 1))
    assert (status, detail, hint) == ("ok", "data directory and pg_wal: 16 GB of 100 GB free", None)
    status, detail, hint = disk(data.format(100 * GB, 14 * GB))
    assert (status, detail) == ("warning", "data directory: 14 GB of 100 GB free") and "pgedge.table_sizes" in hint
    status, detail, hint = disk(data.format(100 * GB, 90 * GB), wal.format(10 * GB, GB // 4, 2))
    assert status == "critical" and "data directory: 90 GB of 100 GB free" in detail and "pg_wal: 256 MB of 10 GB free" in detail


def test_the_room_that_is_told_is_that_of_the_filesystem(db):
    there = {place: (total, free) for place, total, free, _ in db.sql("SELECT * FROM pgedge._disk_space()")}
    real = shutil.disk_usage(db.cluster.data)
    assert there["data directory"][0] == real.total and abs(there["data directory"][1] - real.free) < GB


def test_shared_memory(db):
    """Docker's 64 MB and the specification's maintenance_work_mem, by the server's own setting and then by the session's."""
    replaced(db, "_disk_space", f"SELECT 'data directory'::text, {100 * GB}::bigint, {50 * GB}::bigint, 1::bigint UNION ALL SELECT '/dev/shm', 67108864, 67108864, 2")
    assert health(db)["shared_memory"][0] == "ok"
    db.sql(f'ALTER DATABASE "{db.name}" SET maintenance_work_mem = \'128MB\'')
    status, detail, hint = health(db)["shared_memory"]
    assert (status, detail) == ("warning", "/dev/shm has 64 MB, an index build may ask for maintenance_work_mem = 128MB")
    assert "--shm-size=192m" in hint and "max_parallel_maintenance_workers = 0" in hint
    replaced(db, "_disk_space", f"SELECT 'data directory'::text, {100 * GB}::bigint, {50 * GB}::bigint, 1::bigint UNION ALL SELECT '/dev/shm', {192 << 20}, 67108864, 2")
    assert health(db)["shared_memory"][0] == "ok"


def test_pg_net_whose_worker_does_not_run(db):
    """An entry in the catalog stands for the extension, which is not installed here; with the real one: make test-image."""
    if db.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_net'"):
        pytest.skip("pg_net is installed here: make test-image tries it")
    status, detail, hint = health(db)["pg_net"]
    assert (status, detail) == ("warning", "not installed; webhooks need it") and "CREATE EXTENSION pg_net;" in hint
    changed(db, "_health_15_companions", r"EXISTS \(SELECT FROM pg_available_extensions a WHERE a\.name = n\.name\)", "true")
    assert health(db)["pg_net"][1] == "installed, but not created in this database; webhooks need it"
    with db.connect() as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) VALUES (999999, 'pg_net', 10, 'public'::regnamespace, false, '0.20.5')")
    status, detail, hint = health(db)["pg_net"]
    assert (status, detail) == ("warning", "created, but its worker does not run for this database; webhooks need it")
    assert "shared_preload_libraries" in hint and "pg_net.database_name" in hint


# Settings, storage, transaction ids -----------------------------------------------------------------------------------------------------


def test_settings_and_shared_memory_follow_the_session(db):
    """What a session sets counts as what the server has: no need to start one with dangerous settings."""
    with db.connect() as conn:
        conn.execute("SET work_mem = '1TB'; SET maintenance_work_mem = '2047GB'; SET zero_damaged_pages = on")
        lines = {r[0]: r[1:] for r in conn.execute("SELECT * FROM pgedge.health()")}
    status, detail, hint = lines["settings"]
    assert status == "critical" and "zero_damaged_pages = on" in detail and "work_mem = 1024 GB with 100 connections" in detail and "maintenance_work_mem = 2047 GB is more than a quarter" in detail
    assert "ALTER SYSTEM SET zero_damaged_pages = off" in hint and "recommended_settings()" in hint
    if "shared_memory" in lines:
        assert lines["shared_memory"][0] == "warning" and "--shm-size" in lines["shared_memory"][2]
    else:
        print("no /dev/shm here: shared_memory was not tried")


def test_more_buffers_than_memory(db):
    """The server's own 256 MB, on a machine of 300 MB."""
    assert health(db)["settings"][0] == "ok"
    replaced(db, "_host", f"SELECT {300 << 20}::bigint, 'cgroup v2'::text, 4, 'ssd'::text, NULL::text")
    status, detail, hint = health(db)["settings"]
    assert status == "critical" and "shared_buffers = 256 MB is more than half of the memory (300 MB)" in detail and "recommended_settings()" in hint


@pytest.mark.parametrize("name, bad", [("full_page_writes", "off"), ("fsync", "off"), ("autovacuum", "off"), ("track_counts", "off"), ("zero_damaged_pages", "on"), ("synchronous_commit", "off")])
def test_each_dangerous_setting(server, there, name, bad):
    """Set for the server, told, and mended by the hint."""
    server.psql(f"ALTER SYSTEM SET {name} = {bad}")
    server.psql("SELECT pg_reload_conf()")
    wait_for(lambda: f"{name} = {bad}" in health(there)["settings"][1])
    status, _, hint = health(there)["settings"]
    # This server is without autovacuum all the time.
    assert status == "critical" and f"ALTER SYSTEM SET {name} = " in hint
    follow(there, hint)
    wait_for(lambda: health(there)["settings"][0] == "ok")
    for reset in (name, "autovacuum"):
        server.psql(f"ALTER SYSTEM RESET {reset}")
    server.psql("SELECT pg_reload_conf()")


def test_damage_by_storage_and_old_transaction_ids():
    """A page with another content than was written; and a horizon held for twice the transactions after which autovacuum must freeze."""
    with Cluster({"autovacuum_freeze_max_age": "100000", "autovacuum": "off"}) as cluster:
        cluster.stop()
        cluster.run(cluster.bindir / "pg_checksums", "--enable", "-D", cluster.data, stdout=subprocess.DEVNULL)
        cluster.start()
        db = create_database(cluster)
        lines = health(db)
        assert lines["data_checksums"][:2] == ("ok", "on, 0 failures") and lines["transaction_ids"][0] == "ok"
        db.sql("CREATE TABLE damaged AS SELECT 1 AS x")
        path = cluster.data / db.value("SELECT pg_relation_filepath('damaged')")
        cluster.stop()
        with open(path, "r+b") as f:
            f.seek(8000)
            f.write(b"\xff" * 8)
        cluster.start()
        with db.connect() as conn, pytest.raises(psycopg.errors.DataCorrupted):
            conn.execute("SELECT * FROM damaged")
        wait_for(lambda: health(db)["data_checksums"][0] == "critical")
        assert "1 failures" in health(db)["data_checksums"][1] and "restore" in health(db)["data_checksums"][2]
        with db.connect(autocommit=False) as holder:
            holder.execute("SELECT pg_current_xact_id()")
            # Each block with a handler is a subtransaction, and takes an id when it writes.
            db.sql("CREATE UNLOGGED TABLE burnt (x int)")
            db.sql("DO $$ BEGIN FOR i IN 1..210000 LOOP BEGIN INSERT INTO burnt VALUES (i); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$")
            status, detail, hint = health(db)["transaction_ids"]
            assert status == "warning" and "transactions old" in detail and "VACUUM (FREEZE)" in hint


def test_transaction_ids_that_run_out():
    """The next transaction id set to 1.6 of the 2 billion, then everything frozen, as the hint says."""
    with Cluster({"autovacuum_freeze_max_age": "2000000000", "autovacuum": "off"}) as cluster:
        db = create_database(cluster)
        cluster.stop()
        # A transaction id has two bits in a file of 256 kB; pg_resetwal leaves it to its user to make the file.
        cluster.run("dd", "if=/dev/zero", f"of={cluster.data}/pg_xact/{1600000000 >> 20:04X}", "bs=262144", "count=1", stderr=subprocess.DEVNULL)
        cluster.run(cluster.bindir / "pg_resetwal", "-x", "1600000000", "-D", cluster.data, stdout=subprocess.DEVNULL)
        cluster.start()
        status, detail, hint = health(db)["transaction_ids"]
        assert status == "critical" and re.match(r"the oldest transaction id is 1599\d{6} transactions old \(database \w+\)", detail) and "VACUUM (FREEZE); in database" in hint
        assert "ALLOW_CONNECTIONS" in hint or "database template0" not in hint
        db.sql("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
        for name in ("template0", "template1", "postgres", db.name):
            cluster.psql("VACUUM (FREEZE)", name)
        assert health(db)["transaction_ids"][0] == "ok"
