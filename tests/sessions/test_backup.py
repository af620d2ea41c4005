"""Backups that restore: the scripts of docker/bin, logical dumps with all the state there is, and recovery to a moment between two commits."""
from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster import SUPERUSER, Cluster
from conftest import Database, create_database
from test_dump import catalog, contents, filled, support_tables  # noqa: F401 (filled is a fixture)
from test_ops import health, wait_for

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "bin" / "pgedge-backup"


def backup(cluster: Cluster, *args: str | Path, db: str = "postgres", check: bool = True, **env: str) -> subprocess.CompletedProcess:
    """Runs pgedge-backup as the server's user."""
    script = cluster.folder / "pgedge-backup"
    if not script.exists():
        shutil.copy(SCRIPT, script)
        script.chmod(0o755)
    env = {"PATH": f"{cluster.bindir}:/usr/bin:/bin", "PGHOST": str(cluster.folder), "PGPORT": str(cluster.port), "PGUSER": SUPERUSER, "PGDATABASE": db,
           "LC_ALL": "C.UTF-8", **env}
    out = cluster.run("env", "-i", *(f"{k}={v}" for k, v in env.items()), script, *args, capture_output=True, text=True, check=False)
    assert not check or out.returncode == 0, out.stdout + out.stderr
    return out


def folder(cluster: Cluster, name: str) -> Path:
    path = cluster.folder / name
    cluster.run("mkdir", path)
    return path


def state(db: Database) -> dict:
    """Every row, sequence, index, column, and the state of patterns and leases, whichever tables keep it."""
    dumped = [r[0] for r in db.sql("SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'pgedge'"
                                   " EXCEPT SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' ORDER BY 1")]
    assert set(dumped) <= set(support_tables(db)) and dumped
    return {
        "rows": contents(db),
        "catalog": catalog(db),
        "state": contents(db, dumped),
        "sequences": db.sql("SELECT schemaname, sequencename, data_type::text, last_value FROM pg_sequences ORDER BY 1, 2"),
    }


# Logical dumps ------------------------------------------------------------------------------------------------------------------------


def test_dump_script_restores_everything_and_the_queue_continues(cluster, filled, empty_db):  # noqa: F811
    leased = filled.sql("SELECT id, lease_token FROM pgedge.claim_events(2, '1 hour', NULL, 'in the middle of its work')")
    expired = filled.sql("SELECT id, lease_token FROM pgedge.claim_events(1, '1 second')")[0]
    with filled.connect() as conn:
        conn.execute("SELECT pgedge.fail_events(ARRAY[%s]::bigint[], %s, 'once', '1 hour')", failed := leased.pop())
    target = folder(cluster, f"dumps-{filled.name}")
    path = Path(backup(cluster, "dump", target, db=filled.name).stdout.strip())
    assert path.parent == target and path.stat().st_mode & 0o077 == 0
    assert health(filled)["backup_age"][0] == "ok"
    assert filled.sql("SELECT kind, location FROM pgedge.backups") == [("dump", str(path))]
    roles = path.with_name(path.name.replace(".sql.gz", ".roles.gz"))
    assert "CREATE ROLE postgres" in gzip.decompress(roles.read_bytes()).decode()
    assert sorted(p.name for p in target.iterdir()) == [roles.name, path.name]

    before = state(filled)
    cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-d", empty_db.name, "-f", "-", input=gzip.decompress(path.read_bytes()),
                 stdout=subprocess.DEVNULL)
    assert state(empty_db) == before
    assert empty_db.sql("SELECT * FROM pgedge.backups") == []

    # Leases are in the old server's memory: here nobody holds anything, old tokens do nothing, and what is delayed stays so.
    assert empty_db.sql("SELECT pgedge.complete_events(ARRAY[%s, %s]::bigint[], %s)", (leased[0][0], expired[0], leased[0][1])) == []
    claimed = empty_db.sql("SELECT id, attempt, lease_token FROM pgedge.claim_events(100)")
    assert {(leased[0][0], 1), (expired[0], 1)} <= {row[:2] for row in claimed}
    assert failed[0] not in [row[0] for row in claimed]
    assert empty_db.sql("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", leased[0]) == []
    assert empty_db.sql("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (leased[0][0], claimed[0][2])) == [(leased[0][0],)]
    again = empty_db.sql("SELECT id, is_new FROM pgedge.aggregate_logs(ARRAY['User 3 logged in'], 'INFO', 'auth')")
    assert again == filled.sql("SELECT id, false FROM aggregated_logs WHERE message_pattern = 'User {ID} logged in'")


def test_dump_of_the_embeddings_and_how_many_are_kept(cluster, filled):  # noqa: F811
    target = folder(cluster, f"kept-{filled.name}")
    for stamp in ("20310101T000000", "20310102T000000", "20310103T000000"):
        (target / f"{filled.name}-{stamp}.sql.gz").write_text("")
    # Later than those by name only if it were 2031; the clock of a Pi without a battery has been wrong before, so names decide, and nothing else.
    path = Path(backup(cluster, "dump", target, "--vectors", db=filled.name).stdout.strip())
    assert path.name.startswith("vectors-")
    text = gzip.decompress(path.read_bytes()).decode()
    assert "COPY public.vectors" in text and "COPY public.analytics_results" in text and "claude_events" not in text
    assert filled.sql("SELECT * FROM pgedge.backups") == []
    backup(cluster, "dump", target, db=filled.name, PGEDGE_KEEP_DUMPS="3")
    assert len(list(target.glob(f"{filled.name}-*.sql.gz"))) == 3
    refused = backup(cluster, "dump", target, db=filled.name, check=False, PGEDGE_KEEP_DUMPS="none")
    assert refused.returncode == 1 and '"none"' in refused.stderr


def test_a_dump_that_fails_leaves_nothing(cluster, db):
    target = folder(cluster, f"failed-{db.name}")
    assert backup(cluster, "dump", target, db="no_such_database", check=False).returncode != 0
    assert list(target.iterdir()) == []
    missing = backup(cluster, "dump", cluster.folder / "nowhere", db=db.name, check=False)
    assert missing.returncode == 1 and "does not exist" in missing.stderr and "hint:" in missing.stderr
    db.sql("DROP EXTENSION pgedge CASCADE")
    unrecorded = backup(cluster, "dump", target, db=db.name, check=False)
    assert unrecorded.returncode == 1 and "is complete, but pgedge.record_backup() failed" in unrecorded.stderr
    assert len(list(target.glob("*.sql.gz"))) == 1
    for wrong in ([], ["tape"], ["dump"], ["restore", "a"], ["archive", "a", "b"]):
        assert backup(cluster, *wrong, check=False).returncode == 2


# Recovery to a point in time ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archived():
    """A server that archives its WAL, with a base backup, a first commit, a moment, and a second commit."""
    cluster = Cluster({"archive_mode": "on", "wal_level": "replica", "archive_timeout": "0"})
    wal, bases = folder(cluster, "wal"), folder(cluster, "bases")
    cluster.settings["archive_command"] = f"PATH=/usr/bin:/bin {cluster.folder}/pgedge-backup archive {wal} %p %f"
    with cluster:
        db = create_database(cluster)
        db.sql("SELECT pgedge.enqueue_event('before', '{}')")
        base = Path(backup(cluster, "base", bases, wal, db=db.name).stdout.strip())
        assert db.sql("SELECT kind, location FROM pgedge.backups") == [("base", str(base))]
        cluster.pitr = {"db": db, "wal": wal, "bases": bases, "base": base}
        db.sql("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in'], 'INFO', 'auth')")
        db.sql("SELECT pgedge.enqueue_event('first', '{}')")
        db.sql("INSERT INTO vectors (embedding, content) SELECT array_fill(0.1, ARRAY[384])::vector, 'first'")
        cluster.pitr["lease"] = db.sql("SELECT id, lease_token FROM pgedge.claim_events(1, '1 hour', ARRAY['first'])")[0]
        cluster.pitr["state"] = contents(db)
        # Commit times have microseconds; so has this moment, and both commits are a clear way from it.
        cluster.pitr["moment"] = db.value("SELECT clock_timestamp()::text FROM pg_sleep(0.05)")
        db.sql("SELECT pg_sleep(0.05)")
        with db.connect(autocommit=False) as conn:
            conn.execute("SELECT pgedge.enqueue_event('second', '{}')")
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 2 logged in'], 'INFO', 'auth')")
            conn.execute("DELETE FROM vectors")
        db.sql("SELECT pg_switch_wal()")
        wait_for(lambda: db.value("SELECT count(*) = 0 FROM pg_ls_archive_statusdir() WHERE name ~ 'ready$'"))
        yield cluster


def laid_out(archived: Cluster, wal: Path, *time: str) -> Cluster:
    """A data directory that recovers when it is started."""
    other = Cluster()
    backup(archived, "restore", archived.pitr["base"], other.data, wal, *time)
    other.run("sed", "-i", "/^archive_mode/d;/^port/d;/^unix_socket_directories/d", other.data / "postgresql.conf")
    other.run("sh", "-c", f"printf \"port = {other.port}\\nunix_socket_directories = '{other.folder}'\\n\" >>{other.data}/postgresql.conf")
    return other


def recovered(archived: Cluster, *time: str) -> tuple[Cluster, Database]:
    """A second server from the base backup and the archive."""
    other = laid_out(archived, archived.pitr["wal"], *time)
    other.start()
    db = Database(other, archived.pitr["db"].name)
    wait_for(lambda: not db.value("SELECT pg_is_in_recovery()"), 60)
    return other, db


def test_recovery_to_a_moment_between_two_commits(archived):
    pitr = archived.pitr
    server, db = recovered(archived, pitr["moment"])
    try:
        assert contents(db) == pitr["state"]
        assert sorted(r[0] for r in db.sql("SELECT event_type FROM claude_events")) == ["before", "first"]
        assert db.value("SELECT count FROM aggregated_logs WHERE message_pattern = 'User {ID} logged in'") == 1
        # The lease of that moment was in that server's memory: the event is claimable again. Queue, patterns and archive go on.
        assert db.sql("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", pitr["lease"]) == []
        assert [r[0] for r in db.sql("SELECT event_type FROM pgedge.claim_events(10)")] == ["before", "first"]
        db.sql("SELECT pgedge.aggregate_logs(ARRAY['User 2 logged in'], 'INFO', 'auth')")
        assert db.value("SELECT count FROM aggregated_logs WHERE message_pattern = 'User {ID} logged in'") == 2
        assert db.value("SELECT content FROM vectors ORDER BY embedding <=> array_fill(0.1, ARRAY[384])::vector LIMIT 1") == "first"
        assert health(db)["tables"][0] == "ok"
    finally:
        server.destroy()


def test_recovery_to_the_end_of_the_archive(archived):
    server, db = recovered(archived)
    try:
        assert contents(db) == contents(archived.pitr["db"])
        assert db.value("SELECT count(*) FROM vectors") == 0
    finally:
        server.destroy()


def test_archive_takes_a_segment_once(archived):
    pitr = archived.pitr
    segment = sorted(p for p in pitr["wal"].iterdir() if len(p.name) == 27)[0]
    plain = archived.folder / "segment"
    archived.run("sh", "-c", f"gzip -dc {segment} >{plain}")
    backup(archived, "archive", pitr["wal"], plain, segment.stem)
    archived.run("sh", "-c", f"printf x | dd of={plain} conv=notrunc 2>/dev/null")
    other = backup(archived, "archive", pitr["wal"], plain, segment.stem, check=False)
    assert other.returncode == 1 and "is there already, with other content" in other.stderr
    lost = backup(archived, "archive", archived.folder / "unmounted", plain, "000000010000000000000099", check=False)
    assert lost.returncode == 1 and "does not exist" in lost.stderr
    assert backup(archived, "fetch", pitr["wal"], "000000010000000000000099", archived.folder / "x", check=False).returncode == 1
    assert [p.name for p in pitr["wal"].iterdir() if p.name.startswith(".")] == []


def test_damage_in_the_archive_is_not_its_end(archived):
    """PostgreSQL promotes when the restore command ends with 1: a damaged segment, or an archive that is not mounted, must end the recovery instead."""
    pitr = archived.pitr
    copy = archived.folder / "damaged"
    archived.run("cp", "-a", pitr["wal"], copy)
    segment = sorted(p for p in copy.iterdir() if len(p.name) == 27)[-1]
    archived.run("truncate", "-s", str(segment.stat().st_size // 2), segment)
    damaged = backup(archived, "fetch", copy, segment.stem, archived.folder / "x", check=False)
    assert damaged.returncode > 125 and "is damaged" in damaged.stderr and "hint:" in damaged.stderr
    absent = backup(archived, "fetch", archived.folder / "unmounted", segment.stem, archived.folder / "x", check=False)
    assert absent.returncode > 125 and "cannot be read" in absent.stderr
    other = laid_out(archived, copy)
    try:
        other.run(other.bindir / "pg_ctl", "-D", other.data, "-l", other.log, "-w", "-t", "60", "start", check=False, capture_output=True)
        wait_for(lambda: not (other.data / "postmaster.pid").exists(), 60)
        log = other.log.read_text()
        assert "is damaged" in log and "archive recovery complete" not in log
    finally:
        other.destroy()


@pytest.mark.parametrize("command, setting", [("dump", "PGEDGE_KEEP_DUMPS"), ("base", "PGEDGE_KEEP_BASES")])
def test_a_wrong_number_to_keep_is_said_first(archived, command, setting):
    folder = archived.folder / f"wrong-{command}"
    archived.run("mkdir", folder)
    refused = backup(archived, command, folder, check=False, **{setting: "0"})
    assert refused.returncode == 1 and "no number of backups" in refused.stderr and list(folder.iterdir()) == []


def test_restore_refuses_what_would_do_harm(archived):
    pitr = archived.pitr
    for wrong, words in (((pitr["base"], archived.data, pitr["wal"]), "is not empty"), ((pitr["wal"], archived.folder / "new", pitr["wal"]), "is no base backup"),
                         ((pitr["base"], archived.folder / "new", archived.folder / "none"), "does not exist"),
                         ((pitr["base"], archived.folder / "new", pitr["wal"], "now' \nfsync = 'off"), "is no time")):
        refused = backup(archived, "restore", *wrong, check=False)
        assert refused.returncode == 1 and words in refused.stderr
    assert not (archived.folder / "new").exists()


def test_bases_and_their_wal_are_kept_and_the_rest_goes(archived):
    """Last, since it takes the first base backup away."""
    pitr = archived.pitr
    segments = {p.name for p in pitr["wal"].iterdir()}
    backup(archived, "base", pitr["bases"], pitr["wal"], db=pitr["db"].name)
    assert {p.name for p in pitr["wal"].iterdir()} >= segments, "the first base backup still needs them"
    pitr["db"].sql("SELECT pg_switch_wal()")
    backup(archived, "base", pitr["bases"], pitr["wal"], db=pitr["db"].name, PGEDGE_KEEP_BASES="1")
    assert len(os.listdir(pitr["bases"])) == 1
    left = {p.name for p in pitr["wal"].iterdir()}
    assert not segments & left - {n for n in segments if ".backup" in n} and left
