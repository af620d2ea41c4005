#!/usr/bin/env python3
"""Log patterns against drain3 on the same lines, and aggregate_logs() end to end; writes docs/benchmarks/logs.md.

    make bench-logs                        lines of examples/logs
    PGEDGE_LOGHUB=DIR make bench-logs      lines of labelled Loghub-2k sets, with the accuracy of both (DIR/eval.py)

Everything is measured in one go on one machine. Times are CPU times of the process that does the work where it says so, so that what else
runs on the machine counts less; all others are elapsed.
"""
from __future__ import annotations

import csv
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from cluster import Cluster  # noqa: E402

SUITE = Path(os.environ["PGEDGE_LOGHUB"]) if os.environ.get("PGEDGE_LOGHUB") else None
BUILD = Path(os.environ["PYTHON"]).parents[2]
SECONDS = float(os.environ.get("SECONDS_EACH", "5"))
DRAIN3 = "drain3==0.9.11"
# mining: rounds, turns in each (a turn measures both, one right after the other), and how often each reads all lines in a turn
ROUNDS, TURNS, DRAIN3_PASSES, PASSES = 11, 10, 2, 30


def say(text: str) -> None:
    print(text, flush=True)


def load() -> dict[str, list[str]]:
    """Lines by source."""
    if SUITE is None:
        return {p.stem: p.read_text().splitlines() for p in sorted((ROOT / "examples" / "logs").glob("*.log"))}
    sets = {}
    for path in sorted(SUITE.glob("*/*_2k.log_structured.csv")):
        with path.open(encoding="utf-8", newline="") as f:
            sets[path.parent.name] = [row["Content"] for row in csv.DictReader(f)]
    return sets


def stream(sets: dict[str, list[str]], n: int, seed: int = 1) -> list[tuple[str, str]]:
    """n lines with their sources, drawn at random."""
    rng = random.Random(seed)
    pairs = [(source, line) for source, lines in sets.items() for line in lines]
    return [pairs[rng.randrange(len(pairs))] for _ in range(n)]


# --- drain3 -----------------------------------------------------------------------------------------------------------------------------

DRAIN_SCRIPT = r"""
import json, sys, time, logging
logging.disable(logging.CRITICAL)
from drain3 import TemplateMiner
from drain3.template_miner_config import TemplateMinerConfig
sets = json.load(open(sys.argv[1]))
out = {}
for turn in sys.stdin:
    lines, cpu = 0, 0.0
    for _ in range(int(turn)):
        for name, messages in sets.items():
            config = TemplateMinerConfig()
            config.profiling_enabled = False
            miner = TemplateMiner(config=config)
            start = time.process_time()
            ids = [miner.add_log_message(m)["cluster_id"] for m in messages]
            cpu += time.process_time() - start
            lines += len(messages)
            final = {c.cluster_id: c.get_template() for c in miner.drain.clusters}
            out[name] = [final[i] for i in ids]
    print(lines / cpu, flush=True)
json.dump(out, open(sys.argv[2], "w"))
"""


def drain3(sets: dict[str, list[str]], folder: Path) -> subprocess.Popen:
    """drain3 with its default settings, in a virtual environment of its own. It reads all lines as often as a line of its input says, each time with a new
    miner for each source, answers with lines a second, and leaves its templates at the end."""
    venv = BUILD / "venv-bench"
    if not (venv / ".drain3").exists() or (venv / ".drain3").read_text() != DRAIN3:
        say("   installing drain3 …")
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", DRAIN3], check=True)
        (venv / ".drain3").write_text(DRAIN3)
    (folder / "sets.json").write_text(json.dumps(sets))
    return subprocess.Popen([venv / "bin/python", "-c", DRAIN_SCRIPT, folder / "sets.json", folder / "drain.json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def accuracy(folder: Path, templates: dict[str, list[str]] | None) -> tuple[dict, str]:
    """Scores of eval.py for predicted templates, and what the crate's example says of lines that were final on arrival; ours come from that example when
    none are given."""
    pred = folder / ("ours" if templates is None else "drain3")
    pred.mkdir()
    final = ""
    if templates is None:
        final = subprocess.run(["cargo", "run", "--quiet", "--release", "-p", "pgedge-logminer", "--example", "loghub", str(SUITE), str(pred)],
                               cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    else:
        for name, lines in templates.items():
            (pred / f"{name}.txt").write_text("\n".join(t.replace("\n", " ") for t in lines) + "\n")
    scores = folder / f"{pred.name}.json"
    names = ",".join(sorted(p.parent.name for p in SUITE.glob("*/*_2k.log_structured.csv")))
    subprocess.run([sys.executable, str(SUITE / "eval.py"), "--suite", str(SUITE), "--pred", str(pred), "--only", names, "--json", str(scores)], check=True,
                   stdout=subprocess.DEVNULL)
    return json.loads(scores.read_text()), final


def crate_speed() -> dict[str, float]:
    """Lines a second of one core: the shape pass, shape and count, the whole miner (one round of the crate's example, CPU time)."""
    if SUITE is None:
        return {}
    out = subprocess.run(["cargo", "run", "--quiet", "--release", "-p", "pgedge-logminer", "--example", "speed", str(SUITE), "1", str(PASSES)],
                         cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name.strip(): float(rate) for name, rate in re.findall(r"^(shape|shape and count|miner)\s+(\d+) lines/s", out, re.M)}


def mining(sets: dict[str, list[str]], folder: Path) -> tuple[list[dict[str, float]], dict[str, list[str]]]:
    """Lines a second by round, of drain3 and of ours in short turns, so that a slow moment of the machine hits both; and the templates of drain3."""
    rounds = []
    with drain3(sets, folder) as peer:
        for _ in range(ROUNDS):
            turns = []
            for _ in range(TURNS):
                print(DRAIN3_PASSES, file=peer.stdin, flush=True)
                turns.append({"drain3": float(peer.stdout.readline()), **crate_speed()})
            # all turns have the same lines: the mean of the times
            rounds.append({name: statistics.harmonic_mean([turn[name] for turn in turns]) for name in turns[0]})
    return rounds, json.loads((folder / "drain.json").read_text())


def mining_table(rounds: list[dict[str, float]]) -> list[str]:
    out = [f"## Mining, one core (CPU time, {len(rounds)} rounds in turns)", "", "| | lines/s (median) | × drain3 (median) | lowest | highest |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, label in (("shape", "shape pass alone"), ("shape and count", "shape and count"), ("miner", "miner: counts, samples, parameters"),
                        ("drain3", f"{DRAIN3.replace('==', ' ')}, default settings")):
        if name in rounds[0]:
            ratios = [r[name] / r["drain3"] for r in rounds]
            shown = (f"{of(ratios):.1f}" if name != "drain3" else "1" for of in (statistics.median, min, max))
            out.append(f"| {label} | {statistics.median(r[name] for r in rounds):,.0f} | " + " | ".join(shown) + " |")
    return [*out, "", f"A round is {TURNS} turns: drain3 {DRAIN3_PASSES} times over all lines, with a new miner for each set each time, and right behind it ours, each of the three "
            f"{PASSES} times over the same lines, with one state for all sets, empty at first. × drain3 is the ratio of the rates of the same round: its median over the rounds, the "
            "lowest and the highest.", ""]


# --- aggregate_logs ---------------------------------------------------------------------------------------------------------------------

def body(pairs: list[tuple[str, str]], single: bool) -> str:
    """What a log aggregator sends."""
    return json.dumps({"logs": [{"message": m, "level": "INFO", "source": "bench" if single else s} for s, m in pairs]})


def cpu_of(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def large_batches(cluster: Cluster, sets: dict[str, list[str]], form: str) -> dict[str, float]:
    """One session, 10,000 lines a call, sent by a client. The first calls learn; then what is steady is measured."""
    size = 10_000
    batches = [stream(sets, size, seed) for seed in range(8)]
    with psycopg.connect(cluster.dsn("bench"), autocommit=True) as conn:
        conn.execute("SELECT pgedge.prune_logs('0')")
        conn.execute("DELETE FROM aggregated_logs")
        # the client's own work is done before: what is measured is what the server does with the bytes
        if form == "text[]":
            query = "SELECT sum(occurrences) FROM pgedge.aggregate_logs(%s::text[], 'INFO', 'bench')"
            params = [("{" + ",".join(json.dumps(m, ensure_ascii=False) for _, m in b) + "}",) for b in batches]
        else:
            query, params = f"SELECT sum(occurrences) FROM pgedge.aggregate_logs(%s::{form})", [(body(b, False),) for b in batches]
        start = time.perf_counter()
        for p in params:
            conn.execute(query, p)
        learning = len(params) * size / (time.perf_counter() - start)
        conn.execute("CHECKPOINT")
        pid, times, cpus = conn.info.backend_pid, [], []
        lsn = conn.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
        deadline = time.perf_counter() + SECONDS
        while time.perf_counter() < deadline or len(times) < 8:
            cpu, start = cpu_of(pid), time.perf_counter()
            assert conn.execute(query, params[len(times) % len(params)]).fetchone()[0] == size
            times.append(time.perf_counter() - start)
            cpus.append(cpu_of(pid) - cpu)
        wal = conn.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s)", (lsn,)).fetchone()[0]
        rows = conn.execute("SELECT count(*) FROM aggregated_logs").fetchone()[0]
    return {"rate": size / statistics.median(times), "cpu": size / statistics.median(cpus), "best": size / min(times), "learning": learning,
            "wal": float(wal) / (len(times) * size / 1000), "rows": rows}


def pgbench(cluster: Cluster, scripts: list[str], clients: int) -> float:
    """Transactions a second."""
    with tempfile.TemporaryDirectory(dir=cluster.folder) as folder:
        args = []
        for i, script in enumerate(scripts):
            path = Path(folder) / f"{i}.sql"
            path.write_text(script)
            args += ["-f", str(path)]
        out = cluster.tool("pgbench", "-n", "-M", "simple", "-c", str(clients), "-j", "1", "-T", str(max(1, int(SECONDS))), *args, "-d", "bench",
                           capture_output=True, text=True)
    return float(re.search(r"tps = ([\d.]+)", out.stdout).group(1))


def literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def small_calls(sets: dict[str, list[str]], size: int) -> list[str]:
    """Bodies of `size` lines each as pgbench may see them, those of each session with sources of their own."""
    names = sorted(sets)
    bodies = []
    for seed in range(40 if size < 1000 else 3):
        # a service sends its own lines; pgbench puts its session's number for :client_id, and must not find other names behind colons
        name = names[seed % len(names)]
        entries = [{"message": re.sub(r":(?=\w)", ": ", m), "level": "INFO", "source": "SOURCE"} for _, m in stream({name: sets[name]}, size, seed)]
        bodies.append(literal(json.dumps({"logs": entries}).replace('":', '" :').replace("SOURCE", f"{name} of :client_id")))
    return bodies


def small_batches(cluster: Cluster, bodies: list[str], size: int, form: str, clients: int) -> dict[str, float]:
    """pgbench with these calls, the text as a client sends it, parsed at each call."""
    scripts = [f"SELECT count(*) FROM pgedge.aggregate_logs({body}{form});\n" for body in bodies]
    with psycopg.connect(cluster.dsn("bench"), autocommit=True) as conn:
        for script in scripts:  # learned before: the steady state counts
            for client in range(clients):
                conn.execute(script.replace(":client_id", str(client)).encode())
        before = conn.execute("SELECT sum(count) FROM aggregated_logs").fetchone()[0]
        conn.execute("CHECKPOINT")
        lsn = conn.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
        tps = pgbench(cluster, scripts, clients)
        wal = conn.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s)", (lsn,)).fetchone()[0]
        lines = conn.execute("SELECT sum(count) FROM aggregated_logs").fetchone()[0] - before
    return {"calls": tps, "rate": tps * size, "wal": float(wal) / (float(lines) / 1000)}


def bare_updates(cluster: Cluster, bodies: list[str], clients: int) -> dict[str, float]:
    """What is left of these calls when nothing is done but what they must leave behind: the counts and times of the same rows, by their ids."""
    scripts = []
    with psycopg.connect(cluster.dsn("bench"), autocommit=True) as conn:
        for body in bodies:
            call = f"SELECT array_agg(id ORDER BY n), array_agg(occurrences ORDER BY n) FROM pgedge.aggregate_logs({body}) WITH ORDINALITY AS o(id, p, l, s, occurrences, i, n)"
            rows = [conn.execute(call.replace(":client_id", str(client)).encode()).fetchone() for client in range(clients)]
            ids, counts = (["{" + ",".join(map(str, row[i])) + "}" for row in rows] for i in (0, 1))
            scripts.append("UPDATE aggregated_logs a SET count = a.count + v.n, last_seen = greatest(a.last_seen, date_trunc('second', now())::timestamp) "
                           f"FROM unnest((ARRAY{ids})[:client_id + 1]::int[], (ARRAY{counts})[:client_id + 1]::int[]) AS v(id, n) WHERE a.id = v.id;\n")
    return {"calls": pgbench(cluster, scripts, clients)}


def one_row_inserts(cluster: Cluster, clients: int) -> float:
    cluster.psql("DROP TABLE IF EXISTS plain; CREATE TABLE plain (id serial PRIMARY KEY, message text, created_at timestamp DEFAULT now())", "bench")
    return pgbench(cluster, ["INSERT INTO plain (message) VALUES ('User 123 logged in from 10.0.0.7');\n"], clients)


def fsync_rate(cluster: Cluster) -> str:
    out = subprocess.run([str(cluster.bindir / "pg_test_fsync"), "-s", "1", "-f", str(cluster.folder / "fsync.test")], capture_output=True, text=True, check=False).stdout
    found = re.search(r"fdatasync\s+([\d.]+) ops/sec", out)
    return f"{float(found.group(1)):,.0f}" if found else "unknown"


def aggregate(cluster: Cluster, sets: dict[str, list[str]]) -> dict[str, float]:
    """log_patterns() over a table, with and without workers."""
    n = 200_000
    found = {}
    with psycopg.connect(cluster.dsn("bench"), autocommit=True) as conn:
        conn.execute("CREATE TABLE raw (line text)")
        with conn.cursor().copy("COPY raw FROM STDIN") as copy:
            for _, line in stream(sets, n):
                copy.write_row((line,))
        conn.execute("ALTER TABLE raw SET (parallel_workers = 2); ANALYZE raw; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0")
        for workers in (0, 2):
            conn.execute(f"SET max_parallel_workers_per_gather = {workers}")
            times = []
            for _ in range(5):
                start = time.perf_counter()
                result = conn.execute("SELECT md5(pgedge.log_patterns(line)::text) FROM raw").fetchone()[0]
                times.append(time.perf_counter() - start)
            found[str(workers)] = n / statistics.median(times)
            assert found.setdefault("md5", result) == result
    return found


# --- report -----------------------------------------------------------------------------------------------------------------------------

def cpu_name() -> str:
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return f"{found.group(1) if found else platform.machine()}, {os.cpu_count()} cores"


def average(scores, key: str) -> float:
    rows = scores.values() if isinstance(scores, dict) else scores
    return statistics.mean(r[key] for r in rows if isinstance(r, dict) and key in r)


def main() -> int:
    sets = load()
    total = sum(map(len, sets.values()))
    what = f"{len(sets)} labelled Loghub-2k sets" if SUITE else "examples/logs"
    say(f"lines: {total:,} of {what}, {statistics.mean(len(m) for ms in sets.values() for m in ms):.0f} characters on average")
    out = ["# Log patterns", "", f"Made by `make bench-logs` ({time.strftime('%Y-%m-%d')}; {cpu_name()}). Lines: {total:,} of {what}, drawn at random again and again.", ""]
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        say("== mining alone, one core, CPU time")
        rounds, templates = mining(sets, folder)
        out += mining_table(rounds)
        if SUITE:
            say("== accuracy")
            (ours, final), (theirs, _) = accuracy(folder, None), accuracy(folder, templates)
            out += ["## Accuracy (average over the sets, no settings)", "", "| | GA | FGA | PA | FTA |", "| --- | ---: | ---: | ---: | ---: |"]
            for label, scores in (("pgedge", ours), ("drain3, default settings", theirs)):
                out.append(f"| {label} | " + " | ".join(f"{average(scores, k):.3f}" for k in ("GA", "FGA", "PA", "FTA")) + " |")
            out += ["", f"Lines whose template was final when they arrived: {final}. Each set in the order of its file, from an empty state: the pattern that a line gets "
                    "when it arrives beside the one it has after the last line, both written as templates (`<*>` for every placeholder); with types, `{NUM}` that became `{*}` counts as a change.", ""]
    with Cluster({"max_wal_size": "4GB", "checkpoint_timeout": "30min", "max_worker_processes": "8"}) as cluster:
        cluster.psql("CREATE DATABASE bench")
        cluster.psql("CREATE EXTENSION pgedge CASCADE", "bench")
        say("== aggregate_logs, 10,000 lines a call, one session")
        out += ["## aggregate_logs, 10,000 lines a call, one session", "",
                "| body | lines/s (elapsed, median) | lines/s (fastest call) | lines/s (CPU of the server process) | lines/s while learning | WAL bytes per 1,000 lines | patterns |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for form, label in (("text", "`{\"logs\": […]}` as text, all sources in one call"), ("jsonb", "`{\"logs\": […]}` cast to jsonb, all sources in one call"), ("text[]", "`text[]`, one source")):
            r = large_batches(cluster, sets, form)
            out.append(f"| {label} | {r['rate']:,.0f} | {r['best']:,.0f} | {r['cpu']:,.0f} | {r['learning']:,.0f} | {r['wal']:,.0f} | {r['rows']:,} |")
        out.append("")
        say(f"== small calls, pgbench, {SECONDS:.0f} s each")
        out += ["## Small calls (pgbench, simple protocol, JSON text as a client sends it; fdatasync of this disk: " + fsync_rate(cluster) + " a second)", "",
                "| | sessions | calls/s | lines/s | calls, of one-row inserts | WAL bytes per 1,000 lines |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        for clients in (1, 8):
            base = one_row_inserts(cluster, clients)
            out.append(f"| one-row INSERT | {clients} | {base:,.0f} | {base:,.0f} | 100 % | |")
            ten = small_calls(sets, 10)
            what = [("aggregate_logs, 10 lines a call", lambda: small_batches(cluster, ten, 10, "", clients)),
                    ("aggregate_logs, 10 lines a call, cast to jsonb", lambda: small_batches(cluster, ten, 10, "::jsonb", clients)),
                    ("UPDATE of the rows that these get their lines in, by id", lambda: bare_updates(cluster, ten, clients)),
                    ("aggregate_logs, 100 lines a call", lambda: small_batches(cluster, small_calls(sets, 100), 100, "", clients)),
                    ("aggregate_logs, 10,000 lines a call", lambda: small_batches(cluster, small_calls(sets, 10_000), 10_000, "", clients))]
            for label, run in what:
                r = run()
                again = one_row_inserts(cluster, clients)
                lines, wal = (f"{r[k]:,.0f}" if k in r else "" for k in ("rate", "wal"))
                out.append(f"| {label} | {clients} | {r['calls']:,.0f} | {lines} | {100 * 2 * r['calls'] / (base + again):.0f} % | {wal} |")
                base = again
        out.append("")
        say("== log_patterns()")
        r = aggregate(cluster, sets)
        out += ["## log_patterns(message) over a table of 200,000 lines", "", "| workers | lines/s |", "| ---: | ---: |"]
        out += [f"| {w} | {r[w]:,.0f} |" for w in ("0", "2")] + [""]
    text = "\n".join(out)
    (ROOT / "docs" / "benchmarks").mkdir(parents=True, exist_ok=True)
    (ROOT / "docs" / "benchmarks" / "logs.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
