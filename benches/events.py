#!/usr/bin/env python3
"""The event queue beside a naive FOR UPDATE SKIP LOCKED queue over the specified table, and pgmq where its SQL is at hand; pgbench drives all.

    benches/events.py                    every part, then docs/benchmarks/events.md and events.svg
    benches/events.py PART …             parts: held-backlog held-small million load-1 load-10 load-100 wal small report
    PGMQ_SQL=path/to/pgmq.sql            the script of pgmq, to have it beside

Each part runs the systems in turn on one server of its own and keeps its figures in .build/bench-events.json, of which `report` writes the page.
"""
from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from cluster import Cluster  # noqa: E402

BUILD = Path(os.environ.get("PGEDGE_BUILD", ROOT / ".build"))
RESULTS, OUT = BUILD / "bench-events.json", ROOT / "docs" / "benchmarks"
SECONDS = float(os.environ.get("SECONDS_EACH", "3"))
REPEATS = int(os.environ.get("REPEATS", "5"))

COLUMNS = """(id serial PRIMARY KEY, event_type varchar(50) NOT NULL, payload jsonb NOT NULL, priority int DEFAULT 5, status varchar(20) DEFAULT 'pending',
              created_at timestamp DEFAULT now(), processed_at timestamp)"""
SPECIFIED = "CREATE INDEX ON {0} (status); CREATE INDEX ON {0} (event_type); CREATE INDEX ON {0} (created_at)"
PAYLOAD = '{{"text_id": 17, "similarity": 0.97}}'  # braces doubled for format


class System:
    """How to set a queue up, fill it, and the pgbench scripts for claiming and finishing n events, and for a whole life."""

    def __init__(self, name, setup, fill, claim, finish):
        self.name, self.setup, self.fill, self.claim, self.finish = name, setup, fill, claim, finish

    def script(self, n, whole_life):
        enqueue = self.fill.format(n=n).rstrip(";") + ";\n" if whole_life else ""
        return f"{enqueue}{self.claim.format(n=n)} \\gset\n{self.finish.format(n=n)};\n"


def naive(name, index, order):
    return System(
        name, f"CREATE TABLE {name} {COLUMNS}; {SPECIFIED.format(name)}; {index}",
        f"INSERT INTO {name} (event_type, payload, priority) SELECT 'load', '{PAYLOAD}', 1 + g % 10 FROM generate_series(1, {{n}}) g",
        f"WITH c AS (UPDATE {name} SET status = 'processing' WHERE id IN (SELECT id FROM {name} WHERE status = 'pending' ORDER BY {order} LIMIT {{n}} FOR UPDATE SKIP LOCKED) RETURNING id)"
        " SELECT coalesce(array_agg(id)::text, '{{}}') AS ids FROM c",
        f"UPDATE {name} SET status = 'processed', processed_at = now() WHERE id = ANY (:ids::int[])")


OURS = System(
    "pgedge", "CREATE EXTENSION pgedge CASCADE",
    f"INSERT INTO claude_events (event_type, payload, priority) SELECT 'load', '{PAYLOAD}', 1 + g % 10 FROM generate_series(1, {{n}}) g",
    "SELECT coalesce(array_agg(id)::text, '{{}}') AS ids, coalesce(min(lease_token), 0) AS token FROM pgedge.claim_events({n})",
    "SELECT count(*) FROM pgedge.complete_events(:ids::bigint[], :token)")
PARTIAL = naive("naive_partial", "CREATE INDEX ON naive_partial (priority, id) WHERE status = 'pending'", "priority, id")


def pgmq():
    path = os.environ.get("PGMQ_SQL")
    if not path:
        return None
    return System(
        "pgmq", "CREATE SCHEMA IF NOT EXISTS pgmq; " + Path(path).read_text() + "; SELECT pgmq.create('q')",
        f"SELECT count(*) FROM pgmq.send_batch('q', array_fill('{PAYLOAD}'::jsonb, ARRAY[{{n}}]))",
        "SELECT coalesce(array_agg(msg_id)::text, '{{}}') AS ids FROM pgmq.read('q', 300, {n})",
        "SELECT count(*) FROM pgmq.archive('q', :ids::bigint[])")


def systems(*wanted):
    return [s for s in (wanted or (OURS, PARTIAL, pgmq())) if s]


def server(these, **settings):
    cluster = Cluster({"max_wal_size": "8GB", "shared_buffers": "1GB", "checkpoint_timeout": "30min", "autovacuum": "on", **settings})
    cluster.__enter__()
    for s in these:
        cluster.tool("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "-", input=s.setup + ";", text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return cluster


def pgbench(cluster, script, clients, seconds, every=None):
    """Transactions per second; with `every`, a list of them for each so many seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as f:
        f.write(script)
        f.flush()
        out = cluster.tool("pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(max(1, round(seconds))), "-f", f.name,
                           *(["-P", str(every)] if every else []), "postgres", capture_output=True, text=True)
    if every:
        return [float(x) for x in re.findall(r"progress: [\d.]+ s, ([\d.]+) tps", out.stderr)]
    return float(re.search(r"tps = ([\d.]+)", out.stdout)[1])


def connect(cluster, **kwargs):
    return psycopg.connect(cluster.dsn(), autocommit=True, **kwargs)


def fill(cluster, s, n):
    for start in range(0, n, 200_000):
        cluster.psql(s.fill.format(n=min(200_000, n - start)))
    cluster.psql("CHECKPOINT")


def median_ms(conn, query, args=(), times=101):
    took = []
    for _ in range(times):
        start = time.perf_counter()
        with conn.transaction(force_rollback=True):
            conn.execute(query, args, prepare=True).fetchall()
        took.append((time.perf_counter() - start) * 1e3)
    return statistics.median(took)


CLAIM = "SELECT id, lease_token FROM pgedge.claim_events(%s)"


def held(whole_life, backlog):
    """8 clients, batch 10, a snapshot held all the time: events/s in 10 s buckets, dead rows and bytes at the end."""
    found = {}
    for s in systems():
        cluster = server([s])
        try:
            if not whole_life:
                # Ours uses up some 15,000 a second, and a million must still wait at the end.
                fill(cluster, s, backlog + (1_600_000 if s is OURS else 400_000))
            with psycopg.connect(cluster.dsn()) as holder:
                holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT txid_current_snapshot(), count(*) FROM pg_class")
                buckets = [10 * tps for tps in pgbench(cluster, s.script(10, whole_life), 8, 80, every=10)]
            with connect(cluster) as conn:
                conn.execute("SELECT pg_stat_force_next_flush()")
                dead, size, index = conn.execute("SELECT sum(n_dead_tup)::bigint, sum(pg_table_size(relid))::bigint, sum(pg_indexes_size(relid))::bigint FROM pg_stat_user_tables WHERE n_tup_ins > 0").fetchone()
                left = conn.execute("SELECT count(*) FROM claude_events WHERE status = 'pending'").fetchone()[0] if s is OURS else None
            found[s.name] = {"buckets": buckets, "dead": dead, "table": size, "index": index, "left": left}
            print(s.name, [round(b) for b in buckets], dead, left, flush=True)
        finally:
            cluster.destroy()
    return found


def million():
    found = {}
    cluster = server(systems())
    try:
        for s in systems():
            found[s.name] = {}
            for waiting in (1_000, 1_000_000):
                # Filled up again before each turn, so that it is really so many.
                rates = {}
                for clients, batch in ((8, 10), (8, 100)):
                    tries = []
                    for _ in range(3):
                        need = waiting + (0 if waiting > 1000 else 30_000)
                        have = {"pgedge": "claude_events", "pgmq": "pgmq.q_q"}.get(s.name, s.name)
                        now = int(cluster.psql(f"SELECT count(*) FROM {have}" + ("" if s.name == "pgmq" else " WHERE status = 'pending'")))
                        if now < need and waiting > 1000:
                            fill(cluster, s, need - now)
                        whole = waiting == 1000
                        if whole and now < waiting:
                            fill(cluster, s, waiting - now)
                        # A thousand waiting stay a thousand only when as many come in: so both are measured over whole lives.
                        tries.append(batch * pgbench(cluster, s.script(batch, True), clients, SECONDS))
                    rates[f"{clients}x{batch}"] = statistics.median(tries)
                found[s.name][str(waiting)] = rates
                print(s.name, waiting, rates, flush=True)
            if s is OURS:
                with connect(cluster) as conn:
                    found[s.name]["claim_ms"] = median_ms(conn, CLAIM, (10,))
                    print("claim of 10 by priority from a million:", found[s.name]["claim_ms"], "ms", flush=True)
            cluster.psql("TRUNCATE " + {"pgedge": "claude_events", "pgmq": "pgmq.q_q"}.get(s.name, s.name))
    finally:
        cluster.destroy()
    return found


def load(batch):
    """Whole lives in a nearly empty queue."""
    these = systems()
    cluster = server(these)
    rates = {s.name: {} for s in these}
    try:
        for clients in (1, 4, 8, 16):
            tries = {s.name: [] for s in these}
            for turn in range(REPEATS):
                for s in these[turn % len(these):] + these[:turn % len(these)]:
                    tries[s.name].append(batch * pgbench(cluster, s.script(batch, True), clients, SECONDS))
            for name, values in tries.items():
                rates[name][str(clients)] = statistics.median(values)
            print(batch, clients, {k: round(v[str(clients)]) for k, v in rates.items()}, flush=True)
    finally:
        cluster.destroy()
    return rates


def wal():
    found = {}
    these = systems()
    cluster = server(these)
    try:
        for batch in (10, 100):
            for s in these:
                n = 20_000 // batch
                cluster.psql("CHECKPOINT")
                with connect(cluster) as conn:
                    before = conn.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
                    with tempfile.NamedTemporaryFile("w", suffix=".sql") as f:
                        f.write(s.script(batch, True))
                        f.flush()
                        cluster.tool("pgbench", "-n", "-M", "prepared", "-c", "1", "-t", str(n), "-f", f.name, "postgres", capture_output=True, text=True)
                    bytes_ = conn.execute("SELECT pg_current_wal_lsn() - %s::pg_lsn", (before,)).fetchone()[0]
                found.setdefault(s.name, {})[str(batch)] = float(bytes_) / (n * batch)
        print(found, flush=True)
    finally:
        cluster.destroy()
    return found


def server_cpu(pid):
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def small():
    """What is one figure each."""
    found = {}
    cluster = server([OURS])
    try:
        with connect(cluster) as conn:
            pid = conn.execute("SELECT pg_backend_pid()").fetchone()[0]
            conn.execute(CLAIM, (1,), prepare=True)
            lsn = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
            cpu, polls = server_cpu(pid), 20_000
            for _ in range(polls):
                conn.execute(CLAIM, (10,), prepare=True).fetchall()
            found["empty_poll_us"] = (server_cpu(pid) - cpu) / polls * 1e6
            cpu = server_cpu(pid)
            for _ in range(polls):
                conn.execute("SELECT 1, 2 LIMIT 0", prepare=True).fetchall()
            found["empty_query_us"] = (server_cpu(pid) - cpu) / polls * 1e6
            found["empty_poll_wal"] = float(conn.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", (lsn,)).fetchone()[0])
        # From the commit of an enqueue to the end of the claim that it woke.
        took = []
        with connect(cluster) as worker, connect(cluster) as producer:
            worker.execute("LISTEN pgedge_events")
            for _ in range(101):
                worker.execute(CLAIM, (10,), prepare=True).fetchall()
                list(worker.notifies(timeout=0))
                ended = []

                def wake():
                    list(worker.notifies(timeout=5, stop_after=1))
                    rows = worker.execute(CLAIM, (10,), prepare=True).fetchall()
                    ended.append((time.perf_counter(), rows))

                thread = threading.Thread(target=wake)
                thread.start()
                time.sleep(0.01)
                producer.execute("SELECT pgedge.enqueue_event('wake', '{}')", prepare=True)
                committed = time.perf_counter()
                thread.join()
                at, rows = ended[0]
                took.append((at - committed) * 1e3)
                if rows:
                    worker.execute("SELECT pgedge.complete_events(%s, %s)", ([r[0] for r in rows], rows[0][1]))
        found["wake_ms"] = statistics.median(took)
        steady = OURS.script(10, True)
        base = statistics.median(pgbench(cluster, steady, 8, SECONDS) for _ in range(3))
        for name, isolation, begin in (("open_claim", "", f"SELECT count(*) FROM pgedge.claim_events(10)"), ("open_writer", "", OURS.fill.format(n=1000))):
            with psycopg.connect(cluster.dsn()) as other:
                other.execute(begin)
                during = statistics.median(pgbench(cluster, steady, 8, SECONDS) for _ in range(3))
                other.rollback()
            base_after = statistics.median(pgbench(cluster, steady, 8, SECONDS) for _ in range(3))
            found[name] = during / statistics.mean([base, base_after])
            base = base_after
        with connect(cluster) as conn:
            conn.execute("ALTER TABLE claude_events SET (autovacuum_enabled = off)")
            conn.execute("DELETE FROM pg_statistic WHERE starelid = 'claude_events'::regclass")
            conn.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'claude_events'::regclass")
        without = statistics.median(pgbench(cluster, steady, 8, SECONDS) for _ in range(3))
        cluster.psql("ANALYZE claude_events")
        found["no_statistics"] = without / statistics.mean([base, statistics.median(pgbench(cluster, steady, 8, SECONDS) for _ in range(3))])
        with connect(cluster) as conn:
            conn.execute("TRUNCATE claude_events")
            conn.execute("INSERT INTO claude_events (event_type, payload, ordering_key) SELECT 'load', '{}', 'key ' || n % 1000 FROM generate_series(1, 100000) n")
            conn.execute("ANALYZE claude_events")
            found["ordered_ms"] = median_ms(conn, CLAIM, (10,))
            found["ordered_one_ms"] = median_ms(conn, CLAIM, (1,))
        print(found, flush=True)
    finally:
        cluster.destroy()
    return found


PARTS = {
    "held-backlog": lambda: held(False, 1_000_000), "held-small": lambda: held(True, 0), "million": million,
    "load-1": lambda: load(1), "load-10": lambda: load(10), "load-100": lambda: load(100), "wal": wal, "small": small,
}


def polyline(buckets, top, colour, name, place):
    points = " ".join(f"{60 + 75 * n:.0f},{330 - 300 * b / top:.1f}" for n, b in enumerate(buckets))
    return (f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{60 + 75 * (len(buckets) - 1) + 8}" y="{334 - 300 * buckets[-1] / top - place:.1f}" fill="{colour}">{name}</text>')


def plot(found, path):
    top = max(max(f["buckets"]) for f in found.values()) * 1.05
    colours = ["#1f77b4", "#d62728", "#ff7f0e", "#2ca02c"]
    lines = [polyline(f["buckets"], top, colours[n % 4], name, 12 * n if n else 0) for n, (name, f) in enumerate(found.items())]
    ticks = "".join(f'<text x="52" y="{334 - 300 * k / 4:.0f}" text-anchor="end">{top * k / 4:,.0f}</text><line x1="60" x2="600" y1="{330 - 300 * k / 4:.0f}" y2="{330 - 300 * k / 4:.0f}" stroke="#ddd"/>' for k in range(5))
    seconds = "".join(f'<text x="{60 + 75 * n}" y="348" text-anchor="middle">{10 * (n + 1)} s</text>' for n in range(8))
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="760" height="360" font-family="sans-serif" font-size="11"><rect width="760" height="360" fill="white"/>'
                    f'<text x="60" y="18">events/s while a snapshot is held, 8 clients, batches of 10</text>{ticks}{seconds}{"".join(lines)}</svg>\n')


def held_table(found):
    lines = ["| | " + " | ".join(f"{10 * (n + 1)} s" for n in range(8)) + " | last three / first three | dead rows | table + indexes |", "| --- |" + " --- |" * 11]
    for name, f in found.items():
        b = f["buckets"]
        lines.append(f"| {name} | " + " | ".join(f"{x:,.0f}" for x in b[:8]) + f" | {sum(b[-3:]) / sum(b[:3]):.2f} | {f['dead']:,} | {f['table'] / 1e6:,.0f} + {f['index'] / 1e6:,.0f} MB |")
    return lines


def report(found):
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    lines = ["# Benchmark: the event queue", "", "Written by `make bench-events` (benches/events.py); pgbench with prepared statements drives all; each part runs the systems in turn on one machine.", "",
             f"- {date.today()}, {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores; much other work went on beside it (a load average of 4 to 8), so only ratios within a table mean something",
             "- `naive_partial`: claims by `FOR UPDATE SKIP LOCKED` over a table with the specified columns and indexes and a partial index `(priority, id) WHERE status = 'pending'`; pgmq 1.11 from its crate: read, then archive",
             "- a whole life: enqueue, claim, complete; `synchronous_commit = on`"]
    for part, title in (("held-backlog", "A snapshot is held, a backlog waits: claim + complete, 8 clients, batches of 10"), ("held-small", "A snapshot is held, a small queue: whole lives, 8 clients, batches of 10")):
        if part in found:
            left = found[part]["pgedge"].get("left")
            lines += ["", f"## {title}", "", *held_table(found[part])]
            if left and part == "held-backlog":
                lines += ["", f"{left:,} events still waited for pgedge at the end."]
    held_part = next((p for p in ("held-backlog", "held-small") if p in found), None)
    if held_part:
        lines += ["", "![throughput while a snapshot is held](events.svg)"]
        plot(found[held_part], OUT / "events.svg")
    if "million" in found:
        m = found["million"]
        lines += ["", "## A thousand and a million waiting: whole lives, events/s", "", "| | 8 × 10, thousand | million | 8 × 100, thousand | million |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {name} | " + " | ".join(f"{m[name][w][c]:,.0f}" for c in ("8x10", "8x100") for w in ("1000", "1000000")) + " |" for name in m]
        lines += ["", f"A claim of 10 by priority from a million: {m['pgedge']['claim_ms']:.2f} ms (client's time with BEGIN and ROLLBACK, median)."]
    cells = {b: found[f"load-{b}"] for b in (1, 10, 100) if f"load-{b}" in found}
    if cells:
        lines += ["", "## Ordinary load: whole lives, events/s, medians of interleaved runs", "", "| batch | system | 1 client | 4 | 8 | 16 |", "| --- | --- | --- | --- | --- | --- |"]
        for batch, rates in cells.items():
            lines += [f"| {batch} | {name} | " + " | ".join(f"{rates[name][str(c)]:,.0f}" for c in (1, 4, 8, 16)) + " |" for name in rates]
            best = {c: max(rates[n][str(c)] for n in rates if n != "pgedge") for c in (1, 4, 8, 16)}
            lines.append(f"| {batch} | pgedge / best other | " + " | ".join(f"{rates['pgedge'][str(c)] / best[c]:.2f}" for c in (1, 4, 8, 16)) + " |")
    if "wal" in found:
        lines += ["", "## WAL bytes of an event's whole life, one client", "", "| | batch 10 | 100 |", "| --- | --- | --- |"]
        lines += [f"| {name} | {w['10']:,.0f} | {w['100']:,.0f} |" for name, w in found["wal"].items()]
    if "small" in found:
        s = found["small"]
        lines += ["", "## One figure each", "", "| | |", "| --- | --- |",
                  f"| an empty claim, processor time of the server | {s['empty_poll_us']:.0f} µs (a query that returns nothing: {s['empty_query_us']:.0f} µs), {s['empty_poll_wal']:.0f} B of WAL for 20,000 |",
                  f"| from the commit of an enqueue to the woken claim, through LISTEN, median | {s['wake_ms']:.1f} ms |",
                  f"| throughput of 8 clients while a claim stands in an open transaction | {s['open_claim']:.2f} of that without |",
                  f"| throughput while a transaction that has written events is open | {s['open_writer']:.2f} |",
                  f"| throughput without statistics, beside that with | {s['no_statistics']:.2f} |",
                  f"| a claim of 10, and of 1, from 100,000 waiting events of 1,000 ordering keys | {s['ordered_ms']:.2f} ms, {s['ordered_one_ms']:.2f} ms |"]
    OUT.mkdir(exist_ok=True)
    (OUT / "events.md").write_text("\n".join(lines) + "\n")


def main():
    wanted = sys.argv[1:] or [*PARTS, "report"]
    unknown = [w for w in wanted if w not in {*PARTS, "report"}]
    if unknown:
        sys.exit(f"no such part: {', '.join(unknown)}; there are: {' '.join(PARTS)} report")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in wanted:
        if part == "report":
            report(found)
            continue
        print(f"-- {part}", flush=True)
        found[part] = PARTS[part]()
        RESULTS.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
