"""One library outside the database, as a process that similarity.py asks: loads the vectors, then answers a JSON line with a JSON line.

Run by similarity.py under .build/venv-bench, so that each library has its own environment (threads, BLAS kernel) and memory.
    similarity_peers.py LIBRARY THREADS VECTORS.npy QUERIES.npy
"""
from __future__ import annotations

import json
import sys
import time

import numpy as np

LIBRARY, THREADS, VECTORS, QUERIES = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]


def normalised(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


class Numpy:
    """sgemm and argpartition, in blocks of 256 queries so that the scores stay below 100 MB."""

    def __init__(self, x):
        self.x = x

    def search(self, q, k):
        out = np.empty((len(q), k), dtype=np.int64)
        for i in range(0, len(q), 256):
            scores = q[i : i + 256] @ self.x.T
            best = np.argpartition(-scores, k, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
            out[i : i + 256] = np.take_along_axis(best, order, 1)
        return out

    def pairs(self, rows, limit):
        x, count = self.x[:rows], 0
        for i in range(0, rows, 1024):
            scores = x[i : i + 1024] @ x[i:].T
            a, b = np.nonzero(scores >= limit)
            count += int(np.count_nonzero(b > a))
        return count

    def matrix(self, q):
        """Cosines of all queries with each other, from the vectors as they are."""
        q = normalised(q)
        return q @ q.T

    def one(self, q):
        return normalised(q) @ normalised(q[:1])[0]

    def sgemm(self):
        """GFLOP/s of the matrix product alone, the best of five."""
        a, b = self.x[:1024], np.ascontiguousarray(self.x[:16384].T)
        best = min(timed(lambda: a @ b)[1] for _ in range(5))
        return 2 * a.shape[0] * a.shape[1] * b.shape[1] / best / 1e9

    def bandwidth(self):
        """GB/s of processor time at which one thread reads the vectors, the best of five."""
        return self.x.nbytes / min(timed(self.x.max)[2] for _ in range(5)) / 1e9


class Faiss:
    def __init__(self, x):
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(THREADS)
        self.index = faiss.IndexFlatIP(x.shape[1])
        self.index.add(x)
        self.x = x
        self.tuned = {}

    def tune(self, q, k):
        """The settings of its search that are fastest here for so many queries: BLAS or not, and the block size."""
        best = None
        for settings in [(len(q) + 1, 1024), *((len(q), rows) for rows in (256, 512, 1024, 4096))]:
            self.use(settings)
            took = min(timed(lambda: self.index.search(q, k))[1] for _ in range(2))
            if best is None or took < best[0]:
                best = (took, settings)
        self.tuned[len(q)] = best[1]
        return best[1]

    def use(self, settings):
        """BLAS from so many queries on, in blocks of so many rows."""
        self.faiss.cvar.distance_compute_blas_threshold, self.faiss.cvar.distance_compute_blas_database_bs = settings

    def search(self, q, k):
        if len(q) in self.tuned:
            self.use(self.tuned[len(q)])
        return self.index.search(q, k)[1]

    def pairs(self, rows, limit):
        index = self.faiss.IndexFlatIP(self.x.shape[1])
        index.add(self.x[:rows])
        ends, _, other = index.range_search(self.x[:rows], limit)
        first = np.repeat(np.arange(rows), np.diff(ends.astype(np.int64)))
        return int(np.count_nonzero(other > first))


class Usearch:
    def __init__(self, x):
        self.x = x

    def search(self, q, k):
        from usearch.index import MetricKind, search

        return search(self.x, q, k, MetricKind.IP, exact=True, threads=THREADS).keys

    def pairs(self, rows, limit):
        return None


def timed(call):
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def blas():
    """The kernels of the OpenBLAS libraries that are loaded."""
    from threadpoolctl import threadpool_info

    return ", ".join(sorted({f"{i['architecture']} ({i['version']})" for i in threadpool_info() if i.get("internal_api") == "openblas"}))


def main():
    raw = np.load(QUERIES)
    x, q = normalised(np.load(VECTORS)), normalised(raw)
    peer = {"numpy": Numpy, "faiss": Faiss, "usearch": Usearch}[LIBRARY](x)
    print(json.dumps({"ready": blas()}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["what"] == "search":
            result, wall, cpu = timed(lambda: peer.search(q[: ask["queries"]], ask["k"]))
            answer = {"ids": np.asarray(result).reshape(ask["queries"], -1).tolist() if ask.get("ids") else None}
        elif ask["what"] == "pairs":
            result, wall, cpu = timed(lambda: peer.pairs(ask["rows"], ask["limit"]))
            answer = {"count": result}
        elif ask["what"] in ("matrix", "one"):
            result, wall, cpu = timed(lambda: getattr(peer, ask["what"])(raw))
            answer = {"sum": float(np.sum(result, dtype=np.float64))}
        elif ask["what"] == "tune":
            result, wall, cpu = timed(lambda: peer.tune(q[: ask["queries"]], ask["k"]))
            answer = {"best": result}
        elif ask["what"] == "bandwidth":
            result, wall, cpu = timed(peer.bandwidth)
            answer = {"gigabytes": result}
        else:
            result, wall, cpu = timed(peer.sgemm)
            answer = {"gflops": result}
        print(json.dumps({**answer, "wall": wall, "cpu": cpu}), flush=True)


main()
