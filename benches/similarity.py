#!/usr/bin/env python3
"""Batch similarity beside its peers, in one run: pgvector's exact scan and HNSW index, faiss, numpy and usearch outside the database.

    make bench-similarity                 writes docs/benchmarks/similarity.md and similarity.svg
    PGEDGE_EMBEDDINGS=/a/folder           of *_f16.npy files of real vectors; else examples/embeddings.npy. Enlarged with noise to BENCH_ROWS.
    BENCH_ROWS=100000 BENCH_REPEATS=5 BENCH_QUICK=1 (no 1,000-query LATERAL, no all-pairs of all rows)

Repetitions of all systems are interleaved and medians taken. Ratios are those of the wall clock, on a machine that does nothing else; the processor time
of the backend or library stands beside it, and shows whether that was so. Results are checked against each other. A whole run takes about ten minutes.
"""
from __future__ import annotations

import json
import os
import platform
import re
import statistics
import struct
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from cluster import Cluster  # noqa: E402

ROWS = int(os.environ.get("BENCH_ROWS", 100_000))
REPEATS = int(os.environ.get("BENCH_REPEATS", 5))
QUICK = bool(os.environ.get("BENCH_QUICK"))
BATCHES = (1, 10, 64, 100, 1000)
K = 10
BUILD = Path(os.environ.get("PGEDGE_BUILD", ROOT / ".build"))
OUT = ROOT / "docs" / "benchmarks"


def say(text: str) -> None:
    print(f"   {time.strftime('%H:%M:%S')} {text}", flush=True)


# ── data ──

def vectors() -> tuple[np.ndarray, str]:
    folder = os.environ.get("PGEDGE_EMBEDDINGS")
    files = sorted(Path(folder).glob("*_f16.npy")) if folder else [ROOT / "examples" / "embeddings.npy"]
    base = np.concatenate([np.load(f) for f in files]).astype(np.float32)
    rng = np.random.default_rng(1)
    parts = [base]
    while sum(map(len, parts)) < ROWS:
        parts.append((base + rng.normal(0, 0.02, base.shape)).astype(np.float32))
    return np.concatenate(parts)[:ROWS], f"{len(base):,} real sentence embeddings, enlarged with noise to {ROWS:,} × {base.shape[1]}"


def copy_in(conn, table: str, x: np.ndarray, text=None) -> None:
    head, big = struct.pack(">HH", x.shape[1], 0), x.astype(">f4")
    with conn.cursor() as cur, cur.copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
        for i, v in enumerate(big):
            fields = [struct.pack(">i", i), head + v.tobytes(), struct.pack(">i", i * 7919 % 1000)] + ([text(i)] if text else [])
            copy.write(struct.pack(">h", len(fields)) + b"".join(struct.pack(">i", len(f)) + f for f in fields))
        copy.write(struct.pack(">h", -1))


def load(conn, x: np.ndarray, picked: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    conn.execute("CREATE EXTENSION pgedge CASCADE")
    for table, more in (("items", ""), ("toasted", ", content text")):
        conn.execute(f"CREATE TABLE {table} (id int, embedding vector({x.shape[1]}), bucket int{more})")
        copy_in(conn, table, x, (lambda i: rng.bytes(350).hex().encode()) if more else None)
    conn.execute("CREATE INDEX ON items (bucket)")
    conn.execute(f"CREATE TABLE queries (n int PRIMARY KEY, e vector({x.shape[1]}))")
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO queries SELECT %s, embedding FROM items WHERE id = %s", [(n + 1, int(i)) for n, i in enumerate(picked)])
    conn.execute("CREATE TABLE batches AS SELECT b AS size, (SELECT array_agg(e ORDER BY n) FROM queries WHERE n <= b) AS q FROM unnest(%s::int[]) b", ([*BATCHES, 200],))
    conn.execute("VACUUM ANALYZE")
    say("building pgvector's HNSW index")
    conn.execute("CREATE TABLE indexed AS TABLE items")
    conn.execute("SET maintenance_work_mem = '1GB'; CREATE INDEX ON indexed USING hnsw (embedding vector_cosine_ops); RESET maintenance_work_mem")
    conn.execute("VACUUM ANALYZE indexed")


# ── the systems ──

class Backend:
    """A session of PostgreSQL with settings."""

    def __init__(self, dsn: str, settings: str):
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.conn.execute(settings)
        self.pid = self.conn.info.backend_pid

    def cpu(self) -> float:
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def run(self, query: str):
        wall, cpu = time.perf_counter(), self.cpu()
        rows = self.conn.execute(query).fetchall()
        return rows, time.perf_counter() - wall, self.cpu() - cpu


class Peer:
    """A library in a process of its own."""

    def __init__(self, library: str, threads: int, env: dict[str, str]):
        # A kernel forced by the environment would be a handicap: each library finds its own, unless `env` says better.
        inherited = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
        env = {**inherited, **{v: str(threads) for v in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}, **env}
        self.process = subprocess.Popen(
            [BUILD / "venv-bench/bin/python", ROOT / "benches/similarity_peers.py", library, str(threads), BUILD / "bench-x.npy", BUILD / "bench-q.npy"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.blas = self.answer()["ready"]

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a peer died")
        return json.loads(line)

    def ask(self, **what) -> dict:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.answer()


def ours(batch: int, relation: str = "items") -> str:
    return f"SELECT query_no, id::int FROM batches, pgedge.batch_search(q, {K}, relation => '{relation}') WHERE size = {batch} ORDER BY query_no, rank"


def lateral(batch: int, table: str, where: str = "") -> str:
    return (f"SELECT n, id FROM (SELECT n, e FROM queries WHERE n <= {batch} OFFSET 0) q, LATERAL"
            f" (SELECT id FROM {table} {where} ORDER BY embedding <=> q.e LIMIT {K}) t")


SERIAL = "SET max_parallel_workers_per_gather = 0"
WORKER = "SET max_parallel_workers_per_gather = 1"


def tuned_blas() -> tuple[dict[str, str], str]:
    """The OpenBLAS kernel with which faiss is fastest here."""
    best = None
    for core in ("", "Haswell", "Zen", "SkylakeX", "Cooperlake") if platform.machine() == "x86_64" else ("", "NEOVERSEN1"):
        if core in ("SkylakeX", "Cooperlake") and "avx512f" not in Path("/proc/cpuinfo").read_text():
            continue
        env = {"OPENBLAS_CORETYPE": core} if core else {}
        try:
            peer = Peer("faiss", 1, env)
        except RuntimeError:
            continue
        peer.ask(what="tune", queries=1000, k=K)
        took = min(peer.ask(what="search", queries=1000, k=K)["wall"] for _ in range(2))
        peer.process.kill()
        if best is None or took < best[0]:
            best = (took, env, core)
    return best[1], best[2] or "as installed"


def tile_rates(level: str) -> dict[str, float]:
    """What the kernels reach on data in the first-level cache: GFLOP/s of the f32 tile and of multiply-adds in registers, GOP/s of the int8 tile."""
    env = {**os.environ, "LEVEL": level.replace("+fp16", ""), "Q": "1"}
    out = subprocess.run(["cargo", "run", "--quiet", "--release", "-p", "pgedge-similarity", "--example", "throughput", "--", "1", "384"],
                         cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout
    f32, peak = re.search(r"f32 tile in cache: ([\d.]+) GFLOP/s, peak ([\d.]+)", out).groups()
    return {"f32": float(f32), "peak": float(peak), "int8": float(re.search(r"int8 tile in cache: ([\d.]+)", out)[1])}


class Bench:
    def __init__(self, cluster: Cluster):
        dsn = cluster.dsn()
        self.serial = Backend(dsn, SERIAL)
        self.worker = Backend(dsn, WORKER)
        self.toasted = Backend(dsn, SERIAL)
        # nothing but a sequential scan for the exact ones
        self.exact = Backend(dsn, SERIAL + "; SET enable_indexscan = off; SET jit = off")
        self.hnsw = {ef: Backend(dsn, SERIAL + f"; SET hnsw.ef_search = {ef}; SET enable_seqscan = off; SET jit = off") for ef in (40, 100, 200)}
        env, self.core = tuned_blas()
        say(f"faiss is fastest with OpenBLAS kernel: {self.core}")
        self.peers = {
            "faiss, as installed": Peer("faiss", 1, {}),
            "faiss, tuned": Peer("faiss", 1, env),
            "faiss, tuned, 2 threads": Peer("faiss", 2, env),
            "numpy": Peer("numpy", 1, env),
            "usearch exact": Peer("usearch", 1, {}),
        }
        for name in ("faiss, tuned", "faiss, tuned, 2 threads"):
            for batch in BATCHES:
                threshold, rows = self.peers[name].ask(what="tune", queries=batch, k=K)["best"]
                say(f"{name}, {batch} queries: {f'BLAS in blocks of {rows} rows' if threshold <= batch else 'its own loop'}")
        self.blas = {name: peer.blas for name, peer in self.peers.items() if peer.blas}
        say(f"OpenBLAS kernels: {self.blas}")
        self.sgemm = self.peers["numpy"].ask(what="sgemm")["gflops"]
        self.bandwidth = self.peers["numpy"].ask(what="bandwidth")["gigabytes"]
        say(f"sgemm: {self.sgemm:.0f} GFLOP/s, memory: {self.bandwidth:.1f} GB/s")

    def systems(self, batch: int):
        """(name, how to run it once, at most so many repetitions)"""
        def sql(backend, query):
            return lambda: backend.run(query)[1:]

        def peer(name):
            def call():
                answer = self.peers[name].ask(what="search", queries=batch, k=K)
                return answer["wall"], answer["cpu"]
            return call

        yield "pgedge", sql(self.serial, ours(batch)), REPEATS
        yield "pgedge, up to 1 worker", sql(self.worker, ours(batch)), REPEATS
        yield "pgedge, vectors out of line", sql(self.toasted, ours(batch, "toasted")), REPEATS
        if batch <= 100 or not QUICK:
            yield "pgvector exact LATERAL", sql(self.exact, lateral(batch, "items")), REPEATS if batch <= 10 else min(REPEATS, 3)
        for ef, backend in self.hnsw.items():
            yield f"pgvector HNSW, ef {ef}", sql(backend, lateral(batch, "indexed")), min(REPEATS, 3)
        for name in self.peers:
            if name == "usearch exact" and batch > 100 and QUICK:
                continue
            yield name, peer(name), REPEATS if name.startswith("faiss, tuned") or batch < 1000 else min(REPEATS, 1 if name == "usearch exact" else 3)

    def measure(self) -> dict:
        times: dict = {}
        for batch in BATCHES:
            systems = list(self.systems(batch))
            for name, call, most in systems[:3] + [s for s in systems if s[0] in self.peers]:
                if most > 1:
                    call()  # warm
            for repeat in range(REPEATS):
                for name, call, most in systems:
                    if repeat < most:
                        times.setdefault((name, batch), []).append(call())
            for name, _, _ in systems:
                wall, cpu = (statistics.median(t[i] for t in times[name, batch]) * 1000 for i in (0, 1))
                say(f"{batch:5} queries  {name:32} {wall:10,.1f} ms, processor {cpu:10,.1f} ms")
        return {key: tuple(statistics.median(t[i] for t in values) * 1000 for i in (0, 1)) for key, values in times.items()}

    # ── that they agree ──

    def answers(self) -> dict[str, float]:
        """The share of each system's answers to 100 queries that are as similar as the k-th best; ours must be 1."""
        def grouped(rows):
            out: dict[int, list[int]] = {}
            for n, i in rows:
                out.setdefault(n, []).append(i)
            return [out[n] for n in sorted(out)]

        unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
        scores = unit(np.load(BUILD / "bench-q.npy")[:100].astype(np.float64)) @ unit(np.load(BUILD / "bench-x.npy").astype(np.float64)).T
        needed = -np.sort(-scores, axis=1)[:, K - 1] - 1e-6
        recall = {}

        def judge(name, answers):
            recall[name] = sum(scores[n, i] >= needed[n] for n, ids in enumerate(answers) for i in ids) / (100 * K)

        mine = grouped(self.serial.run(ours(100))[0])
        judge("pgedge", mine)
        assert recall["pgedge"] == 1
        assert grouped(self.worker.run(ours(100))[0]) == mine and grouped(self.toasted.run(ours(100, "toasted"))[0]) == mine
        judge("pgvector exact LATERAL", grouped(self.exact.run(lateral(100, "items"))[0]))
        for ef, backend in self.hnsw.items():
            judge(f"pgvector HNSW, ef {ef}", grouped(backend.run(lateral(100, "indexed"))[0]))
        for name, peer in self.peers.items():
            judge(name, peer.ask(what="search", queries=100, k=K, ids=True)["ids"])
        return recall

    def floors(self) -> dict[str, float]:
        """What no search here can go below: the scan alone (ms, the best of five), and the rates of memory and kernels."""
        scan = min(self.serial.run("SELECT count(*) FROM items")[1] for _ in range(5)) * 1000
        size = self.serial.run("SELECT pg_relation_size('items')")[0][0][0]
        rates = tile_rates(self.level)
        say(f"scan alone {scan:.1f} ms, {rates}")
        return {"scan": scan, "read": size / self.bandwidth / 1e6, "size": size, **rates}

    # ── filtered batches ──

    def filtered(self) -> list[tuple]:
        out = []
        for below in (43, 5):
            where = f"WHERE bucket < {below}"
            rows = self.serial.run(f"SELECT count(*) FROM items {where}")[0][0][0]
            query = (f"SELECT h.query_no, h.similarity FROM unnest((SELECT pgedge.top_k(id, embedding, (SELECT q FROM batches WHERE size = 200), {K}, 'cosine')"
                     f" FROM items {where})) h")
            found, times = [], []
            for _ in range(REPEATS):
                found, *took = self.serial.run(query)
                times.append(took)
            wall, cpu = (statistics.median(t[i] for t in times) * 1000 for i in (0, 1))
            worst = {n: similarity for n, similarity in sorted(found, reverse=True)}  # the last one set is the smallest
            out.append((rows, "pgedge.top_k … WHERE", wall, cpu, 1.0))
            theirs = (f"SELECT n, s FROM (SELECT n, e FROM queries WHERE n <= 200 OFFSET 0) q, LATERAL"
                      f" (SELECT 1 - (embedding <=> q.e) AS s FROM indexed {where} ORDER BY embedding <=> q.e LIMIT {K}) t")
            for mode in ("relaxed_order", "strict_order"):
                for ef in (40, 100):
                    backend = self.hnsw[ef]
                    # the iterative index scan, as pgvector means it for filters
                    backend.conn.execute(f"SET hnsw.iterative_scan = {mode}; SET enable_bitmapscan = off; SET enable_sort = off")
                    hits, wall, cpu = backend.run(theirs)
                    backend.conn.execute("RESET hnsw.iterative_scan; RESET enable_bitmapscan; RESET enable_sort")
                    good = sum(similarity >= worst[n] - 1e-6 for n, similarity in hits)
                    out.append((rows, f"HNSW {mode}, ef {ef}", wall * 1000, cpu * 1000, good / len(found)))
            for row in out[-5:]:
                say(f"200 queries over {row[0]:,} rows  {row[1]:32} {row[2]:10,.1f} ms, processor {row[3]:10,.1f} ms, recall {row[4]:.3f}")
        return out

    # ── all pairs ──

    def pairs(self) -> list[tuple]:
        self.serial.conn.execute("CREATE TABLE few AS SELECT * FROM items ORDER BY id LIMIT 20000; ANALYZE few")
        few = min(20_000, ROWS)
        out = []

        def add(rows, name, count, wall, cpu):
            out.append((rows, name, wall * 1000, cpu * 1000, count))
            say(f"pairs among {rows:,}  {name:24} {wall * 1000:10,.0f} ms, processor {cpu * 1000:10,.0f} ms, {count:,} pairs")

        query = "SELECT count(*) FROM pgedge.similar_pairs(0.9, relation => '{}')"
        runs = [self.serial.run(query.format("few")) for _ in range(3)]
        add(few, "pgedge", runs[0][0][0][0], *(statistics.median(r[i] for r in runs) for i in (1, 2)))
        for name in ("numpy", "faiss, tuned"):
            answers = [self.peers[name].ask(what="pairs", rows=few, limit=0.9) for _ in range(2)]
            add(few, name, answers[0]["count"], min(a["wall"] for a in answers), min(a["cpu"] for a in answers))
        if not QUICK:
            rows, wall, cpu = self.serial.run(query.format("items"))
            add(ROWS, "pgedge", rows[0][0], wall, cpu)
        return out

    # ── vectors given as arguments ──

    def arguments(self) -> list[tuple]:
        """(what, system, ms, processor ms): all similarities of 1,000 vectors to each other, and of one vector to them. The results agree."""
        out = []
        source = f"FROM batches WHERE size = {max(BATCHES)}"
        pairs = f"FROM queries a, queries b WHERE a.n <= {max(BATCHES)} AND b.n <= {max(BATCHES)}"
        asked = {
            "matrix": (f"{max(BATCHES):,} × {max(BATCHES):,}", pairs, ("similarity_matrix(q)", "similarity_matrix(q, q)")),
            "one": (f"1 × {max(BATCHES):,}", pairs + " AND a.n = 1", ("batch_similarity(q[1], q)",)),
        }
        for what, (shape, joined, calls) in asked.items():
            answers = [self.peers["numpy"].ask(what=what) for _ in range(REPEATS + 1)][1:]
            want = answers[0]["sum"]
            rows = [(shape, "numpy, single precision", *(statistics.median(a[i] for a in answers) * 1000 for i in ("wall", "cpu")))]

            def add(name, query):
                runs = [self.exact.run(query) for _ in range(REPEATS + 1)][1:]
                rows.append((shape, name, *(statistics.median(r[i] for r in runs) * 1000 for i in (1, 2))))

            for call in calls:
                total = self.exact.run(f"SELECT (SELECT sum(s::float8) FROM unnest(m) s) FROM (SELECT pgedge.{call} AS m {source} OFFSET 0) t")[0][0][0]
                assert abs(total - want) < 1e-4 * max(abs(want), 1), (call, total, want)
                add(f"pgedge.{call}", f"SELECT array_length(pgedge.{call}, 1) {source}")
            add("pgvector, count(a <=> b)", f"SELECT count(a.e <=> b.e) {joined}")
            for row in rows:
                say(f"{row[0]}  {row[1]:32} {row[2]:10,.2f} ms, processor {row[3]:10,.2f} ms")
            out += rows
        return out


# ── the report ──

def machine() -> str:
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith(("model name", "Model"))), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def near_the_floor(bench: Bench, times: dict, floors: dict) -> list[str]:
    """How far the searches are from what the machine allows."""
    one, most = (times["pgedge", b][0] for b in (1, max(BATCHES)))
    operations = 2 * ROWS * bench.dim * max(BATCHES) / 1e9
    arithmetic = operations / floors["int8"] * 1000
    return [
        "", "## How near this is to what the machine can do", "",
        f"One query: PostgreSQL's scan alone (`count(*)`) takes {floors['scan']:.0f} ms, and reading the {floors['size'] / 1e6:.0f} MB"
        f" of the table from memory at the {bench.bandwidth:.1f} GB/s that one thread reaches here {floors['read']:.0f} ms. The search takes {one:.0f} ms,"
        f" {one / (floors['scan'] + floors['read']):.1f} times their sum. pgvector's scan for one query has the same floor.", "",
        f"{max(BATCHES):,} queries: multiply-adds in registers reach {floors['peak']:.0f} GFLOP/s on one core, the f32 tile {floors['f32']:.0f}, the int8 tile"
        f" {floors['int8']:.0f} GOP/s, both on data in the first-level cache. At that rate the {operations:.0f} billion operations take {arithmetic:.0f} ms, with the scan for one"
        f" query {arithmetic + one:.0f} ms; the search takes {most:.0f} ms, {most / (arithmetic + one):.1f} times that. Quantising the rows, exact scores and the lists of the best are in it.",
    ]


def ratio(value: float) -> str:
    return f"{value:.2f}" if value < 2 else f"{value:,.1f}"


def report(what: str, bench: Bench, times: dict, recall: dict, filtered: list, pairs: list, arguments: list, versions: str, floors: dict) -> str:
    names = list(dict.fromkeys(name for name, _ in times))
    idle = statistics.median(times["pgedge", b][0] / times["pgedge", b][1] for b in BATCHES)
    lines = [
        "# Benchmark: batch similarity",
        "",
        "Written by `make bench-similarity` (benches/similarity.py); all systems in one run, repetitions interleaved, medians.",
        "",
        f"- {date.today()}, {machine()}; kernels `{bench.level}`; {versions}",
        f"- {what}; the {K} most similar by cosine; everything in memory; ours and pgvector read the heap each time",
        f"- faiss tuned: OpenBLAS kernel {bench.core}, BLAS or its own loop and block size as is fastest for each batch; sgemm alone reaches {bench.sgemm:.0f} GFLOP/s on one thread",
        f"- OpenBLAS kernels as the libraries report them: {'; '.join(f'{name}: {blas}' for name, blas in bench.blas.items())}",
        f"- one process or thread unless said; nothing else ran on the machine (pgedge's searches: wall clock {idle:.2f} times processor time)",
        "",
        "## Milliseconds for a batch: wall clock (processor time)",
        "",
        "| system | " + " | ".join(f"{b:,}" for b in BATCHES) + " | recall |",
        "| --- |" + " --- |" * (len(BATCHES) + 1),
    ]
    cell = lambda name, b: f"{times[name, b][0]:,.0f} ({times[name, b][1]:,.0f})" if (name, b) in times else "–"  # noqa: E731
    for name in names:
        lines.append(f"| {name} | " + " | ".join(cell(name, b) for b in BATCHES) + f" | {recall.get(name, recall['pgedge']):.3f} |")
    lines += ["", "![time against the size of the batch](similarity.svg)", "", "## How many times faster pgedge is", "",
              "By the wall clock; one process against one thread unless said. With the server's default settings pgedge takes up to two workers where it estimates that this is sooner; a worker begins some ten milliseconds after the call.", "",
              "| than | " + " | ".join(f"{b:,}" for b in BATCHES) + " |", "| --- |" + " --- |" * len(BATCHES)]
    worker = "pgedge, up to 1 worker"
    for name in names:
        if name.startswith("pgedge"):
            continue
        # libraries with two threads against two processes; plans that PostgreSQL runs in one process, whatever it is allowed, against both
        for base in [worker] if "2 threads" in name else ["pgedge", worker] if name in ("pgvector exact LATERAL", "pgvector HNSW, ef 40") else ["pgedge"]:
            lines.append(f"| {name}{' (against up to 1 worker)' if base == worker else ''} | " + " | ".join(
                f"{ratio(times[name, b][0] / times[base, b][0])}" if (name, b) in times else "–" for b in BATCHES) + " |")
    lines.append("| (out of line against in line, lower is better) | " + " | ".join(f"{times['pgedge, vectors out of line', b][0] / times['pgedge', b][0]:.2f}" for b in BATCHES) + " |")
    flop = {b: 2 * ROWS * bench.dim * b for b in BATCHES}
    lines += ["", "## Throughput of pgedge, heap reading included", "", "| queries | million pairs/s | GFLOP/s | of sgemm's |", "| --- | --- | --- | --- |"]
    for b in BATCHES:
        wall = times["pgedge", b][0] / 1000
        lines.append(f"| {b:,} | {ROWS * b / wall / 1e6:,.1f} | {flop[b] / wall / 1e9:,.0f} | {flop[b] / wall / 1e9 / bench.sgemm:.0%} |")
    lines += ["", "A share above 100 % is the int8 first pass, which counts as the single-precision work that it replaces."]
    lines += near_the_floor(bench, times, floors)
    lines += ["", "## Filtered batches: 200 queries over the rows that a WHERE leaves", "",
              "| rows left | system | ms | processor ms | recall |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r:,} | {n} | {w:,.0f} | {c:,.0f} | {q:.3f} |" for r, n, w, c, q in filtered]
    for below in dict.fromkeys(f[0] for f in filtered):
        mine, *others = [f for f in filtered if f[0] == below]
        best = min(others, key=lambda f: f[2])
        lines += ["", f"{below:,} rows: {best[2] / mine[2]:.0f} times as fast as the fastest of them, {best[1]}."]
    lines += ["", "## All pairs with a cosine of at least 0.9", "", "| rows | system | ms | processor ms | pairs |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r:,} | {n} | {w:,.0f} | {c:,.0f} | {p:,} |" for r, n, w, c, p in pairs]
    mine = pairs[0]
    lines += ["", f"{mine[0]:,} rows: " + ", ".join(f"{p[2] / mine[2]:.1f} times as fast as {p[1]}" for p in pairs[1:] if p[0] == mine[0]) + "."]
    lines += ["", "## Vectors given as arguments", "", "| vectors | system | ms | processor ms |", "| --- | --- | --- | --- |"]
    lines += [f"| {shape} | {name} | {w:,.2f} | {c:,.2f} |" for shape, name, w, c in arguments]
    lines += ["", "With what it takes to read the vectors from a table, and for numpy to make them unit vectors. pgedge sums in double precision and rounds once, numpy and pgvector sum in single precision."]
    return "\n".join(lines) + "\n"


PLOT = """
import json, sys
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
matplotlib.rcParams["svg.hashsalt"] = "pgedge"
series = json.load(sys.stdin)
fig, ax = plt.subplots(figsize=(8, 5))
for name, points in series.items():
    ours = name.startswith("pgedge")
    ax.plot([p[0] for p in points], [p[1] for p in points], marker="o", lw=2.5 if ours else 1.2, ls="-" if ours else "--", label=name)
ax.set(xscale="log", yscale="log", xlabel="queries in the batch", ylabel="milliseconds")
ax.grid(alpha=0.3, which="both"); ax.legend(fontsize=7); fig.tight_layout()
fig.savefig(sys.argv[1], metadata={"Date": None})
"""


def plot(times: dict) -> None:
    series: dict = {}
    for (name, batch), (wall, _) in times.items():
        series.setdefault(name, []).append((batch, wall))
    subprocess.run([BUILD / "venv-bench/bin/python", "-c", PLOT, OUT / "similarity.svg"], input=json.dumps(series), text=True, check=True)


def main() -> int:
    venv = BUILD / "venv-bench"
    if not (venv / "bin/python").exists():
        say("Python libraries to compare with, into .build/venv-bench")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", ROOT / "benches/requirements.txt"], check=True)
    x, what = vectors()
    picked = np.random.default_rng(5).choice(len(x), 1000, replace=False)
    BUILD.mkdir(exist_ok=True)
    np.save(BUILD / "bench-x.npy", x)
    np.save(BUILD / "bench-q.npy", x[picked])
    say(what)
    with Cluster({"shared_buffers": "1500MB", "max_wal_size": "8GB", "work_mem": "16MB", "fsync": "off", "autovacuum": "off"}) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            load(conn, x, picked)
            versions = conn.execute("SELECT 'PostgreSQL ' || current_setting('server_version') || ', pgvector ' || extversion FROM pg_extension WHERE extname = 'vector'").fetchone()[0]
            level = conn.execute("SELECT pgedge.simd_level()").fetchone()[0]
        versions += ", " + ", ".join(line.strip().replace("==", " ") for line in (ROOT / "benches/requirements.txt").read_text().splitlines() if not line.startswith(("matplotlib", "threadpoolctl")))
        bench = Bench(cluster)
        bench.level, bench.dim = level, x.shape[1]
        recall = bench.answers()
        say(", ".join(f"{name} {value:.3f}" for name, value in recall.items()))
        filtered = bench.filtered()
        floors = bench.floors()
        pairs = bench.pairs()
        arguments = bench.arguments()
        times = bench.measure()
        OUT.mkdir(parents=True, exist_ok=True)
        text = report(what, bench, times, recall, filtered, pairs, arguments, versions, floors)
        (OUT / "similarity.md").write_text(text)
        plot(times)
        print(text)
        for peer in bench.peers.values():
            peer.process.kill()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
