#!/usr/bin/env python3
"""Runs the regress suite: every sql/*.sql of this folder, each in an empty database of one throw-away server, against expected/*.out.

    tests/regress/run.py [name …]       names without .sql; all of them by default
    ACCEPT=1 tests/regress/run.py …     writes what came out as what is expected: read every line of the diff before you commit it
"""
from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))

from cluster import Cluster  # noqa: E402


def run_file(cluster: Cluster, path: Path) -> str:
    """What psql prints for the file, as pg_regress runs it: statements echoed, errors in place."""
    out = cluster.tool("psql", "-X", "-a", "-q", "-d", f"regress_{path.stem}", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on",
                       stdin=path.open("rb"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return out.stdout.decode()


def main() -> int:
    names = sys.argv[1:] or sorted(p.stem for p in (HERE / "sql").glob("*.sql"))
    output = HERE / "output"
    output.mkdir(exist_ok=True)
    failed = 0
    os.environ.update({"PGTZ": "UTC", "PGDATESTYLE": "ISO, MDY", "PGOPTIONS": "-c intervalstyle=postgres -c lc_messages=C"})
    with Cluster({"timezone": "UTC"}) as cluster:
        for name in names:
            cluster.tool("createdb", f"regress_{name}")
            got = run_file(cluster, HERE / "sql" / f"{name}.sql")
            (output / f"{name}.out").write_text(got)
            expected_file = HERE / "expected" / f"{name}.out"
            if os.environ.get("ACCEPT"):
                expected_file.write_text(got)
            expected = expected_file.read_text() if expected_file.exists() else ""
            ok = got == expected and re.search(r"\S", got) is not None
            print(f"   {'ok' if ok else 'FAILED'}   {name}", flush=True)
            if not ok:
                failed += 1
                sys.stdout.writelines(difflib.unified_diff(expected.splitlines(True), got.splitlines(True), f"expected/{name}.out", f"output/{name}.out"))
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
