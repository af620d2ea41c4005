"""The event queue under eight sessions at once, and under crashes of a backend and of the server."""
from __future__ import annotations

import os
import random
import signal
import threading
import time

import psycopg

from support import reconnect

SESSIONS = 8


def together(work, sessions=SESSIONS):
    """Runs work(number) in threads and raises the first error of any."""
    errors = []

    def run(number):
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(sessions)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "a session hangs"
    if errors:
        raise errors[0]


class Live:
    """Who holds what just now; complains when something is handed out that someone holds."""

    def __init__(self):
        self.lock, self.held, self.done = threading.Lock(), set(), []

    def take(self, things):
        with self.lock:
            twice = self.held.intersection(things)
            assert not twice, f"handed out twice: {twice}"
            assert len(set(things)) == len(things)
            self.held.update(things)

    def give(self, things, done=False):
        with self.lock:
            self.held.difference_update(things)
            if done:
                self.done += things


def claim(conn, n, lease="5 minutes"):
    return conn.execute("SELECT id, lease_token, payload, lease_expires_at FROM pgedge.claim_events(%s, %s)", (n, lease)).fetchall()


def test_nothing_twice_nothing_lost(db):
    """Completed, failed, released, rolled back, marked and deleted by plain clients: each event ends once, with never two holders."""
    db.sql("INSERT INTO claude_events (event_type, payload, priority) SELECT 't', '{}', 1 + n % 10 FROM generate_series(1, 1500) n")
    live, enqueued = Live(), []

    def worker(number):
        rng = random.Random(number)
        with db.connect() as conn:
            for round_ in range(10):
                enqueued.extend(r[0] for r in conn.execute("SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[10]), %s, max_attempts => 1000)", (rng.randint(1, 10),)))
            while rows := claim(conn, rng.randint(1, 15)):
                ids, token = [r[0] for r in rows], rows[0][1]
                live.take(ids)
                what = rng.random()
                live.give(ids, done=what < 0.5)
                if what < 0.4:
                    assert sorted(r[0] for r in conn.execute("SELECT pgedge.complete_events(%s, %s)", (ids, token))) == sorted(ids)
                elif what < 0.5:
                    conn.execute("UPDATE claude_events SET status = 'processed' WHERE id = ANY (%s)", (ids,))
                    assert conn.execute("SELECT pgedge.complete_events(%s, %s)", (ids, token)).fetchall() == []
                elif what < 0.75:
                    conn.execute("SELECT pgedge.fail_events(%s, %s, 'again', '0')", (ids, token))
                else:
                    conn.execute("SELECT pgedge.release_events(%s, %s)", (ids, token))
                if rng.random() < 0.1:
                    with conn.transaction(force_rollback=True):
                        claim(conn, 5)

    db.sql("UPDATE claude_events SET max_attempts = 1000")
    together(worker)
    # The last claims of some may have met rows that others held in transactions rolled back later.
    with db.connect() as conn:
        while rows := claim(conn, 100):
            live.take([r[0] for r in rows])
            live.give([r[0] for r in rows], done=True)
            conn.execute("SELECT pgedge.complete_events(%s, %s)", ([r[0] for r in rows], rows[0][1]))
    assert len(enqueued) == SESSIONS * 100
    assert len(live.done) == len(set(live.done)) == 1500 + len(enqueued)
    assert db.sql("SELECT status, count(*) FROM claude_events GROUP BY 1") == [("processed", 2300)]


def test_an_open_claim_blocks_nobody(db):
    db.sql("SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[20]))")
    with db.connect(autocommit=False) as slow, db.connect() as fast:
        held = {r[0] for r in claim(slow, 5)}
        fast.execute("SET statement_timeout = '2s'")
        got = {r[0] for r in claim(fast, 100)}
        assert len(got) == 15 and not got & held
        slow.rollback()
        assert {r[0] for r in claim(fast, 100)} == held


def test_ordering_keys(db):
    """One of a key at a time and in order, with writers that commit late and retries in between."""
    live, order = Live(), []
    writing = {0, 1, 2}

    def session(number):
        rng = random.Random(number)
        with db.connect() as conn:
            if number in writing:
                for _ in range(40):
                    with conn.transaction():
                        for _ in range(3):
                            conn.execute("SELECT pgedge.enqueue_event('t', to_jsonb(%(key)s::text), max_attempts => 1000, ordering_key => %(key)s)", {"key": str(rng.randint(1, 6))})
                        time.sleep(rng.random() * 0.004)
                writing.discard(number)
                return
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                rows = claim(conn, 3)
                if not rows:
                    if not writing and not conn.execute("SELECT FROM claude_events WHERE status <> 'processed'").fetchall():
                        return
                    time.sleep(0.002)
                    continue
                live.take([r[2] for r in rows])
                done = rng.random() < 0.8
                with live.lock:
                    order.extend((r[0], r[2]) for r in rows if done)
                live.give([r[2] for r in rows])
                if done:
                    conn.execute("SELECT pgedge.complete_events(%s, %s)", ([r[0] for r in rows], rows[0][1]))
                else:
                    conn.execute("SELECT pgedge.fail_events(%s, %s, NULL, '0')", ([r[0] for r in rows], rows[0][1]))

    together(session)
    assert len(order) == len({r[0] for r in order}) == 360
    assert db.sql("SELECT DISTINCT status FROM claude_events") == [("processed",)]
    # The order itself is checked below, without late writers: an event committed after a later id was handed out comes after it.


def test_ordering_keys_in_order(db):
    db.sql("SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[240]), ordering_keys => ARRAY(SELECT (n % 5)::text FROM generate_series(1, 240) n))")
    lock, order = threading.Lock(), []

    def worker(number):
        with db.connect() as conn:
            while conn.execute("SELECT FROM claude_events WHERE status <> 'processed'").fetchall():
                rows = claim(conn, 4)
                with lock:
                    order.extend(r[0] for r in rows)
                if rows:
                    conn.execute("SELECT pgedge.complete_events(%s, %s)", ([r[0] for r in rows], rows[0][1]))

    together(worker)
    first = db.value("SELECT min(id) FROM claude_events")
    for key in range(5):
        mine = [i for i in order if (i - first) % 5 == key]
        assert mine == sorted(mine) and len(mine) == 48


def test_ordering_key_with_a_late_earlier_event(db):
    """The earlier id is committed after the later one was handed out: it waits, in a fixed snapshot too."""
    with db.connect(autocommit=False) as late, db.connect() as one, db.connect() as fixed:
        late.execute("SELECT pgedge.enqueue_event('t', '{}', ordering_key => 'k')")
        db.sql("SELECT pgedge.enqueue_event('t', '{}', ordering_key => 'k')")
        fixed.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        fixed.execute("SELECT 1 FROM claude_events")
        [(second, token, *_)] = claim(one, 5)
        assert claim(fixed, 5) == []
        fixed.rollback()
        late.commit()
        assert claim(one, 5) == [] == claim(fixed, 5)
        one.execute("SELECT pgedge.complete_events(%s, %s)", ([second], token))
        assert [r[0] for r in claim(fixed, 5)] == [second - 1]


def test_dedup(db):
    """Eight sessions enqueue the same keys, singly and in bulk in different orders, while they are worked off."""
    def session(number):
        rng = random.Random(number)
        with db.connect() as conn:
            for _ in range(25):
                keys = [f"k{rng.randint(1, 12)}" for _ in range(6)]
                with conn.transaction():
                    got = conn.execute("SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[6]), dedup_keys => %s)", (keys,)).fetchall()
                assert len(got) == 6 and None not in [g[0] for g in got]
                conn.execute("SELECT pgedge.enqueue_event('t', '{}', dedup_key => %s)", (keys[0],))
                rows = claim(conn, 4)
                if rows:
                    conn.execute("SELECT pgedge.complete_events(%s, %s)", ([r[0] for r in rows], rows[0][1]))
                twice = conn.execute("SELECT dedup_key FROM claude_events WHERE status IN ('pending', 'processing') GROUP BY 1 HAVING count(*) > 1").fetchall()
                assert twice == []

    together(session)


def test_crashes_lose_nothing(fresh_cluster):
    """kill -9 of a busy backend, then of the postmaster, then a restart: what was completed stays so, all else can be claimed at once, old tokens do nothing."""
    fresh_cluster.psql("CREATE EXTENSION pgedge CASCADE")
    fresh_cluster.psql("SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[3000]), max_attempts => 100)")
    for crash in ("backend", "postmaster", "restart"):
        live, tokens, completed = Live(), {}, set()
        stop = threading.Event()

        def worker(number):
            try:
                with psycopg.connect(fresh_cluster.dsn(), autocommit=True) as conn:
                    while not stop.is_set():
                        rows = claim(conn, 3)
                        if not rows:
                            return
                        live.take([r[0] for r in rows])
                        tokens.update((r[0], r[1]) for r in rows)
                        time.sleep(0.03)
                        ids = [r[0] for r in rows]
                        done = [r[0] for r in conn.execute("SELECT pgedge.complete_events(%s, %s)", (ids, rows[0][1]))]
                        assert sorted(done) == sorted(ids)
                        completed.update(done)
                        live.give(ids)
            except psycopg.OperationalError:
                pass  # the crash

        def crasher():
            time.sleep(0.4)
            if crash == "postmaster":
                fresh_cluster.kill_postmaster()
            elif crash == "restart":
                fresh_cluster.stop()
            else:
                with psycopg.connect(fresh_cluster.dsn(), autocommit=True) as conn:
                    pid = conn.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1").fetchone()[0]
                    os.kill(pid, signal.SIGKILL)

        together(lambda n: crasher() if n == SESSIONS else worker(n), SESSIONS + 1)
        stop.set()
        if crash != "backend":
            fresh_cluster.start()
        with reconnect(fresh_cluster) as conn:
            assert completed and live.held, "the crash came too late or too early to show anything"
            assert conn.execute("SELECT count(*) FROM claude_events WHERE id = ANY (%s) AND status <> 'processed'", (list(completed),)).fetchone() == (0,)
            assert conn.execute("SELECT * FROM pgedge.event_leases").fetchall() == []
            # A completion whose answer was lost may stand; every other is claimable now, and its old token does nothing.
            lost = {r[0] for r in conn.execute("SELECT id FROM claude_events WHERE id = ANY (%s) AND status = 'pending'", (list(live.held),))}
            rows = claim(conn, 10_000)
            assert lost <= {r[0] for r in rows}
            for event in lost:
                assert conn.execute("SELECT pgedge.complete_events(%s, %s)", ([event], tokens[event])).fetchall() == []
            conn.execute("SELECT pgedge.release_events(%s, %s)", ([r[0] for r in rows], rows[0][1]))
    with reconnect(fresh_cluster) as conn:
        while rows := claim(conn, 1000):
            conn.execute("SELECT pgedge.complete_events(%s, %s)", ([r[0] for r in rows], rows[0][1]))
        assert conn.execute("SELECT status, count(*) FROM claude_events GROUP BY 1").fetchall() == [("processed", 3000)]
