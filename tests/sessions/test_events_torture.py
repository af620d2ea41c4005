"""The event queue under everything at once: producers of every kind, workers that crash, stall, fail and repeat themselves, backends and the
server killed. PGEDGE_TORTURE_SECONDS (default 40) is how long that goes on; the rest is draining."""
from __future__ import annotations

import os
import random
import signal
import threading
import time

import psycopg
import pytest

from cluster import Cluster
from support import reconnect

SECONDS = float(os.environ.get("PGEDGE_TORTURE_SECONDS", "40"))
WORKERS, LEASE = 8, 1.5
ENOUGH = "100000"


class Witness:
    """What the clients know: what was committed, who holds what in which life of the server, what is finished for good."""

    def __init__(self):
        self.lock = threading.Lock()
        self.committed, self.uncertain, self.finished, self.leases, self.complaints, self.counts = set(), set(), {}, {}, [], {}

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def claimed(self, life, sent, rows):
        """Rows of (id, token, start and end of the lease in the server's time). Gives the leases, to be ended before they are given up."""
        mine = []
        with self.lock:
            for event, token, start, end in rows:
                lease = {"life": life, "start": start, "end": end, "token": token, "live": True}
                for other in self.leases.setdefault(event, []):
                    if other["live"] and other["life"] == life and other["start"] < end and start < other["end"]:
                        self.complaints.append(f"event {event} has two leases at once: {other}, {lease}")
                if self.finished.get(event, sent) < sent:
                    self.complaints.append(f"event {event} was handed out after it was finished")
                self.leases[event].append(lease)
                mine.append(lease)
        return mine

    def give_up(self, leases):
        with self.lock:
            for lease in leases:
                lease["live"] = False

    def finish(self, events):
        now = time.monotonic()
        with self.lock:
            for event in events:
                self.finished.setdefault(event, now)


def life_of(conn):
    """Which life of the server a session is in: a crash ends all leases, and the checkpointer starts anew."""
    return conn.execute("SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer'").fetchone()[0]


class Torture:
    def __init__(self, cluster):
        self.cluster, self.witness = cluster, Witness()
        self.chaos_over, self.stop = threading.Event(), threading.Event()
        self.errors = []

    def session(self, work, until, seed):
        """Runs work(conn, life, rng) again and again, in a new session after each crash."""
        rng = random.Random(seed)
        while not until.is_set():
            try:
                with psycopg.connect(self.cluster.dsn(), autocommit=True, connect_timeout=5) as conn:
                    life = life_of(conn)
                    while not until.is_set():
                        work(conn, life, rng)
            except (psycopg.OperationalError, psycopg.errors.AdminShutdown, TypeError) as error:
                if isinstance(error, TypeError) and "NoneType" not in str(error):
                    self.errors.append(error)
                    return
                time.sleep(0.1)
            except BaseException as error:  # noqa: BLE001 - shown by the main thread
                self.errors.append(error)
                return

    def produce(self, conn, life, rng):
        """Each row carries a name, so that what was committed is known even when the answer was lost."""
        names = [f"{rng.random()}" for _ in range(rng.randint(1, 8))]
        payloads = [f'"{n}"' for n in names]
        with self.witness.lock:
            self.witness.uncertain.update(names)
        how = rng.randrange(6)
        rolled_back = False
        if how == 0:
            conn.execute("SELECT pgedge.enqueue_events('t', %s::text[]::jsonb[], %s, max_attempts => " + ENOUGH + ")", (payloads, rng.randint(1, 10)))
        elif how == 1:
            conn.execute("SELECT pgedge.enqueue_events('u', %s::text[]::jsonb[], delay => '0.3 s', max_attempts => " + ENOUGH + ")", (payloads,))
        elif how == 2:
            keys = [str(rng.randint(1, 20)) for _ in names]
            conn.execute("SELECT pgedge.enqueue_events('t', %s::text[]::jsonb[], ordering_keys => %s, max_attempts => " + ENOUGH + ")", (payloads, keys))
        elif how == 3:
            conn.execute("INSERT INTO claude_events (event_type, payload, priority) SELECT 'plain', p::jsonb, %s FROM unnest(%s::text[]) p", (rng.choice([1, 5, 10, 77]), payloads))
        elif how == 4:
            with conn.cursor().copy("COPY claude_events (event_type, payload) FROM stdin") as copy:
                for p in payloads:
                    copy.write_row(("copied", p))
        else:
            rolled_back = rng.random() < 0.4
            with conn.transaction(force_rollback=rolled_back):
                for p in payloads:
                    with conn.transaction(force_rollback=False):
                        conn.execute("INSERT INTO claude_events (event_type, payload) VALUES ('slow', %s)", (p,))
                    time.sleep(rng.random() * 0.02)
        with self.witness.lock:
            self.witness.uncertain.difference_update(names)
            if not rolled_back:
                self.witness.committed.update(names)
        self.witness.count("produced")
        time.sleep(rng.random() * 0.03)

    def plain_consumer(self, conn, life, rng):
        """Knows nothing of pgedge: locks, marks, un-marks, updates."""
        what = rng.random()
        if what < 0.5:
            with conn.transaction(force_rollback=rng.random() < 0.3) as _:
                rows = conn.execute("SELECT id FROM claude_events WHERE status = 'pending' AND run_at IS NULL ORDER BY id DESC LIMIT 2 FOR UPDATE SKIP LOCKED").fetchall()
                conn.execute("UPDATE claude_events SET status = 'processed', processed_at = now() WHERE id = ANY (%s)", ([r[0] for r in rows],))
                time.sleep(rng.random() * 0.05)
        elif what < 0.8:
            conn.execute("UPDATE claude_events SET priority = 1 + floor(random() * 10)::int WHERE id IN (SELECT id FROM claude_events WHERE status = 'pending' LIMIT 3 FOR UPDATE SKIP LOCKED)")
        else:
            conn.execute("UPDATE claude_events SET payload = payload WHERE id IN (SELECT id FROM claude_events WHERE status = 'pending' LIMIT 3 FOR UPDATE SKIP LOCKED)")
        self.witness.count("plain")
        time.sleep(rng.random() * 0.05)

    def claim(self, conn, life, rng, n, types=None):
        sent = time.monotonic()
        rows = conn.execute("SELECT id, lease_token, lease_expires_at - %s::float8 * interval '1 s', lease_expires_at FROM pgedge.claim_events(%s, %s::float8 * interval '1 s', %s)",
                            (LEASE, n, LEASE, types)).fetchall()
        return [r[0] for r in rows], rows[0][1] if rows else None, self.witness.claimed(life, sent, rows)

    def work(self, conn, life, rng):
        types = rng.choice([None, None, None, ["t", "plain"], ["copied"]])
        n = rng.choice([1, 3, 10])
        if rng.random() < 0.15:
            # Claim, work and completion in one transaction, which may not come to its end.
            rolled_back = rng.random() < 0.4
            with conn.transaction(force_rollback=rolled_back):
                ids, token, leases = self.claim(conn, life, rng, n, types)
                self.witness.give_up(leases)
                done = [r[0] for r in conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids, token or 0))]
            if not rolled_back:
                self.witness.finish(done)
            return
        ids, token, leases = self.claim(conn, life, rng, n, types)
        if not ids:
            time.sleep(0.02)
            return
        what = rng.random()
        if what < 0.03:
            self.witness.count("crashed workers")
            self.witness.give_up([])  # it holds them until they expire
            conn.close()
            raise psycopg.OperationalError("this worker crashed")
        if what < 0.08:
            self.witness.count("stalled past the lease")
            time.sleep(LEASE * 1.2)
        self.witness.give_up(leases)
        if what < 0.65:
            done = [r[0] for r in conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids, token))]
            self.witness.finish(done)
            self.witness.count("completed")
            if what < 0.3:
                again = conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids, token)).fetchall()
                if {r[0] for r in again} & set(done):
                    self.witness.complaints.append(f"completed twice: {again}")
        elif what < 0.85:
            conn.execute("SELECT pgedge.fail_events(%s::bigint[], %s, 'torture', %s)", (ids, token, rng.choice([None, "0", "0.2 s"])))
            self.witness.count("failed")
        else:
            conn.execute("SELECT pgedge.release_events(%s::bigint[], %s)", (ids, token))
            self.witness.count("released")

    def drain(self, conn, life, rng):
        conn.execute("SELECT pgedge.redrive_events()")
        ids, token, leases = self.claim(conn, life, rng, 50)
        self.witness.give_up(leases)
        if ids:
            self.witness.finish([r[0] for r in conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids, token))])
        else:
            time.sleep(0.05)

    def kill(self, what):
        if what == "postmaster":
            self.cluster.kill_postmaster()
            self.cluster.start()
        else:
            with psycopg.connect(self.cluster.dsn(), autocommit=True) as conn:
                pids = [r[0] for r in conn.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")]
            os.kill(random.choice(pids), signal.SIGKILL)
        self.witness.count(f"kill -9 of a {what}")


def stats_agree(conn):
    """queue_stats beside a count of rows and leases, in one snapshot and with nobody at work."""
    stats = conn.execute("SELECT coalesce(sum(pending + processing + expired), 0), coalesce(sum(dead), 0), coalesce(sum(processing + expired), 0) FROM pgedge.queue_stats").fetchone()
    counted = conn.execute("SELECT count(*) FILTER (WHERE status IN ('pending', 'processing')), count(*) FILTER (WHERE status = 'dead'),"
                           " (SELECT count(*) FROM pgedge.event_leases l JOIN claude_events e ON e.id = l.id AND e.status = 'pending') FROM claude_events").fetchone()
    assert stats == counted


@pytest.mark.skipif(SECONDS <= 0, reason="PGEDGE_TORTURE_SECONDS is 0")
def test_torture():
    with Cluster({"pgedge.retry_base": "50ms", "pgedge.retry_cap": "500ms", "restart_after_crash": "on", "pgedge.priority_aging": "1s"}) as cluster:
        cluster.psql("CREATE EXTENSION pgedge CASCADE")
        t = Torture(cluster)
        w = t.witness
        jobs = [(t.produce, t.chaos_over)] * 4 + [(t.plain_consumer, t.chaos_over)] * 2 + [(t.work, t.chaos_over)] * WORKERS
        threads = [threading.Thread(target=t.session, args=(work, until, n)) for n, (work, until) in enumerate(jobs)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        try:
            kills = ["backend", "postmaster", "backend", "postmaster", "backend", "postmaster"]
            for n, what in enumerate(kills):
                time.sleep(max(0, started + SECONDS * (n + 1) / (len(kills) + 1) - time.monotonic()))
                assert not t.errors, t.errors[0]
                reconnect(cluster, 60).close()
                t.kill(what)
            time.sleep(max(0, started + SECONDS - time.monotonic()))
        finally:
            t.chaos_over.set()
            for thread in threads:
                thread.join(60)
        assert not t.errors, t.errors[0]
        assert not [thread for thread in threads if thread.is_alive()], "a session hangs"
        with reconnect(cluster, 60) as conn:
            stats_agree(conn)
            left = conn.execute("SELECT count(*) FROM claude_events WHERE status IN ('pending', 'dead')").fetchone()[0]
            drainers = [threading.Thread(target=t.session, args=(t.drain, t.stop, 100 + n)) for n in range(3)]
            for thread in drainers:
                thread.start()
            # Leases of workers that crashed have to expire, retries to become due, and that is all.
            deadline = time.monotonic() + 20 + left / 200
            while (unfinished := conn.execute("SELECT id, status, run_at, attempts, qx, lane FROM claude_events WHERE status NOT IN ('processed', 'cancelled') LIMIT 5").fetchall()) and time.monotonic() < deadline:
                time.sleep(0.1)
            t.stop.set()
            for thread in drainers:
                thread.join(30)
            lost = conn.execute("SELECT count(*) FROM claude_events WHERE status NOT IN ('processed', 'cancelled')").fetchone()[0]
            assert lost == 0, f"{lost} events are never handed out, such as {unfinished}; leases: {conn.execute('SELECT * FROM pgedge.event_leases').fetchall()[:5]}"
            stats_agree(conn)
            kept = {r[0] for r in conn.execute("SELECT payload #>> '{}' FROM claude_events WHERE status = 'processed'")}
        assert not t.errors, t.errors[0]
        print(f"{len(w.committed)} events, {w.counts}")
        assert w.complaints == []
        assert w.committed - kept == set(), "committed, but gone"
        assert kept - w.committed <= w.uncertain, "processed, but never committed"
        assert min(w.counts.get(k, 0) for k in ("produced", "plain", "completed", "failed", "released", "kill -9 of a backend", "kill -9 of a postmaster")) >= 3
        log = cluster.log.read_text(errors="replace")
        assert "PANIC" not in log and "event queue's order" not in log, log[-2000:]
