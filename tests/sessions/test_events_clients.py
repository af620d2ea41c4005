"""The workers of examples/ at work: killed with -9 in the middle, and through a restart and a crash of the server."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("PGEDGE_BUILD", ROOT / ".build"))


def python_worker(cluster):
    return [sys.executable, str(ROOT / "examples" / "worker.py"), cluster.dsn()]


def node_worker(cluster):
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("no node or npm here: the Node worker is not tried")
    folder = BUILD / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "pg").exists():
        got = subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "pg@8"], capture_output=True, text=True, check=False)
        if got.returncode:
            pytest.skip(f"npm cannot install pg: {got.stderr.strip()[-200:]}")
    shutil.copy(ROOT / "examples" / "worker.mjs", folder)
    return [node, str(folder / "worker.mjs"), f"postgresql://postgres@127.0.0.1:{cluster.port}/postgres"]


def wait_for(condition, seconds, what):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.05)


@pytest.mark.parametrize("command", [python_worker, node_worker], ids=["python", "node"])
def test_the_example_survives(command, fresh_cluster):
    cluster = fresh_cluster
    argv = command(cluster)
    cluster.psql("CREATE EXTENSION pgedge CASCADE")
    output = cluster.folder / "worker.out"
    running = []

    def start():
        with open(output, "ab") as out:
            running.append(subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT))

    def enqueue(n, kind="work"):
        cluster.psql(f"SELECT pgedge.enqueue_events('{kind}', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, {n}) n))")

    def processed(kind):
        return int(cluster.psql(f"SELECT count(*) FROM claude_events WHERE event_type = '{kind}' AND status = 'processed'"))

    try:
        enqueue(300, "first")
        start()
        wait_for(lambda: processed("first") >= 5, 30, "the worker does not begin")
        os.kill(running[0].pid, signal.SIGKILL)
        running[0].wait()
        # What it held is another's after the lease, here a restart of the server.
        start()
        cluster.stop()
        cluster.start()
        wait_for(lambda: processed("first") == 300, 60, "events of a killed worker are not done")
        enqueue(100, "second")
        cluster.kill_postmaster()
        cluster.start()
        wait_for(lambda: processed("second") == 100, 60, "the worker does not come back after a crash of the server")
        enqueue(1, "third")
        wait_for(lambda: processed("third") == 1, 10, "it does not wake up")
        assert running[1].poll() is None
    finally:
        for process in running:
            process.kill()
            process.wait()
    lines = output.read_text()
    assert all(f"{kind} {n}\n" in lines for kind, most in (("first", 300), ("second", 100), ("third", 1)) for n in range(1, most + 1))
