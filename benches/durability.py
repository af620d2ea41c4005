#!/usr/bin/env python3
"""What each durability setting costs: fsyncs and bytes of WAL (pg_stat_wal) for the queue's and the log aggregator's work, on a throw-away server.

    . scripts/common.sh && load_env && PYTHONPATH=scripts $PYTHON benches/durability.py

Counts, not times: they are the same on a card and on a disk. A flash card wears by the bytes and by the fsyncs, each of which it may have to
answer with the erasure of a whole block.
"""
from __future__ import annotations

import sys
import threading
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from cluster import Cluster  # noqa: E402

EVENTS = 2000
PAYLOAD = '{"source": "sensor-7", "value": 21.5, "unit": "celsius"}'


def stats(conn: psycopg.Connection) -> tuple[int, int, int]:
    """Bytes of WAL, fsyncs of WAL, whole pages in it."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    return tuple(int(v) for v in conn.execute("SELECT wal_bytes, wal_sync, wal_fpi FROM pg_stat_wal").fetchone())


def enqueue(conn: psycopg.Connection, number: int, batch: int) -> None:
    for _ in range(number // batch):
        if batch == 1:
            conn.execute("SELECT pgedge.enqueue_event('metrics', %s)", [PAYLOAD])
        else:
            conn.execute("SELECT count(*) FROM pgedge.enqueue_events('metrics', array_fill(%s::jsonb, ARRAY[%s]))", [PAYLOAD, batch])
    conn.execute("SELECT pg_stat_force_next_flush()")


def handle(conn: psycopg.Connection, number: int, batch: int) -> None:
    for _ in range(number // batch):
        rows = conn.execute("SELECT id, lease_token FROM pgedge.claim_events(%s)", [batch]).fetchall()
        conn.execute("SELECT count(*) FROM pgedge.complete_events(%s, %s)", [[r[0] for r in rows], rows[0][1]])
    conn.execute("SELECT pg_stat_force_next_flush()")


def lines(conn: psycopg.Connection, number: int, batch: int) -> None:
    for i in range(number // batch):
        conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::text[], 'INFO', 'auth')", [[f"User {i * batch + n} logged in" for n in range(batch)]])
    conn.execute("SELECT pg_stat_force_next_flush()")


def parallel(cluster: Cluster, work, number: int, batch: int, sessions: int, setting: str) -> None:
    def one():
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute(setting)
            work(conn, number // sessions, batch)

    threads = [threading.Thread(target=one) for _ in range(sessions)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def measure(cluster: Cluster, what: str, work, batch: int = 1, sessions: int = 1, setting: str = "SET synchronous_commit = on", checkpoints: int = 1) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute("TRUNCATE claude_events, aggregated_logs")
        if work is handle:
            enqueue(conn, EVENTS, 100)
        conn.execute("CHECKPOINT")
        before = stats(conn)
        for _ in range(checkpoints):
            if checkpoints > 1:
                conn.execute("CHECKPOINT")
            parallel(cluster, work, EVENTS // checkpoints, batch, sessions, setting)
        wal, syncs, pages = (b - a for a, b in zip(before, stats(conn)))
    print(f"| {what} | {syncs:,} | {wal / 1024:,.0f} kB | {pages} |", flush=True)


def main() -> None:
    # No background work that would write in between.
    with Cluster({"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1h", "wal_compression": "on"}) as cluster:
        cluster.psql("CREATE EXTENSION pgedge CASCADE")
        print(f"{EVENTS} events or lines; {cluster.psql('SELECT version()').split(' on ')[0]}\n\n| | fsyncs of WAL | WAL | whole pages |\n| --- | --- | --- | --- |")
        off = "SET synchronous_commit = off"
        measure(cluster, "enqueue one by one", enqueue)
        measure(cluster, "the same, 4 sessions", enqueue, sessions=4)
        measure(cluster, "the same, `synchronous_commit = off`", enqueue, setting=off)
        measure(cluster, "enqueue 100 at a time", enqueue, batch=100)
        measure(cluster, "claim and complete one by one", handle)
        measure(cluster, "claim and complete 100 at a time", handle, batch=100)
        measure(cluster, "aggregate lines one by one", lines)
        measure(cluster, "the same, `synchronous_commit = off`", lines, setting=off)
        measure(cluster, "aggregate 100 lines at a time", lines, batch=100)
        measure(cluster, "enqueue one by one, 20 checkpoints meanwhile", enqueue, checkpoints=20)
        cluster.psql("ALTER SYSTEM SET wal_compression = off")
        cluster.psql("SELECT pg_reload_conf()")
        measure(cluster, "the same, `wal_compression = off`", enqueue, checkpoints=20)
        cluster.psql("ALTER SYSTEM SET full_page_writes = off")
        cluster.psql("SELECT pg_reload_conf()")
        measure(cluster, "the same, `full_page_writes = off`", enqueue, checkpoints=20)


if __name__ == "__main__":
    main()
