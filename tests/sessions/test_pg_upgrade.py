"""From one major version of PostgreSQL to the next, with everything in it: pg_upgrade, and a dump. make test-upgrade sets the servers up."""
from __future__ import annotations

import os
import subprocess

import pytest

from cluster import SUPERUSER, Cluster
from conftest import Database, create_database
from test_backup import state
from test_dump import filled  # noqa: F401 (a fixture)
from test_ops import drop_role, health, role
from test_upgrade import CATALOG

FROM, TO = os.environ.get("PGEDGE_UPGRADE_FROM"), os.environ.get("PGEDGE_UPGRADE_TO")
pytestmark = pytest.mark.skipif(not (FROM and TO), reason="no two major versions of PostgreSQL to upgrade between: make test-upgrade")

# Not in a dump: they describe one server's files. pg_upgrade takes the files along, and with them these.
OF_THE_SERVER = "SELECT index_oid::regclass::text, rows FROM pgedge.index_builds UNION ALL SELECT kind, 0 FROM pgedge.backups UNION ALL SELECT sequence_oid::regclass::text, reached FROM pgedge.sequence_positions ORDER BY 1"
MATCHING_INDEX_FILES = "SELECT count(*) FROM pgedge.index_builds WHERE filenode = pg_relation_filenode(index_oid)"


@pytest.fixture(scope="module")
def cluster():
    """The older server; the fixtures of the other tests make their databases in it."""
    with Cluster({"max_worker_processes": "16"}, bindir=FROM) as c:
        yield c


@pytest.fixture
def newer():
    """An empty cluster of the newer server, not started."""
    c = Cluster(bindir=TO)
    c.initdb()
    yield c
    c.destroy()


def leave_work_behind(db: Database) -> list[tuple]:
    """A lease that runs, an expired one, a delayed, a dead event, a backup; returns the running lease's event and token."""
    running = db.sql("SELECT id, lease_token FROM pgedge.claim_events(1, '1 hour', NULL, 'in the middle of its work')")
    db.sql("SELECT pgedge.claim_events(1, '0.01 seconds')")
    db.sql("SELECT pgedge.enqueue_event('later', '{}', delay => '1 hour', ordering_key => 'k', dedup_key => 'd')")
    db.sql("INSERT INTO claude_events (event_type, payload, status) VALUES ('a', '{}', 'dead')")
    db.sql("SELECT pgedge.record_backup('dump')")
    health(db)
    return running


def goes_on(db: Database, running: list[tuple]) -> None:
    """Every family, where it was."""
    # Leases were in the older server's memory: the token is stale, and the event can be claimed at once.
    assert db.sql("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", running[0]) == []
    claimed = db.sql("SELECT id, lease_token FROM pgedge.claim_events(100)")
    assert running[0][0] in [c[0] for c in claimed]
    assert db.sql("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", claimed[0]) == [(claimed[0][0],)]
    dead, = db.sql("SELECT pgedge.redrive_events()")
    assert dead == (1,)
    assert db.sql("SELECT is_new FROM pgedge.aggregate_logs(ARRAY['User 3 logged in'], 'INFO', 'auth')") == [(False,)]
    assert db.value("SELECT count FROM aggregated_logs WHERE message_pattern = 'User {ID} logged in'") == 3
    target = "(SELECT embedding FROM vectors WHERE content = 'text 7')"
    found = db.sql(f"SELECT v.content FROM pgedge.batch_search(ARRAY[{target}], 3) s JOIN vectors v ON v.id::text = s.id ORDER BY s.rank")
    assert found[0] == ("text 7",) and found == db.sql(f"SELECT content FROM vectors ORDER BY embedding <=> {target} LIMIT 3")
    assert db.sql("SELECT * FROM pgedge.create_tables()") == []
    lines = health(db)
    assert {name for name, line in lines.items() if line[0] == "critical"} <= {"disk_space"}
    assert lines["tables"][0] == lines["pgvector_version"][0] == lines["invalid_indexes"][0] == "ok"
    for view in ("database_size", "table_sizes", "index_usage", "connections", "blocking", "slow_queries", "queue_stats"):
        db.sql(f"SELECT * FROM pgedge.{view}")
    db.sql("SELECT * FROM pgedge.recommended_settings()")


def test_pg_upgrade(cluster, filled, newer):  # noqa: F811
    running = leave_work_behind(filled)
    name = role(filled, "producer")
    filled.sql("SELECT pgedge.grant_service(%s, 'event_producer')", [name])
    before, files = state(filled), filled.sql(OF_THE_SERVER)
    assert len(files) >= 3 and filled.value(MATCHING_INDEX_FILES) == 1
    cluster.stop()
    try:
        # PostgreSQL 18 makes clusters with checksums unless told not to, and pg_upgrade wants both alike.
        control = subprocess.run([newer.bindir / "pg_controldata", newer.data], capture_output=True, text=True, check=True).stdout
        if "checksum version:           0" not in control:
            cluster.run(cluster.bindir / "pg_checksums", "--enable", "-D", cluster.data, stdout=subprocess.DEVNULL)
        folder = newer.folder / "upgrade"
        newer.run("mkdir", folder)
        out = newer.run(newer.bindir / "pg_upgrade", "-b", cluster.bindir, "-B", newer.bindir, "-d", cluster.data, "-D", newer.data, "-U", SUPERUSER, "-s", folder,
                        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert out.returncode == 0, out.stdout
        print(out.stdout)
        newer.start()
        db = Database(newer, filled.name)
        newer.tool("vacuumdb", "--all", "--analyze-only", stdout=subprocess.DEVNULL)
        print(db.value("SELECT version()"))
        after = state(db)
        assert after["rows"] == before["rows"] and after["state"] == before["state"] and after["sequences"] == before["sequences"]
        # Since PostgreSQL 17 the row and array types of a member are no members themselves; the fresh one below has the same.
        members = [{m for m, in side["catalog"].pop("members") if not m.startswith("type ")} for side in (before, after)]
        assert members[0] == members[1]
        assert after["catalog"] == before["catalog"]
        assert db.sql(OF_THE_SERVER) == files and db.value(MATCHING_INDEX_FILES) == 1
        fresh = create_database(newer)
        assert db.sql(CATALOG.replace("p.proacl::text, c.relacl::text", "NULL")) == fresh.sql(CATALOG.replace("p.proacl::text, c.relacl::text", "NULL"))
        assert db.value("SELECT pgedge.enqueue_event('after', '{}')", user=name) > 20
        goes_on(db, running)
    finally:
        # The old server starts again, since files were copied: the way back.
        cluster.start()
    assert filled.value("SELECT count(*) FROM claude_events WHERE event_type = 'after'") == 0
    drop_role(filled, name)


def test_a_dump_of_the_older_restores_in_the_newer(cluster, filled, newer, tmp_path):  # noqa: F811
    running = leave_work_behind(filled)
    before = state(filled)
    newer.start()
    dump = tmp_path / "dump.sql"
    env = {**os.environ, "PGHOST": str(cluster.folder), "PGPORT": str(cluster.port), "PGUSER": SUPERUSER}
    subprocess.run([newer.bindir / "pg_dump", "-d", filled.name, "-f", dump], env=env, check=True)
    db = Database(newer, "restored")
    newer.psql("CREATE DATABASE restored")
    newer.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-d", db.name, "-f", str(dump), stdout=subprocess.DEVNULL)
    after = state(db)
    assert {k: after[k] for k in ("rows", "state", "sequences")} == {k: before[k] for k in ("rows", "state", "sequences")}
    goes_on(db, running)
