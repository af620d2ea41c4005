"""Consumers that only use REPEATABLE READ or SERIALIZABLE, whose claims see what is committed as it was when their transaction began."""
from __future__ import annotations

import time

import pytest

from test_events_queue import claim, enqueue, ids


@pytest.fixture(params=["repeatable read", "serializable"])
def consumer(request, db):
    with db.connect() as c:
        c.execute(f"SET default_transaction_isolation = '{request.param}'; SET statement_timeout = '60s'")
        yield c


@pytest.fixture
def conn(db):
    with db.connect() as c:
        yield c


def test_pauses_and_limits_take_effect(conn, consumer):
    for _ in range(20):
        enqueue(conn, "a")
    assert len(claim(consumer, 1)) == 1
    conn.execute("SELECT pgedge.pause_events('a')")
    assert claim(consumer, 3) == []
    conn.execute("SELECT pgedge.resume_events('a')")
    conn.execute("INSERT INTO pgedge.event_limits (event_type, max_concurrent) VALUES ('a', 5) ON CONFLICT (event_type) DO UPDATE SET max_concurrent = 5")
    assert len(claim(consumer, 10)) == 4
    # In a transaction whose snapshot is older than the change.
    with consumer.transaction():
        consumer.execute("SELECT count(*) FROM claude_events")
        conn.execute("UPDATE pgedge.event_limits SET max_concurrent = 7")
        assert len(claim(consumer, 10)) == 2
    assert claim(consumer, 10) == []


def test_what_plain_clients_finished_stops_nothing(conn, consumer):
    """More than one turn of a claim looks at is remembered as claimable, and finished by now."""
    conn.execute("SELECT pgedge.enqueue_events('a', array_fill('{}'::jsonb, ARRAY[6000]))")
    assert len(claim(consumer, 6000, "100 ms")) == 6000
    time.sleep(0.2)
    assert claim(consumer, 1, "100 ms", ["zz"]) == []
    conn.execute("UPDATE claude_events SET status = 'processed'")
    wanted = [enqueue(conn, "a") for _ in range(10)]
    assert ids(claim(consumer, 10)) == wanted


def test_what_an_old_snapshot_does_not_show_is_not_forgotten(conn, consumer):
    """Of events committed since: they are remembered, not seen, and there for the next transaction."""
    assert claim(conn) == []
    with consumer.transaction():
        consumer.execute("SELECT count(*) FROM claude_events")
        events = [enqueue(conn) for _ in range(3)]
        rows = claim(conn)
        conn.execute("SELECT pgedge.release_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))
        assert claim(consumer) == []
    assert ids(claim(consumer)) == events


def test_what_the_transaction_itself_deleted_is_there_after_its_rollback(conn, consumer):
    events = [enqueue(conn) for _ in range(3)]
    rows = claim(conn)
    conn.execute("SELECT pgedge.release_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))
    with consumer.transaction(force_rollback=True):
        consumer.execute("DELETE FROM claude_events")
        assert claim(consumer) == []
    assert ids(claim(consumer)) == events
