#!/usr/bin/env python3
"""The event queue beside a naive SKIP LOCKED queue over a table with the specified columns and indexes, in one run on one server.

    benches/events.py [seconds=30] [waiting=200000]

Prints events/s (claim + complete, 8 clients, batches of 10) while another session holds a snapshot open, in buckets of a third of the time, ours and
theirs taking turns; the median time of a priority claim of 10 with `waiting` events; the time of an empty claim; WAL bytes per event's life.
"""
from __future__ import annotations

import statistics
import sys
import threading
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from cluster import Cluster  # noqa: E402

CLIENTS, BATCH = 8, 10
NAIVE_TABLE = """
CREATE TABLE naive (id serial PRIMARY KEY, event_type varchar(50) NOT NULL, payload jsonb NOT NULL, priority int DEFAULT 5, status varchar(20) DEFAULT 'pending',
                    created_at timestamp DEFAULT now(), processed_at timestamp);
CREATE INDEX ON naive (status); CREATE INDEX ON naive (event_type); CREATE INDEX ON naive (created_at); CREATE INDEX ON naive (priority, id) WHERE status = 'pending'
"""
NAIVE_CLAIM = """UPDATE naive SET status = 'processing' WHERE id IN (SELECT id FROM naive WHERE status = 'pending' ORDER BY priority, id LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id"""
NAIVE_DONE = "UPDATE naive SET status = 'processed', processed_at = now() WHERE id = ANY (%s)"
CLAIM, DONE = "SELECT id, lease_token FROM pgedge.claim_events(%s)", "SELECT pgedge.complete_events(%s, %s)"


def ours(conn, n):
    rows = conn.execute(CLAIM, (n,), prepare=True).fetchall()
    if rows:
        conn.execute(DONE, ([r[0] for r in rows], rows[0][1]), prepare=True)
    return len(rows)


def naive(conn, n):
    rows = conn.execute(NAIVE_CLAIM, (n,), prepare=True).fetchall()
    if rows:
        conn.execute(NAIVE_DONE, ([r[0] for r in rows],), prepare=True)
    return len(rows)


def rate(cluster, step, seconds, batch=BATCH):
    """Events/s of all clients together."""
    counts, until = [0] * CLIENTS, time.monotonic() + seconds

    def client(number):
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            while time.monotonic() < until:
                counts[number] += step(conn, batch)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sum(counts) / seconds


def median_ms(conn, query, args, times=101):
    took = []
    for _ in range(times):
        start = time.perf_counter()
        with conn.transaction(force_rollback=True):
            conn.execute(query, args, prepare=True).fetchall()
        took.append((time.perf_counter() - start) * 1e3)
    return statistics.median(took)


def fill(conn, table, n):
    conn.execute(f"INSERT INTO {table} (event_type, payload, priority) SELECT 'load', '{{\"n\": 1}}', 1 + n %% 10 FROM generate_series(1, %s) n", (n,))


def main():
    seconds, waiting = (int(sys.argv[1]) if len(sys.argv) > 1 else 30), (int(sys.argv[2]) if len(sys.argv) > 2 else 200_000)
    with Cluster({"max_wal_size": "4GB"}) as cluster:
        cluster.psql("CREATE EXTENSION pgedge CASCADE;" + NAIVE_TABLE)
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            for table in ("claude_events", "naive"):
                fill(conn, table, waiting)
            print(f"a claim of {BATCH} by priority from {waiting} waiting: ours {median_ms(conn, CLAIM, (BATCH,)):.2f} ms, naive with a partial index {median_ms(conn, NAIVE_CLAIM, (BATCH,)):.2f} ms")
            with psycopg.connect(cluster.dsn()) as holder:
                holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT 1 FROM claude_events LIMIT 1")
                holder.execute("SELECT pg_current_snapshot()")
                print("snapshot held: ours, naive (events/s)")
                for _ in range(3):
                    a, b = rate(cluster, ours, seconds / 3), rate(cluster, naive, seconds / 3)
                    print(f"  {a:8.0f} {b:8.0f}   {a / max(b, 1):.1f}x")
            for name, table, step in (("ours", "claude_events", ours), ("naive", "naive", naive)):
                conn.execute(f"TRUNCATE {table}")
                conn.execute("CHECKPOINT")
                before = conn.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
                fill(conn, table, 20_000)
                while step(conn, 100):
                    pass
                wal = conn.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", (before,)).fetchone()[0]
                print(f"WAL per event, enqueued in bulk, claimed and completed by 100: {name} {float(wal) / 20_000:.0f} B")
            print(f"an empty claim: ours {median_ms(conn, CLAIM, (BATCH,)):.3f} ms, naive {median_ms(conn, NAIVE_CLAIM, (BATCH,)):.3f} ms, SELECT 1 {median_ms(conn, 'SELECT 1', ()):.3f} ms (client's time, each in a transaction)")
            conn.execute("INSERT INTO claude_events (event_type, payload, ordering_key) SELECT 'load', '{}', 'key ' || n % 1000 FROM generate_series(1, 100000) n")
            print(f"a claim of {BATCH} from 100,000 waiting of 1,000 ordering keys: {median_ms(conn, CLAIM, (BATCH,)):.2f} ms")


if __name__ == "__main__":
    main()
