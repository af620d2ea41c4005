#!/usr/bin/env python3
"""The event queue beside a naive FOR UPDATE SKIP LOCKED queue over the specified table and the queues of event_peers.py; pgbench drives all.

    benches/events.py                      every part, then docs/benchmarks/events.md and events.svg
    benches/events.py PART …               only these, e.g. load-10 report; the figures of the others are kept from before
    benches/events.py PART:NAME,NAME …     with these systems only, e.g. held-small:pgedge,pgmq; the others' figures are kept

Each part runs the systems in turn on one server of its own (a server each for `held-…`) and keeps its figures in .build/bench-events.json, of
which `report` writes the page. SECONDS_EACH (2) and REPEATS (3) say how long and how often each cell of the tables runs.
"""
from __future__ import annotations

import functools
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
from event_peers import PAYLOAD, System, peers  # noqa: E402

BUILD = Path(os.environ.get("PGEDGE_BUILD", ROOT / ".build"))
RESULTS, OUT = BUILD / "bench-events.json", ROOT / "docs" / "benchmarks"
SECONDS = float(os.environ.get("SECONDS_EACH", "2"))
REPEATS = int(os.environ.get("REPEATS", "3"))
DAY_SECONDS = float(os.environ.get("DAY_SECONDS", "480"))

COLUMNS = """(id serial PRIMARY KEY, event_type varchar(50) NOT NULL, payload jsonb NOT NULL, priority int DEFAULT 5, status varchar(20) DEFAULT 'pending',
              created_at timestamp DEFAULT now(), processed_at timestamp)"""
SPECIFIED = "CREATE INDEX ON {0} (status); CREATE INDEX ON {0} (event_type); CREATE INDEX ON {0} (created_at)"


def naive(name, index, order, note):
    return System(
        name, f"CREATE TABLE {name} {COLUMNS}; {SPECIFIED.format(name)}; {index}",
        lambda n: f"INSERT INTO {name} (event_type, payload, priority) SELECT 'load', '{PAYLOAD}', 1 + g % 10 FROM generate_series(1, {n}) g",
        lambda n: f"WITH c AS (UPDATE {name} SET status = 'processing' WHERE id IN (SELECT id FROM {name} WHERE status = 'pending' ORDER BY {order} LIMIT {n} FOR UPDATE SKIP LOCKED) RETURNING id)"
                  " SELECT coalesce(array_agg(id)::text, '{}') AS ids FROM c",
        lambda n: f"UPDATE {name} SET status = 'processed', processed_at = now() WHERE id = ANY (:ids::int[])",
        note, f"SELECT count(*) FROM {name} WHERE status = 'pending'")


OURS = System(
    "pgedge", "CREATE EXTENSION pgedge CASCADE",
    lambda n: f"INSERT INTO claude_events (event_type, payload, priority) SELECT 'load', '{PAYLOAD}', 1 + g % 10 FROM generate_series(1, {n}) g",
    lambda n: f"SELECT coalesce(array_agg(id)::text, '{{}}') AS ids, coalesce(min(lease_token), 0) AS token FROM pgedge.claim_events({n})",
    lambda n: "SELECT count(*) FROM pgedge.complete_events(:ids::bigint[], :token)",
    "plain INSERT, claim_events, complete_events", "SELECT count(*) FROM claude_events WHERE status = 'pending'")
NAIVE = naive("naive", "", "id", "claims by `FOR UPDATE SKIP LOCKED`, the oldest first, over a table with the specified columns and indexes")
PARTIAL = naive("naive_partial", "CREATE INDEX ON naive_partial (priority, id) WHERE status = 'pending'", "priority, id",
                "the same with a partial index `(priority, id) WHERE status = 'pending'`, by priority")
CHOSEN = []


@functools.cache
def everyone():
    found, missing = peers()
    return [OURS, NAIVE, PARTIAL, *found], missing


def systems():
    return [s for s in everyone()[0] if not CHOSEN or s.name in CHOSEN]


def server(these, **settings):
    cluster = Cluster({"max_wal_size": "8GB", "shared_buffers": "1GB", "checkpoint_timeout": "30min", "autovacuum": "on", **settings})
    cluster.__enter__()
    for s in these:
        s.install(cluster)
    return cluster


def pgbench(cluster, script, clients, seconds, every=None, each=None):
    """Transactions per second; with `every`, a list of them for each so many seconds; with `each`, of so many for each client."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as f:
        f.write(script)
        f.flush()
        out = cluster.tool("pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), *(["-t", str(each)] if each else ["-T", str(max(1, round(seconds)))]), "-f", f.name,
                           *(["-P", str(every)] if every else []), "postgres", capture_output=True, text=True)
    if every:
        return [float(x) for x in re.findall(r"progress: [\d.]+ s, ([\d.]+) tps", out.stderr)]
    return float(re.search(r"tps = ([\d.]+)", out.stdout)[1])


def connect(cluster, **kwargs):
    return psycopg.connect(cluster.dsn(), autocommit=True, **kwargs)


def fill(cluster, s, n):
    for start in range(0, n, 100_000):
        cluster.psql(s.fill(min(100_000, n - start)))
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
                # A million must still wait at the end, and ours uses up some 50,000 a second.
                fill(cluster, s, backlog + (5_000_000 if s is OURS else 400_000))
            with psycopg.connect(cluster.dsn()) as holder:
                holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT txid_current_snapshot(), count(*) FROM pg_class")
                start = cluster.psql("SELECT pg_current_wal_insert_lsn()")
                buckets = [10 * tps for tps in pgbench(cluster, s.script(10, whole_life), 8, 80, every=10)]
                wal_bytes = float(cluster.psql(f"SELECT pg_current_wal_insert_lsn() - '{start}'"))
            with connect(cluster) as conn:
                conn.execute("SELECT pg_stat_force_next_flush()")
                dead, size, index = conn.execute("SELECT sum(n_dead_tup)::bigint, sum(pg_table_size(relid))::bigint, sum(pg_indexes_size(relid))::bigint FROM pg_stat_user_tables WHERE n_tup_ins > 0").fetchone()
                left = conn.execute(s.count).fetchone()[0]
            found[s.name] = {"buckets": buckets, "dead": dead, "table": size, "index": index, "left": left, "wal": wal_bytes / max(1, 10 * sum(buckets))}
            print(s.name, [round(b) for b in buckets], dead, left, flush=True)
        finally:
            cluster.destroy()
    return found


def million():
    """Claim + complete with a thousand and with a million waiting (as many come in as go out)."""
    found = {}
    for s in systems():
        cluster = server([s])
        try:
            found[s.name] = {}
            for waiting in (1_000, 1_000_000):
                fill(cluster, s, waiting)
                cluster.psql("VACUUM ANALYZE")
                rates = {}
                for clients, batch in ((8, 10), (8, 100)):
                    rates[f"{clients}x{batch}"] = statistics.median(batch * pgbench(cluster, s.script(batch, True), clients, SECONDS) for _ in range(REPEATS))
                # Last, since nothing comes in any more: 20,000 five times from nearly none, and some hundred thousand from a million.
                if waiting < 1_000_000:
                    drains = []
                    for _ in range(5):
                        fill(cluster, s, 20_000)
                        drains.append(100 * pgbench(cluster, s.script(100, False), 8, SECONDS, each=25))
                    rates["drain"] = statistics.median(drains)
                else:
                    rates["drain"] = statistics.median(100 * pgbench(cluster, s.script(100, False), 8, SECONDS) for _ in range(REPEATS))
                found[s.name][str(waiting)] = rates
                print(s.name, waiting, rates, "left", cluster.psql(s.count), flush=True)
            if s is OURS:
                with connect(cluster) as conn:
                    found[s.name]["claim_ms"] = median_ms(conn, CLAIM, (10,))
                    print("claim of 10 by priority from a million:", found[s.name]["claim_ms"], "ms", flush=True)
        finally:
            cluster.destroy()
    return found


def load(batch, clients_each=(1, 4, 8, 16), whole_life=True, **settings):
    """Whole lives in a nearly empty queue, the systems in turn; or only enqueueing."""
    these = systems()
    cluster = server(these, **settings)
    rates = {s.name: {} for s in these}
    try:
        for clients in clients_each:
            tries = {s.name: [] for s in these}
            for turn in range(REPEATS):
                for s in these[turn % len(these):] + these[:turn % len(these)]:
                    script = s.script(batch, True) if whole_life else s.fill(batch) + ";\n"
                    tries[s.name].append(batch * pgbench(cluster, script, clients, SECONDS))
            for name, values in tries.items():
                rates[name][str(clients)] = statistics.median(values)
            print(batch, clients, {k: round(v[str(clients)]) for k, v in rates.items()}, flush=True)
    finally:
        cluster.destroy()
    return rates


def wal():
    found = {}
    these = systems()
    # What a vacuum that comes by would write is nobody's event's.
    cluster = server(these, autovacuum="off")
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


def day():
    """A day of 10 million events in a few minutes: size of table and indexes for each hour, finished events deleted by retention after an hour."""
    hour = DAY_SECONDS / 24
    # All that PostgreSQL does by the clock is as much faster.
    cluster = server([OURS], autovacuum_naptime="1s", autovacuum_vacuum_cost_delay="0", **{"pgedge.event_retention": f"{round(hour)}s"})
    try:
        rate = 10_000_000 / DAY_SECONDS / 100
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as f, connect(cluster) as conn:
            f.write(OURS.script(100, True))
            f.flush()
            sizes, live = [], []
            worker = threading.Thread(target=cluster.tool, args=("pgbench", "-n", "-M", "prepared", "-c", "8", "-j", "2", "-R", f"{rate:.1f}", "-T", str(round(DAY_SECONDS)), "-f", f.name, "postgres"),
                                      kwargs={"capture_output": True, "text": True})
            start = time.monotonic()
            worker.start()
            for n in range(24):
                time.sleep(max(0.0, start + (n + 1) * hour - time.monotonic()))
                sizes.append([int(x) for x in conn.execute("SELECT pg_table_size('claude_events'), pg_indexes_size('claude_events')").fetchone()])
            worker.join()
            through, left = conn.execute("SELECT last_value, (SELECT count(*) FROM claude_events) FROM claude_events_id_seq").fetchone()
        found = {"pgedge": {"sizes": sizes, "through": through, "left": left, "seconds": DAY_SECONDS}}
        print(found, flush=True)
        return found
    finally:
        cluster.destroy()


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
        for name, isolation, begin in (("open_claim", "", f"SELECT count(*) FROM pgedge.claim_events(10)"), ("open_writer", "", OURS.fill(1000))):
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


BATCHES = (1, 10, 100)
PARTS = {
    "held-backlog": lambda: held(False, 1_000_000), "held-small": lambda: held(True, 0), "million": million,
    **{f"load-{b}": lambda b=b: load(b) for b in BATCHES},
    **{f"off-{b}": lambda b=b: load(b, (1, 8), synchronous_commit="off") for b in BATCHES},
    **{f"enqueue-{b}": lambda b=b: load(b, (1, 8), whole_life=False) for b in BATCHES},
    "wal": wal, "small": small, "day": day,
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
    lines = ["| | " + " | ".join(f"{10 * (n + 1)} s" for n in range(8)) + " | last three / first three | pgedge / it, last three | dead rows | table + indexes | WAL an event |", "| --- |" + " --- |" * 13]
    ours = sum(found["pgedge"]["buckets"][-3:]) if "pgedge" in found else float("nan")
    for name, f in found.items():
        b = f["buckets"][:8]
        lines.append(f"| {name} | " + " | ".join(f"{x:,.0f}" for x in b[:8]) + f" | {sum(b[-3:]) / sum(b[:3]):.2f} | {ours / sum(b[-3:]):.1f} | {f['dead']:,} | {f['table'] / 1e6:,.0f} + {f['index'] / 1e6:,.0f} MB | {f['wal']:,.0f} B |")
    return lines


def cells(found, kind, clients):
    """A table of medians for each batch, and ours beside the best peer (the naive queues over the same table are no peers)."""
    lines = ["| batch | system | " + " | ".join(f"{c} clients" if c > 1 else "1 client" for c in clients) + " |", "| --- | --- |" + " --- |" * len(clients)]
    for batch in BATCHES:
        rates = found.get(f"{kind}-{batch}", {})
        if not rates:
            continue
        lines += [f"| {batch} | {name} | " + " | ".join(f"{r[str(c)]:,.0f}" for c in clients) + " |" for name, r in rates.items()]
        for title, others in (("naive", [n for n in rates if n.startswith("naive")]), ("peer", [n for n in rates if n != "pgedge" and not n.startswith("naive")])):
            if others and "pgedge" in rates:
                lines.append(f"| {batch} | **pgedge / best {title}** | " + " | ".join(f"**{rates['pgedge'][str(c)] / max(rates[n][str(c)] for n in others):.2f}**" for c in clients) + " |")
    return lines


def report(found):
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    lines = ["# Benchmark: the event queue", "", "Written by `make bench-events` (benches/events.py); pgbench with prepared statements drives all, each part the systems in turn on one machine.", "",
             f"- {date.today()}, {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, which pgbench and the server share; only ratios within a table mean something",
             f"- a whole life: enqueue, claim, complete; medians of {REPEATS} interleaved runs of {SECONDS:.0f} s; `synchronous_commit = on` unless said otherwise"]
    lines += [f"- {name}: {note}" for name, note in found.get("notes", {}).items()]
    lines += [f"- not here: {name} ({why})" for name, why in found.get("missing", {}).items()]
    for part, title in (("held-backlog", "A snapshot is held, a million wait: claim + complete, 8 clients, batches of 10"), ("held-small", "A snapshot is held, a small queue: whole lives, 8 clients, batches of 10")):
        if part in found:
            lines += ["", f"## {title}", "", *held_table(found[part])]
            if part == "held-backlog" and "pgedge" in found[part]:
                lines += ["", f"{found[part]['pgedge']['left']:,} events still waited for pgedge at the end."]
    held_part = next((p for p in ("held-backlog", "held-small") if p in found), None)
    if held_part:
        lines += ["", "![throughput while a snapshot is held](events.svg)"]
        plot(found[held_part], OUT / "events.svg")
    if "million" in found:
        m = found["million"]
        lines += ["", "## A thousand and a million waiting: whole lives, events/s, 8 clients", "", "| | batch 10, thousand | million | batch 100, thousand | million | claim + complete alone, batch 100, of 20,000 | of a million |", "| --- |" + " --- |" * 6]
        lines += [f"| {name} | " + " | ".join(f"{m[name][w][c]:,.0f}" for c in ("8x10", "8x100") for w in ("1000", "1000000")) + " | " + " | ".join(f"{m[name][w]['drain']:,.0f}" for w in ("1000", "1000000")) + " |" for name in m]
        if "pgedge" in m:
            lines += ["", f"A claim of 10 by priority from a million: {m['pgedge']['claim_ms']:.2f} ms (client's time with BEGIN and ROLLBACK, median)."]
    for kind, title, clients in (("load", "Ordinary load: whole lives, events/s", (1, 4, 8, 16)), ("off", "The same with `synchronous_commit = off`", (1, 8)), ("enqueue", "Enqueue only, events/s", (1, 8))):
        if any(f"{kind}-{b}" in found for b in BATCHES):
            lines += ["", f"## {title}", "", *cells(found, kind, clients)]
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
    if "day" in found:
        d = found["day"]["pgedge"]
        total = [sum(x) for x in d["sizes"]]
        lines += ["", "## A day of ten million events", "",
                  f"Sent in {d['seconds']:.0f} s by 8 clients in batches of 100, so that an hour takes {d['seconds'] / 24:.0f} s; `pgedge.event_retention` is an hour, autovacuum looks every second.", "",
                  "| events through | after the first hour | second | 6th | 12th | 18th | last | largest / after the first |", "| --- |" + " --- |" * 7,
                  f"| {d['through']:,} | " + " | ".join(f"{d['sizes'][n][0] / 1e6:,.0f} + {d['sizes'][n][1] / 1e6:,.0f} MB" for n in (0, 1, 5, 11, 17, 23)) + f" | {max(total) / total[0]:.2f} |",
                  "", f"Table + indexes; {d['left']:,} finished events are in the table at the end."]
    OUT.mkdir(exist_ok=True)
    (OUT / "events.md").write_text("\n".join(lines) + "\n")


def main():
    wanted = [w.partition(":") for w in sys.argv[1:] or [*PARTS, "report"]]
    unknown = [w for w, _, _ in wanted if w not in {*PARTS, "report"}]
    if unknown:
        sys.exit(f"no such part: {', '.join(unknown)}; there are: {' '.join(PARTS)} report")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part, _, names in wanted:
        if part == "report":
            report(found)
            continue
        CHOSEN[:] = names.split(",") if names else []
        print(f"-- {part} {names}", flush=True)
        figures = PARTS[part]()
        found[part] = {**found.get(part, {}), **figures} if names else figures
        found["notes"], found["missing"] = {s.name: s.note for s in everyone()[0]}, everyone()[1]
        RESULTS.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
