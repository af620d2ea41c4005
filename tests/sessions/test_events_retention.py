"""Completing and clearing away: the statement that is kept, pgedge.event_retention, and purges beside claims."""
from __future__ import annotations

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


def test_a_purge_neither_blocks_claims_nor_bloats_them(db, conn):
    n = 20_000
    conn.execute("SELECT count(*) FROM pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[%s]))", (n,))
    while rows := claim(conn, 5000):
        assert len(complete(conn, rows)) == len(rows)
    claim(conn)
    before = buffers(conn)
    with db.connect(autocommit=False) as holder, db.connect(autocommit=False) as purger:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM claude_events")
        assert purger.execute("SELECT pgedge.purge_events('0')").fetchone() == (n,)
        conn.execute("SET lock_timeout = '2s'")
        for _ in range(20):
            event = enqueue(conn)
            rows = claim(conn)
            assert ids(rows) == [event] and complete(conn, rows) == [event]
        purger.commit()
        claim(conn)
        # Neither the dead rows, which the held snapshot keeps, nor their index entries are looked at.
        assert buffers(conn) <= before + 60
    assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (20,)


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
    assert conn.execute("SHOW enable_seqscan").fetchone() == ("on",)
    conn.execute("DROP TRIGGER refuse ON claude_events")
    assert claim(conn) == [] and complete(conn, rows) == [event]
