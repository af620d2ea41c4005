#!/usr/bin/env python3
"""Runs pgedge on the real input of examples/ in a throw-away server and shows what each family does. KEEP=1 leaves it running;
PGEDGE_DSN="host=… dbname=…" names an empty database to use instead."""
from __future__ import annotations

import json
import os
import struct
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg

from cluster import Cluster

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BATCH = 100  # lines a call, as a log aggregator sends them


def title(text: str) -> None:
    print(f"\n\033[1m── {text} {'─' * max(0, 100 - len(text))}\033[0m", flush=True)


@contextmanager
def timed(what: str, amount: int, unit: str):
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    print(f"   {what}: {amount:,} {unit} in {seconds * 1000:,.1f} ms ({amount / seconds:,.0f} a second)", flush=True)


def short(text: str, width: int = 92) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def logs(conn: psycopg.Connection) -> None:
    title("logs: raw lines in, patterns out")
    for path in sorted((EXAMPLES / "logs").glob("*.log")):
        lines = path.read_text().splitlines()
        with timed(f"{path.name:15}", len(lines), "lines"):
            for i in range(0, len(lines), BATCH):
                body = {"logs": [{"message": line, "source": path.stem} for line in lines[i : i + BATCH]]}
                conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::jsonb)", (json.dumps(body),))
    total, patterns = conn.execute("SELECT sum(count), count(*) FROM aggregated_logs").fetchone()
    print(f"   {total:,} lines became {patterns:,} patterns; the most frequent of each source:")
    for source, count, pattern in conn.execute(
        "SELECT source, count, message_pattern FROM (SELECT *, row_number() OVER (PARTITION BY source ORDER BY count DESC, id) n"
        " FROM aggregated_logs) t WHERE n <= 4 ORDER BY source, n"
    ):
        print(f"   {count:6,} × {source:11} {short(pattern)}")
    line = "2026-11-22 20:31:31 UTC [16490] postgres@shop ERROR:  relation \"orders\" does not exist at character 15"
    print(f"   log_pattern: {short(line)}\n              → {conn.execute('SELECT pgedge.log_pattern(%s)', (line,)).fetchone()[0]}")


def events(conn: psycopg.Connection, dsn: str) -> None:
    title("events: claimed once, leased, retried")
    rows = json.loads((EXAMPLES / "events.json").read_text())
    with timed("enqueued", len(rows), "events"):
        with conn.cursor() as cur:
            cur.executemany("SELECT pgedge.enqueue_event(%s, %s::jsonb, %s)",
                            [(r["event_type"], json.dumps(r["payload"]), r["priority"]) for r in rows])
    workers = [psycopg.connect(dsn, autocommit=True) for _ in range(3)]
    handled: list[int] = []
    failed = retried = 0
    with timed("handled by 3 workers", len(rows), "events"):
        busy = True
        while busy:
            busy = False
            for number, worker in enumerate(workers):
                batch = worker.execute("SELECT id, event_type, attempt, lease_token FROM pgedge.claim_events(10, '30 s', NULL, %s)", (f"demo-{number}",)).fetchall()
                if not batch:
                    continue
                busy = True
                token = batch[0][3]
                # every first attempt at a help request fails, and is retried at once
                bad = [b[0] for b in batch if b[1] == "help_request" and b[2] == 1]
                good = [b[0] for b in batch if b[0] not in bad]
                retried += sum(b[2] > 1 for b in batch)
                if bad:
                    failed += len(worker.execute("SELECT id FROM pgedge.fail_events(%s, %s, 'nobody was listening', '0 s')", (bad, token)).fetchall())
                if good:
                    handled += [r[0] for r in worker.execute("SELECT pgedge.complete_events(%s, %s)", (good, token)).fetchall()]
    for worker in workers:
        worker.close()
    assert len(handled) == len(set(handled)) == len(rows), "an event was lost or handled twice"
    print(f"   {failed} failed once, {retried} were handed out again; each of {len(set(handled))} was completed exactly once")
    done = conn.execute("SELECT event_type, priority, count(*), avg(processed_at - created_at) FROM claude_events WHERE status = 'processed' GROUP BY 1, 2 ORDER BY 2").fetchall()
    for event_type, priority, count, wait in done:
        print(f"   {count:6,} × {event_type:28} priority {priority}, done {wait.total_seconds() * 1000:.0f} ms after it came")


def copy_vectors(conn: psycopg.Connection, vectors: np.ndarray, texts: list[str]) -> None:
    """Binary COPY in pgvector's wire format: dimensions, an unused word, big-endian floats."""
    head = struct.pack(">HH", vectors.shape[1], 0)
    with conn.cursor() as cur, cur.copy("COPY vectors (embedding, content, source) FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
        for vector, text in zip(vectors.astype(">f4"), texts):
            copy.write(b"".join(struct.pack(">i", len(f)) + f for f in (head + vector.tobytes(), text.encode(), b"debian")).join([struct.pack(">h", 3), b""]))
        copy.write(struct.pack(">h", -1))


def similarity(conn: psycopg.Connection) -> None:
    title("similarity: exact answers for a batch of queries")
    vectors = np.load(EXAMPLES / "embeddings.npy").astype(np.float32)
    texts = (EXAMPLES / "descriptions.txt").read_text().splitlines()
    with timed("stored, with the specified HNSW and IVFFlat indexes", len(vectors), "embeddings"):
        copy_vectors(conn, vectors, texts)
    conn.execute("ANALYZE vectors")
    print(f"   kernels: {conn.execute('SELECT pgedge.simd_level()').fetchone()[0]}")
    queries = [r[0] for r in conn.execute("SELECT embedding::text FROM vectors ORDER BY content LIMIT 200").fetchall()]
    with timed("batch_search, 10 nearest of each", len(queries), "queries"):
        found = conn.execute("SELECT query_no, rank, id, similarity FROM pgedge.batch_search(%s::vector[], 10)", (queries,)).fetchall()
    start = time.perf_counter()
    conn.execute("SET enable_indexscan = off")
    scan = conn.execute(
        "SELECT q.n, array_agg(v.id::text) FROM unnest(%s::vector[]) WITH ORDINALITY q(e, n), LATERAL"
        " (SELECT id FROM vectors ORDER BY embedding <=> q.e, id LIMIT 10) v GROUP BY 1", (queries,)).fetchall()
    conn.execute("RESET enable_indexscan")
    print(f"   pgvector's exact scan, a query at a time: {(time.perf_counter() - start) * 1000:,.1f} ms")
    ours: dict[int, set[str]] = {}
    for query_no, _, id_, _ in found:
        ours.setdefault(query_no, set()).add(id_)
    same = sum(len(ours[n] & set(ids)) for n, ids in scan)
    print(f"   the same neighbours: {same:,} of {len(found):,}")
    for text in ("Play chess across 3 boards!.", texts[5], texts[700]):
        rows = conn.execute(
            "SELECT s.similarity, v.content FROM vectors q, pgedge.batch_search(ARRAY[q.embedding], 4) s JOIN vectors v ON v.id::text = s.id"
            " WHERE q.content = %s ORDER BY s.rank LIMIT 4", (text,)).fetchall()
        print(f"   like «{short(text, 70)}»")
        for value, content in rows[1:]:
            print(f"      {value:.3f}  {short(content, 80)}")


def operations(conn: psycopg.Connection) -> None:
    title("operations: what needs attention")
    for status, name, detail in conn.execute("SELECT status, check_name, detail FROM pgedge.health() ORDER BY array_position('{critical,warning,ok}', status), 2"):
        print(f"   {status:9} {name:28} {short(detail, 70)}")


def run(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS pgedge CASCADE")
        version, = conn.execute("SELECT 'pgedge ' || (SELECT extversion FROM pg_extension WHERE extname = 'pgedge')"
                                " || ', pgvector ' || (SELECT extversion FROM pg_extension WHERE extname = 'vector') || ', PostgreSQL '"
                                " || current_setting('server_version')").fetchone()
        print(f"   {version}")
        logs(conn)
        events(conn, dsn)
        similarity(conn)
        operations(conn)


def main() -> int:
    if dsn := os.environ.get("PGEDGE_DSN"):
        run(dsn)
        return 0
    keep = bool(os.environ.get("KEEP"))
    title("a throw-away PostgreSQL")
    cluster = Cluster()
    try:
        cluster.initdb().start()
        run(cluster.dsn())
        title("done")
        if keep:
            print(f"   The server is left running. Connect:  {cluster.bindir}/psql -h {cluster.folder} -p {cluster.port} -U postgres\n"
                  f"   Stop it:  {f'setpriv --reuid={cluster.user} --clear-groups ' if cluster.user else ''}{cluster.bindir}/pg_ctl -D {cluster.data} stop; rm -rf {cluster.folder}")
        else:
            print("   The server is stopped and its folder removed; KEEP=1 make demo leaves it running.")
        return 0
    except BaseException:
        keep = False
        if cluster.log.exists():
            print(cluster.log.read_text()[-4000:], file=sys.stderr)
        raise
    finally:
        if not keep:
            cluster.destroy()


if __name__ == "__main__":
    raise SystemExit(main())
