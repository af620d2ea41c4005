"""Completing and clearing away: the statement that is kept, pgedge.event_retention, and purges beside claims."""
from __future__ import annotations

import os
import threading
import time

import psycopg
import pytest

from test_events_queue import claim, enqueue, ids


@pytest.fixture
def conn(db):
    with db.connect() as c:
        yield c


def complete(conn, rows):
    return [r[0] for r in conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))]


def finished(conn, n, age="2 days", kind="old"):
    """Events that were finished some time ago, by whom does not matter."""
    conn.execute("INSERT INTO claude_events (event_type, payload, status, created_at, processed_at) SELECT %s, '{}', 'processed', now() - %s::interval, now() - %s::interval FROM generate_series(1, %s)",
                 (kind, age, age, n))


def count(conn, kind):
    return conn.execute("SELECT count(*) FROM claude_events WHERE event_type = %s", (kind,)).fetchone()[0]


def work_until(conn, done, seconds=30):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "retention does not come to its end"
        enqueue(conn)
        assert len(complete(conn, claim(conn, 1))) == 1
        time.sleep(0.01)


def test_retention_as_events_are_completed(conn):
    finished(conn, 10_000)
    finished(conn, 100, "1 hour", "young")
    conn.execute("INSERT INTO claude_events (event_type, payload, status, created_at) SELECT 'dead', '{}', 'dead', now() - interval '9 days' FROM generate_series(1, 10)")
    conn.execute("INSERT INTO claude_events (event_type, payload, status, created_at) SELECT 'cancelled', '{}', 'cancelled', now() - interval '9 days' FROM generate_series(1, 10)")
    conn.execute("INSERT INTO claude_events (event_type, payload, run_at, created_at) SELECT 'waiting', '{}', now() + interval '1 day', now() - interval '9 days' FROM generate_series(1, 10)")
    enqueue(conn)
    assert len(complete(conn, claim(conn, 1))) == 1
    assert count(conn, "old") == 10_000, "without the setting nothing is deleted"
    conn.execute("SET pgedge.event_retention = '1d'")
    work_until(conn, lambda: count(conn, "old") == count(conn, "cancelled") == 0)
    assert (count(conn, "young"), count(conn, "dead"), count(conn, "waiting")) == (100, 10, 10)


def test_retention_walks_again_and_deletes_a_little_at_a_time(conn):
    conn.execute("SET pgedge.event_retention = '20s'")  # from one walk through the table to the next a tenth of it passes
    for _ in range(2):
        finished(conn, 5_000)
        enqueue(conn)
        before = count(conn, "old")
        assert len(complete(conn, claim(conn, 1))) == 1
        assert before - count(conn, "old") <= 4_000, "one completion deletes what is on a few pages"
        work_until(conn, lambda: count(conn, "old") == 0)


def test_retention_that_fails_keeps_nobody_from_completing(db, conn):
    finished(conn, 5)
    conn.execute("CREATE TABLE notes (event int REFERENCES claude_events); INSERT INTO notes SELECT min(id) FROM claude_events")
    conn.execute("SET pgedge.event_retention = '1d'")
    for _ in range(3):
        event = enqueue(conn)
        assert complete(conn, claim(conn, 1)) == [event]
    assert count(conn, "old") == 5
    assert db.cluster.log.read_text().count("old events could not be deleted: update or delete on table \"claude_events\"") == 1, "it is not tried again at once"


def test_retention_waits_for_no_lock_and_is_undone_with_its_transaction(db, conn):
    finished(conn, 50)
    conn.execute("SET pgedge.event_retention = '1d'")
    enqueue(conn)
    rows = claim(conn, 1)
    with db.connect(autocommit=False) as other:
        other.execute("SELECT FROM claude_events WHERE event_type = 'old' LIMIT 20 FOR UPDATE")
        conn.execute("SET statement_timeout = '10s'")
        with conn.transaction(force_rollback=True):
            assert len(complete(conn, rows)) == 1
            assert count(conn, "old") == 20
        assert count(conn, "old") == 50
        assert len(complete(conn, rows)) == 1, "the lease is as it was"


def buffers(conn):
    """Pages that an empty claim touches."""
    plan = conn.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM pgedge.claim_events(10)").fetchone()[0][0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


class Workers:
    """Sessions that enqueue, claim and complete one event after the other. Whoever has to wait for a lock ends with an error."""

    def __init__(self, db, n=3):
        self.db, self.stopped, self.rounds, self.claims, self.errors = db, threading.Event(), [0] * n, [], []
        self.threads = [threading.Thread(target=self.work, args=(i,), daemon=True) for i in range(n)]

    def work(self, i):
        try:
            with self.db.connect() as conn:
                conn.execute("SET lock_timeout = '2s'")
                while not self.stopped.is_set():
                    enqueue(conn)
                    began = time.perf_counter()
                    rows = claim(conn, 1)
                    self.claims.append((began, time.perf_counter() - began))
                    if rows:
                        assert complete(conn, rows) == ids(rows)
                    self.rounds[i] += 1
        except Exception as error:  # noqa: BLE001
            self.errors.append(error)

    def each_does(self, more, seconds=60):
        until, goal = time.monotonic() + seconds, [r + more for r in self.rounds]
        while any(r < g for r, g in zip(self.rounds, goal)) and not self.errors:
            assert time.monotonic() < until, "the workers do not go on"
            time.sleep(0.01)
        assert not self.errors, self.errors

    def slowest(self, begin, end):
        spans = sorted(took for began, took in self.claims if begin <= began < end)
        return f"{len(spans)} claims, median {spans[len(spans) // 2] * 1000:.2f} ms, 99 % {spans[len(spans) * 99 // 100] * 1000:.2f} ms, slowest {spans[-1] * 1000:.1f} ms"

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for t in self.threads:
            t.join(30)


def test_a_purge_neither_blocks_claims_nor_bloats_them(db, conn):
    """PGEDGE_PURGE_EVENTS=1000000 purges a million."""
    n = int(os.environ.get("PGEDGE_PURGE_EVENTS", "200000"))
    for _ in range(n // 50_000):
        conn.execute("SELECT count(*) FROM pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[50000]))")
    while rows := claim(conn, 10_000):
        assert len(complete(conn, rows)) == len(rows)
    drained = conn.execute("SELECT clock_timestamp()::timestamp").fetchone()[0]
    conn.execute("VACUUM FULL claude_events")
    claim(conn)
    before, size = buffers(conn), conn.execute("SELECT pg_table_size('claude_events')").fetchone()[0]
    with db.connect(autocommit=False) as holder, db.connect(autocommit=False) as purger, Workers(db) as workers:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM claude_events")
        workers.each_does(100)
        began = time.perf_counter()
        assert purger.execute("SELECT pgedge.purge_events(localtimestamp - %s::timestamp)", (drained,)).fetchone() == (n,)
        purged = time.perf_counter()
        # Its transaction stays open: who waited for anything of it would wait now.
        workers.each_does(100)
        assert conn.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype <> 'extend'").fetchone() == (0,)
        purger.commit()
        workers.each_does(100)
        workers.stopped.set()
        for t in workers.threads:
            t.join(30)
        print(f"{n} purged in {purged - began:.1f} s; before: {workers.slowest(0, began)}; meanwhile: {workers.slowest(began, purged)}")
        while rows := claim(conn):
            complete(conn, rows)
        # Neither the dead rows, which the held snapshot keeps, nor their index entries are looked at.
        assert buffers(conn) <= before + 60
        event = enqueue(conn)
        with conn.transaction(force_rollback=True):
            assert buffers(conn) <= before + 60
        rows = claim(conn)
        assert ids(rows) == [event] and complete(conn, rows) == [event]
        assert conn.execute("SELECT count(*) = %s FROM claude_events", (sum(workers.rounds) + 1,)).fetchone() == (True,)
    # Once nobody needs them any more, their room is used again.
    conn.execute("VACUUM claude_events")
    for _ in range(n // 50_000):
        conn.execute("SELECT count(*) FROM pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[40000]))")
    assert conn.execute("SELECT pg_table_size('claude_events')").fetchone()[0] <= size * 1.05 + 1_000_000


def test_the_kept_statement_outlives_changes_of_the_table(db, conn):
    """One session completes before and after each."""
    changes = ["", "REINDEX TABLE claude_events", "ALTER TABLE claude_events ADD COLUMN mine text", "ALTER TABLE claude_events ALTER id TYPE bigint",
               "ANALYZE claude_events", "DELETE FROM claude_events", "VACUUM FULL claude_events", "TRUNCATE claude_events", "ALTER TABLE claude_events ALTER event_type TYPE text",
               "DROP TABLE claude_events; SELECT pgedge.create_tables()"]
    for change in changes:
        if change:
            with db.connect() as other:
                other.execute(change)
        for n in (1, 5):
            events = [enqueue(conn) for _ in range(n)]
            rows = claim(conn, worker="é" * 30)
            assert ids(rows) == events
            assert complete(conn, rows) == events, change
            assert complete(conn, rows) == []
    assert conn.execute("SELECT DISTINCT status, attempts, claimed_by, claimed_at <= now() FROM claude_events WHERE id = ANY (%s)", (events,)).fetchall() == [("processed", 1, "é" * 20, True)]


def test_completing_in_the_select_list_and_within_plpgsql(conn):
    events = [enqueue(conn) for _ in range(4)]
    rows = claim(conn)
    token = rows[0][2]
    assert conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s), 1", (events[:2], token)).fetchall() == [(e, 1) for e in events[:2]]
    conn.execute("CREATE FUNCTION done(ids bigint[], token bigint) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN"
                 " SELECT count(*) INTO n FROM pgedge.complete_events(ids, token); RETURN n; END $$")
    assert conn.execute("SELECT done(%s::bigint[], %s)", (events, token)).fetchone() == (2,)
    assert conn.execute("SELECT * FROM pgedge.complete_events('{}', 1)").fetchall() == []


def test_a_trigger_that_refuses_the_completion_leaves_the_lease(conn):
    event = enqueue(conn)
    rows = claim(conn)
    conn.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = 'P0099'; END $$")
    conn.execute("CREATE TRIGGER refuse BEFORE UPDATE ON claude_events FOR EACH ROW EXECUTE FUNCTION refuse()")
    for _ in range(2):
        with pytest.raises(psycopg.Error) as caught:
            complete(conn, rows)
        assert caught.value.sqlstate == "P0099"
        assert "PL/pgSQL function public.refuse() line 1 at RAISE" in caught.value.diag.context and "UPDATE ONLY public.claude_events" in caught.value.diag.context
    assert conn.execute("SHOW enable_seqscan").fetchone() == ("on",)
    conn.execute("DROP TRIGGER refuse ON claude_events")
    assert claim(conn) == [] and complete(conn, rows) == [event]


ERRORS = {  # body of a trigger, and what of the error reaches the client
    "all of it": ("RAISE 'message' USING ERRCODE = 'XY123', DETAIL = 'detail', HINT = 'hint', SCHEMA = 's', TABLE = 't', COLUMN = 'c', DATATYPE = 'd', CONSTRAINT = 'k'",
                  ("XY123", "message", "detail", "hint", "s", "t", "c", "d", "k", None)),
    "a constraint": ("INSERT INTO public.one VALUES (1)", ("23505", 'duplicate key value violates unique constraint "one_pkey"', "Key (n)=(1) already exists.", None, "public", "one", None, None, "one_pkey", None)),
    "a query": ("EXECUTE 'SELECT nothing'", ("42703", 'column "nothing" does not exist', None, None, None, None, None, None, None, "SELECT nothing")),
    "after one that was caught": ("BEGIN INSERT INTO public.one VALUES (1); EXCEPTION WHEN unique_violation THEN RAISE NOTICE 'caught'; END; RAISE 'later' USING ERRCODE = 'P0042'",
                                  ("P0042", "later", None, None, None, None, None, None, None, None)),
    "out of a nested call": ("PERFORM FROM pgedge.complete_events(ARRAY[NULL]::bigint[], 1)",
                             ("22004", "ids must not contain nulls: {NULL}", None, "Pass the ids that claim_events returned; an empty array is fine.", None, None, None, None, None, None)),
}


@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.parametrize("by", ["complete", "expire"])
def test_an_error_in_a_users_trigger_arrives_as_it_was_raised(conn, what, by):
    body, expected = ERRORS[what]
    enqueue(conn, max_attempts=1)
    rows = claim(conn, lease="5 minutes" if by == "complete" else "0.01 seconds")
    conn.execute("CREATE TABLE one (n int PRIMARY KEY); INSERT INTO one VALUES (1)")
    conn.execute(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$")
    conn.execute("CREATE TRIGGER refuse BEFORE UPDATE ON claude_events FOR EACH ROW EXECUTE FUNCTION refuse()")
    conn.execute("CREATE FUNCTION outer_one(ids bigint[], token bigint) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM pgedge.complete_events(ids, token); RETURN n; END $$")
    time.sleep(0.02)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("SELECT outer_one(%s::bigint[], %s)", (ids(rows), rows[0][2])) if by == "complete" else claim(conn)
    d = caught.value.diag
    assert (d.sqlstate, d.message_primary, d.message_detail, d.message_hint, d.schema_name, d.table_name, d.column_name, d.datatype_name, d.constraint_name, d.internal_query) == expected
    frames = [line for line in d.context.splitlines() if line.startswith("PL/pgSQL function")]
    assert frames[0].startswith("PL/pgSQL function public.refuse() line 1 at ") and [f.split("(")[0] for f in frames[1:]] == (["PL/pgSQL function outer_one"] if by == "complete" else [])
    assert d.context.count("public.claude_events e SET") == 1
    conn.execute("DROP TRIGGER refuse ON claude_events")
    if by == "complete":
        assert complete(conn, rows) == ids(rows)


@pytest.mark.parametrize("keys", [10, 1000])
def test_finished_events_of_ordering_keys_burden_no_others_while_a_snapshot_is_held(db, conn, keys):
    n = 60_000
    with db.connect(autocommit=False) as holder:
        claim(conn)
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM claude_events")
        conn.execute("INSERT INTO claude_events (event_type, payload, ordering_key) SELECT 'o', '{}', 'k' || n %% %s FROM generate_series(1, %s) n", (keys, n))
        conn.execute("UPDATE claude_events SET status = 'processed', processed_at = now()")
        events = [enqueue(conn) for _ in range(30)]
        taken, pages = [], []
        until = time.monotonic() + 30
        while len(taken) < 30:
            assert time.monotonic() < until
            plan = conn.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM pgedge.claim_events(1)").fetchone()[0][0]["Plan"]
            pages.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
            taken = [r[0] for r in conn.execute("SELECT id FROM pgedge.event_leases").fetchall()]
        assert sorted(taken) == events and len(pages) == 30
        # One walk over them is paid for now and then, not by each claim.
        assert sorted(pages)[20] < 40 < n // 200 < max(pages), pages
        # An ordered one is found at once where there is nothing else, soon where there is, and by those that wait.
        with db.connect() as producer:
            ordered = enqueue(producer, ordering_key="k1")
            assert ids(claim(conn, 1)) == [ordered]
            assert complete(conn, [(r[0], None, r[1]) for r in conn.execute("SELECT id, lease_token FROM pgedge.event_leases WHERE id = %s", (ordered,)).fetchall()]) == [ordered]
            ordered = enqueue(producer, ordering_key="k2", priority=1)
            while ordered not in ids(claim(conn, 1)):
                assert time.monotonic() < until
                enqueue(producer, priority=1)
            assert len(claim(conn, 10_000)) < 10_000
            claim(conn)
            ordered = enqueue(producer, ordering_key="k3")
            assert conn.execute("SELECT pgedge.wait_for_events('20 s')").fetchone() == (True,)
            assert ids(claim(conn)) == [ordered]


@pytest.mark.parametrize("rule", ["DEFERRABLE INITIALLY DEFERRED", "DEFERRABLE", "ON DELETE CASCADE", "ON DELETE SET NULL"])
def test_retention_leaves_out_what_could_fail_or_wait_at_commit(db, conn, rule):
    finished(conn, 5)
    conn.execute(f"CREATE TABLE notes (event int REFERENCES claude_events {rule}, v int); INSERT INTO notes SELECT id FROM claude_events")
    conn.execute("SET pgedge.event_retention = '1d'; SET statement_timeout = '10s'; SET CONSTRAINTS ALL DEFERRED")
    before = len(db.cluster.log.read_text())
    with db.connect(autocommit=False) as other:
        other.execute("UPDATE notes SET v = 1")
        for _ in range(3):
            event = enqueue(conn)
            assert complete(conn, claim(conn, 1)) == [event]
    assert count(conn, "old") == 5 and conn.execute("SELECT count(*) FROM notes WHERE event IS NOT NULL").fetchone() == (5,)
    said = db.cluster.log.read_text()[before:]
    assert said.count("deletes no old events because of foreign key notes_event_fkey of public.notes") == 1


def test_retention_waits_for_no_lock_of_a_foreign_key(db, conn):
    finished(conn, 5)
    conn.execute("CREATE TABLE notes (event int REFERENCES claude_events, v int); INSERT INTO notes SELECT id FROM claude_events")
    conn.execute("SET pgedge.event_retention = '1d'; SET statement_timeout = '10s'")
    with db.connect(autocommit=False) as other:
        other.execute("DELETE FROM notes")
        event = enqueue(conn)
        assert complete(conn, claim(conn, 1)) == [event]
    assert count(conn, "old") == 5 and conn.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_retention_and_completion_leave_inheriting_tables_alone(conn):
    """A row of another table may have the same id, and the same place in it."""
    waiting = [enqueue(conn) for _ in range(5)]
    conn.execute("CREATE TABLE younger () INHERITS (claude_events)")
    conn.execute("INSERT INTO younger (id, event_type, payload, status, processed_at) SELECT n, 'old', '{}', 'processed', now() - interval '2 days' FROM generate_series(1, 5) n")
    conn.execute("UPDATE younger SET status = 'pending', processed_at = NULL WHERE id = %s", (waiting[0],))
    conn.execute("SET pgedge.event_retention = '1d'")
    rows = claim(conn, 1)
    assert complete(conn, rows) == [waiting[0]]
    assert [r[0] for r in conn.execute("SELECT id FROM ONLY claude_events ORDER BY 1")] == waiting
    assert conn.execute("SELECT count(*), count(*) FILTER (WHERE status = 'processed') FROM younger").fetchone() == (5, 4)
