"""Plain tables that are read page by page by workers of the server: the same rows as by one process, in the same snapshot, and errors that come to the caller."""
from __future__ import annotations

import os
import pwd
import subprocess
import threading
import time

import psycopg
import pytest

from cluster import Cluster
from support import fails
from test_similarity_heap import ONE, SERIAL, WORKERS, db, nothing_leaks, planned, same, search, server, small, some, vector_of  # noqa: F401

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor: nothing is left to workers")

SEARCH = f"SELECT count(*) FROM pgedge.batch_search({ONE}, 5, 'l2', relation => 't')"


def settings(participation: str) -> str:
    return WORKERS + f"; SET parallel_leader_participation = {participation}"


@pytest.fixture
def told(small):
    """A table `reported` of ids whose comparison tells who compares, and on whose behalf; all embeddings are alike, so that ids are compared."""
    with small.connect() as conn:
        conn.execute("""
            CREATE TYPE odd AS (n int);
            CREATE FUNCTION odd_cmp(a odd, b odd) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS $$
            BEGIN
                IF current_setting('test.what', true) = 'fail' AND a.n = 50 THEN RAISE division_by_zero; END IF;
                IF current_setting('test.what', true) = 'write' THEN CREATE TEMP TABLE x (i int); END IF;
                IF current_setting('test.what', true) = 'sleep' THEN PERFORM pg_sleep(0.05); END IF;
                RAISE NOTICE '% % %', pg_backend_pid(), current_user, (SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid());
                RETURN sign(a.n - b.n);
            END $$;
            CREATE FUNCTION odd_lt(a odd, b odd) RETURNS boolean LANGUAGE sql AS 'SELECT a.n < b.n';
            CREATE FUNCTION odd_eq(a odd, b odd) RETURNS boolean LANGUAGE sql AS 'SELECT a.n = b.n';
            CREATE OPERATOR <<< (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_lt);
            CREATE OPERATOR === (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_eq);
            CREATE OPERATOR CLASS odd_ops DEFAULT FOR TYPE odd USING btree AS OPERATOR 1 <<<, OPERATOR 3 ===, FUNCTION 1 odd_cmp(odd, odd);
            CREATE TABLE reported AS SELECT ROW(i)::odd AS id, '[1,2,3]'::vector AS embedding FROM generate_series(1, 100) i""")
    return small


def notices(conn, relation: str = "reported") -> list[list[str]]:
    """What was told in a search, in words: process, user, statement."""
    found = []
    listen = lambda diag: found.append(diag.message_primary.split(" ", 2))  # noqa: E731
    conn.add_notice_handler(listen)
    try:
        assert [r[2] for r in search(conn, relation, k=4)] == ["(1)", "(2)", "(3)", "(4)"]
    finally:
        conn.remove_notice_handler(listen)
    return found


def test_workers_read_the_pages_as_the_caller(told):
    with told.connect() as conn:
        own = str(conn.info.backend_pid)
        conn.execute(WORKERS)
        assert planned(conn, "t", SEARCH) == 0
        found = notices(conn)
        workers = [f for f in found if f[0] != own]
        assert workers and {f[1] for f in workers} == {"postgres"} and all("batch_search" in f[2] for f in workers)
        conn.execute("SET ROLE pg_monitor")
        try:
            conn.execute("RESET ROLE; CREATE ROLE few_rights; GRANT USAGE ON SCHEMA pgedge TO few_rights; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgedge TO few_rights; GRANT SELECT (id, embedding) ON reported TO few_rights")
            conn.execute("SET ROLE few_rights")
            assert {f[1] for f in notices(conn) if f[0] != own} == {"few_rights"}
            conn.execute("RESET ROLE; REVOKE SELECT (id) ON reported FROM few_rights; SET ROLE few_rights")
            fails(conn, "42501", f"SELECT * FROM pgedge.batch_search({ONE}, relation => 'reported')")
        finally:
            conn.execute("RESET ROLE; DROP OWNED BY few_rights; DROP ROLE few_rights")
        for alone in (SERIAL, settings("on") + "; SET max_parallel_workers = 0", "SET max_parallel_workers = 8; ALTER FUNCTION odd_cmp PARALLEL RESTRICTED", "ALTER FUNCTION odd_cmp PARALLEL UNSAFE"):
            conn.execute(alone)
            assert {f[0] for f in notices(conn)} == {own}, alone


@pytest.mark.parametrize("participation", ["on", "off"])
def test_the_same_rows_whoever_reads_them(small, participation):
    """Few queries and many, all metrics, halves, embeddings out of line, ids of any kind, results larger than the queue between the processes."""
    with small.connect() as conn:
        conn.execute(f"""
            CREATE TABLE inline AS SELECT i * 7 % 10007 AS id, {vector_of(50, 'i % 500')} AS embedding FROM generate_series(1, 1500) i;
            CREATE TABLE halves AS SELECT 'row ' || id AS id, embedding::halfvec FROM inline;
            CREATE TABLE outside (id uuid, embedding vector, note text); ALTER TABLE outside ALTER COLUMN note SET STORAGE PLAIN;
            INSERT INTO outside SELECT md5(id::text)::uuid, embedding, repeat(md5(id::text), 59) FROM inline;
            UPDATE outside SET note = note WHERE id::text < '5';
            CREATE VIEW vinline AS TABLE inline; CREATE VIEW vhalves AS TABLE halves; CREATE VIEW voutside AS TABLE outside""")
        assert conn.execute("SELECT pg_relation_size(reltoastrelid) > 100000 FROM pg_class WHERE oid = 'outside'::regclass").fetchone() == (True,)
        wanted = {}
        calls = [(name, count, metric, k) for name in ("inline", "halves", "outside") for count, metric, k in ((1, "l2", 5), (3, "ip", 1500), (7, "cosine", 1000), (64, "cosine", 10), (130, "l2", 3))]
        conn.execute(SERIAL)
        for name, count, metric, k in calls:
            queries = f"(SELECT array_agg({vector_of(50, 'n')}) FROM generate_series(1, {count}) n)"
            wanted[name, count] = same(conn, name, "v" + name, queries=queries, metric=metric, k=k)
        join = "SELECT left_id, rank, right_id, similarity::text FROM pgedge.knn_join('inline', 'inline', 2) ORDER BY 1, 2"
        joined = conn.execute(join).fetchall()
        conn.execute(settings(participation))
        for memory in ("4MB", "64kB"):
            conn.execute(f"SET work_mem = '{memory}'")
            for name, count, metric, k in calls:
                queries = f"(SELECT array_agg({vector_of(50, 'n')}) FROM generate_series(1, {count}) n)"
                assert search(conn, name, queries, k, metric) == wanted[name, count], (name, count, metric, k, memory)
        conn.execute("RESET work_mem")
        assert conn.execute(join).fetchall() == joined


def test_workers_see_what_the_caller_sees(small):
    """What this transaction has done, in tables and to tables; what others have done by the time of the snapshot."""
    with small.connect() as conn, small.connect() as other:
        conn.execute(WORKERS)
        conn.execute("BEGIN; INSERT INTO t SELECT 1000 + i, '[1,2,3]', '' FROM generate_series(1, 50) i; SAVEPOINT a; DELETE FROM t WHERE id % 3 = 0; UPDATE t SET embedding = '[1,2,3]' WHERE id % 10 = 1")
        rows = same(conn, k=1000)
        assert len(rows) == 633 and len(search(other, "t", k=1000)) == 900
        conn.execute("UPDATE t SET note = 'again'; UPDATE t SET note = 'and again' WHERE id % 2 = 0")
        assert same(conn, k=1000) == rows
        conn.execute("ROLLBACK TO a")
        assert len(same(conn, k=1000)) == 950
        # tables that are new, emptied, or written anew in this transaction
        conn.execute("CREATE TABLE new AS TABLE t; CREATE VIEW vnew AS TABLE new; ALTER TABLE t ADD COLUMN more text DEFAULT 'x'; CREATE INDEX ON t (id); CLUSTER t USING t_id_idx")
        assert len(same(conn, "new", "vnew", k=1000)) == len(same(conn, k=1000)) == 950
        conn.execute("TRUNCATE new; INSERT INTO new SELECT id, embedding, note FROM t LIMIT 10")
        assert len(same(conn, "new", "vnew", k=1000)) == 10
        conn.execute("ALTER TABLE new RENAME COLUMN id TO number; DROP VIEW vnew; ALTER TABLE new DROP COLUMN note")
        assert len(search(conn, "new", more=", id_column => 'number'", k=1000)) == 10
        conn.execute("ROLLBACK")
        # one snapshot for a whole transaction
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        before = same(conn, k=1000)
        other.execute("DELETE FROM t WHERE id % 2 = 0; INSERT INTO t VALUES (5000, '[1,2,3]', '')")
        other.execute("VACUUM t")
        assert same(conn, k=1000) == before
        conn.execute("COMMIT")
        assert len(same(conn, k=1000)) == 451
        # a function that is not volatile sees what its caller saw
        conn.execute(f"CREATE FUNCTION seen() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT count(*) FROM pgedge.batch_search({ONE}, 2000, relation => 't') $$")
        conn.execute("CREATE FUNCTION grown() RETURNS bigint[] VOLATILE LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t SELECT 7000 + i, '[1,1,1]', '' FROM generate_series(1, 9) i; RETURN ARRAY[seen()]; END $$")
        assert conn.execute("SELECT seen(), grown(), seen()").fetchone() == (451, [460], 451)


def test_searches_within_statements_that_write(small):
    """The server writes nothing while it has workers. Before and after a search it may."""
    with small.connect() as conn:
        conn.execute(WORKERS)
        want = search(conn, "v", k=20)
        conn.execute("CREATE TABLE found (id text)")
        call = f"pgedge.batch_search({ONE}, 20, 'l2', relation => 't')"
        assert len(conn.execute(f"INSERT INTO found SELECT id FROM {call} RETURNING id").fetchall()) == 20
        assert len(conn.execute(f"WITH a AS (INSERT INTO found SELECT id FROM {call} RETURNING id), b AS (DELETE FROM found RETURNING id) SELECT * FROM a, LATERAL (SELECT rank FROM {call} WHERE id = a.id) x").fetchall()) == 20
        conn.execute(f"UPDATE t SET note = 'near' WHERE id IN (SELECT id::int FROM {call})")
        assert conn.execute("SELECT count(*) FROM t WHERE note = 'near'").fetchone() == (20,)
        conn.execute(f"""
            CREATE FUNCTION nearest() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN SELECT string_agg(id, ',') INTO NEW.note FROM pgedge.batch_search(ARRAY[NEW.embedding::vector], 3, 'l2', relation => 't') s; RETURN NEW; END $$;
            CREATE TRIGGER nearest BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nearest()""")
        rows = conn.execute("INSERT INTO t SELECT 2000 + i, '[1,2,3]', '' FROM generate_series(1, 4) i RETURNING note").fetchall()
        # each is seen by the next, at a distance of 0, as is a row that was there
        assert [r[0] for r in rows[2:]] == ["751,2001,2002"] * 2 and rows[1][0].startswith("751,2001,")
        conn.execute("DELETE FROM t WHERE id > 2000")
        # rows that are fetched a few at a time, with writes between
        with conn.transaction():
            conn.execute(f"DECLARE c CURSOR FOR SELECT s.id, t.id FROM t, LATERAL pgedge.batch_search(ARRAY[t.embedding], 2, 'l2', relation => 't') s ORDER BY t.id OFFSET 0")
            for _ in range(5):
                assert len(conn.execute("FETCH 3 FROM c").fetchall()) == 3
                conn.execute("INSERT INTO found VALUES ('between')")
        assert same(conn, k=20) == want


def test_errors_of_workers_are_the_callers(told):
    with told.connect() as conn:
        conn.execute(WORKERS)
        conn.execute("CREATE TABLE bad_id AS TABLE t; INSERT INTO bad_id VALUES (NULL, '[1,1,1]')")
        conn.execute("CREATE TABLE bad_dim AS SELECT id, embedding::vector AS embedding FROM t; INSERT INTO bad_dim VALUES (0, '[1,1]')")
        for participation in ("off", "on"):
            conn.execute(settings(participation))
            for relation, state in (("bad_id", "22004"), ("bad_dim", "22000")):
                fails(conn, state, f"SELECT * FROM pgedge.batch_search({ONE}, relation => '{relation}')")
            for what, state in (("fail", "22012"), ("write", "25000")):
                conn.execute(f"SET test.what = '{what}'")
                with pytest.raises(psycopg.Error) as caught:
                    search(conn, "reported", k=4)
                assert caught.value.sqlstate == state
            conn.execute("RESET test.what")
        conn.execute("""
            CREATE FUNCTION many(r regclass) RETURNS int LANGUAGE plpgsql AS $$ DECLARE n int = 0; BEGIN
                FOR i IN 1..20 LOOP
                    BEGIN PERFORM pgedge.batch_search(ARRAY['[1,2,3]']::vector[], relation => r); RAISE 'no error';
                    EXCEPTION WHEN null_value_not_allowed OR data_exception THEN n = n + 1; CREATE TEMP TABLE IF NOT EXISTS written (i int); INSERT INTO written VALUES (i); END;
                END LOOP;
                RETURN n;
            END $$""")
        assert conn.execute("SELECT many('bad_id'), many('bad_dim'), (SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'pgedge%')").fetchone() == (20, 20, 0)
        assert len(same(conn, k=1000)) == 900
        conn.execute("DROP TABLE bad_id, bad_dim")


def during_a_search(conn, other, what) -> psycopg.Error:
    """Runs a search of five seconds and more, and `what` when its workers are seen; they are gone soon after. Gives the error that ends the search."""
    workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'"
    failed = []

    def run():
        try:
            search(conn, "reported", k=4)
        except psycopg.Error as error:
            failed.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    while other.execute(workers).fetchone() == (0,):
        assert time.monotonic() < deadline
    time.sleep(0.1)
    started = time.monotonic()
    what()
    thread.join()
    assert time.monotonic() - started < 2
    while other.execute(workers).fetchone() != (0,):
        assert time.monotonic() < deadline
    return failed[0]


def test_a_cancel_or_a_process_that_is_ended(told):
    slow = WORKERS + "; SET test.what = 'sleep'; SET client_min_messages = warning"
    with told.connect() as conn, told.connect() as other:
        conn.execute(slow)
        assert during_a_search(conn, other, lambda: other.execute("SELECT pg_cancel_backend(%s)", (conn.info.backend_pid,))).sqlstate == "57014"
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'parallel worker'"
        assert during_a_search(conn, other, lambda: other.execute(end)).sqlstate == "57P01"
        conn.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            search(conn, "reported", k=4)
        conn.execute("RESET statement_timeout; RESET test.what")
        assert len(same(conn, k=1000)) == 900
        with told.connect() as leader:
            leader.execute(slow)
            during_a_search(leader, other, lambda: other.execute("SELECT pg_terminate_backend(%s)", (leader.info.backend_pid,)))


def test_without_a_worker_to_be_had(small):
    """All that the server may have are busy: the leader reads everything, even if it is not to take part."""
    with small.connect() as conn, small.connect() as busy:
        want = same(conn, k=1000)
        busy.execute(WORKERS + "; SET parallel_tuple_cost = 0; SET debug_parallel_query = on")
        done = threading.Event()

        def run():
            try:
                busy.execute("SELECT count(*) FROM t WHERE pg_sleep(0.02) IS NOT NULL")
            except psycopg.errors.QueryCanceled:
                done.set()
        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + 20
        while conn.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'").fetchone() == (0,):
            assert time.monotonic() < deadline
        conn.execute(WORKERS + "; SET max_parallel_workers = 1")
        for participation in ("on", "off"):
            conn.execute(f"SET parallel_leader_participation = {participation}")
            assert search(conn, "t", k=1000) == want
        conn.execute("SELECT pg_cancel_backend(%s)", (busy.info.backend_pid,))
        thread.join()
        assert done.is_set(), "it ended by itself, before the searches did"


class Cramped(Cluster):
    """A server that sees a small /dev/shm."""

    def run(self, *command, **kwargs):
        mount = 'mount -t tmpfs -o size=2m,mode=1777 tmpfs /dev/shm && exec setpriv --reuid="$0" --regid="$1" --clear-groups "${@:2}"'
        account = pwd.getpwnam(self.user)
        return subprocess.run(["unshare", "-m", "bash", "-c", mount, str(account.pw_uid), str(account.pw_gid), *map(str, command)],
                              **{"check": True, "cwd": self.folder, **kwargs})


def test_without_room_in_shared_memory():
    """Where the memory for workers cannot be had, one process does it: a container's /dev/shm is small."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=False, capture_output=True).returncode:
        pytest.skip("only one who may mount can make /dev/shm small")
    with Cramped({"fsync": "off"}) as c, psycopg.connect(c.dsn(), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION pgedge CASCADE; CREATE TABLE t AS SELECT i AS id, ARRAY[i % 30, i % 7, i % 11]::vector(3) AS embedding FROM generate_series(1, 900) i")
        batch = "(SELECT array_agg(ARRAY[i % 31, i % 7, i % 12]::vector) FROM generate_series(1, {}) i)"
        # with workers there would be 1.2 MB of queries beside what the server needs
        for queries in (10, 100_000):
            counts = f"SELECT count(*), sum(id::int) FROM pgedge.batch_search({batch.format(queries)}, 1, 'l2', relation => 't')"
            conn.execute(SERIAL + "; SET work_mem = '256MB'")
            want = conn.execute(counts).fetchone()
            assert want[0] == queries
            conn.execute(WORKERS)
            assert conn.execute(counts).fetchone() == want
        # and PostgreSQL's own plans, if they want as much, say so
        with pytest.raises(psycopg.errors.DiskFull):
            conn.execute("SET max_parallel_maintenance_workers = 2; SET maintenance_work_mem = '64MB'; ALTER TABLE t SET (parallel_workers = 2);"
                         " CREATE INDEX ON t USING hnsw (embedding vector_l2_ops)")


def test_pages_and_rows_are_counted(small):
    """What workers read is the statement's, and the table's."""
    with small.connect() as conn:
        pages = "SELECT pg_relation_size('t') / 8192"
        read = {}
        for mode in (SERIAL, WORKERS):
            conn.execute(mode + "; SET stats_fetch_consistency = none; SELECT pg_stat_force_next_flush()")
            search(conn, "t")
            rows = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 't'::regclass"
            conn.execute("SELECT pg_stat_force_next_flush()")
            before, = conn.execute(rows).fetchone()
            plan = "\n".join(r[0] for r in conn.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off) {SEARCH}"))
            read[mode] = int(plan.split("shared hit=")[1].split()[0])
            # a worker reports when it ends, which its leader does not wait for
            deadline = time.monotonic() + 10
            while True:
                conn.execute("SELECT pg_stat_force_next_flush()")
                after, = conn.execute(rows).fetchone()
                if after - before >= 900 or time.monotonic() > deadline:
                    break
            assert after - before == 900, mode
        assert read[SERIAL] >= conn.execute(pages).fetchone()[0] and read[WORKERS] >= conn.execute(pages).fetchone()[0]


def test_large_batches_travel(small):
    """A megabyte and a half of queries, and of rows found."""
    with small.connect() as conn:
        conn.execute("SET work_mem = '64MB'")
        batch = "(SELECT array_agg(ARRAY[i % 31, i % 7, i % 12]::vector) FROM generate_series(1, 20000) i)"
        conn.execute(SERIAL)
        digest = f"SELECT md5(string_agg(s::text, ';')), count(*) FROM pgedge.batch_search({batch}, 20, 'l2', relation => 't') s"
        want = conn.execute(digest).fetchone()
        assert want[1] == 400_000
        for participation in ("on", "off"):
            conn.execute(settings(participation))
            assert conn.execute(digest).fetchone() == want


def test_memory_does_not_grow_with_the_passes(small):
    """What each worker found is given back when it has been taken, not when the call ends."""
    with small.connect() as conn:
        conn.execute(WORKERS + "; SET work_mem = '4MB'")
        conn.execute("CREATE TABLE many AS SELECT i AS id, ARRAY[i % 97, i % 89, i % 83]::vector AS embedding FROM generate_series(1, 6000) i; CREATE TABLE few AS TABLE many LIMIT 2000")
        most = [0]
        done = threading.Event()

        def watch():
            while not done.wait(0.01):
                with open(f"/proc/{conn.info.backend_pid}/status", encoding="ascii") as f:
                    most[0] = max(most[0], next(int(line.split()[1]) for line in f if line.startswith("RssAnon")))
        thread = threading.Thread(target=watch)
        thread.start()
        count, = conn.execute("SELECT count(*) FROM pgedge.knn_join('many', 'few', 600)").fetchone()
        done.set()
        thread.join()
        assert count == 3_600_000
        assert most[0] < 50_000, f"{most[0]} kB"
