"""The queues that install from the registries, beside which benches/events.py runs ours: how each is set up, and the statements it runs.

pgmq comes from its crate, procrastinate from PyPI, graphile-worker and pg-boss from npm; all through the ordinary clients, into .build/peers. The
statements of the last two are those that their own code sends (event_peers.mjs asks it). What cannot be had is left out, and the report says so.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("PGEDGE_BUILD", ROOT / ".build")) / "peers"
PAYLOAD = '{"text_id": 17, "similarity": 0.97}'
CRATE, NPM, PYPI = ("pgmq", "=0.33.7"), ("graphile-worker@0.17.3", "pg-boss@10.4.2", "pg@8"), "procrastinate==3.10.0"
SIZES = (1, 10, 100)


class System:
    """How to set a queue up (SQL, or a function of the cluster), to fill it, and to claim and finish n events: SQL for pgbench, given n."""

    def __init__(self, name, setup, fill, claim, finish, note="", count=None):
        self.name, self.setup, self.note, self.count = name, setup, note, count
        self.fill, self.claim, self.finish = (f if callable(f) else lambda n, f=f: f.format(n=n) for f in (fill, claim, finish))

    def script(self, n, whole_life):
        enqueue = self.fill(n).rstrip(";") + ";\n" if whole_life else ""
        return f"{enqueue}{self.claim(n)} \\gset\n{self.finish(n)};\n"

    def install(self, cluster):
        if callable(self.setup):
            self.setup(cluster)
            return
        cluster.tool("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "-", input=self.setup + ";", text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(*command, **kwargs):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **kwargs)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def pgmq():
    folder = PEERS / "pgmq"
    if not (folder / "Cargo.toml").exists():
        (folder / "src").mkdir(parents=True, exist_ok=True)
        (folder / "src" / "lib.rs").write_text("")
        (folder / "Cargo.toml").write_text(f'[package]\nname = "peers"\nversion = "0.0.0"\nedition = "2021"\n\n[dependencies]\n{CRATE[0]} = "{CRATE[1]}"\n\n[workspace]\n')
    packages = json.loads(run("cargo", "metadata", "--format-version", "1", cwd=folder))["packages"]
    crate = Path(next(p["manifest_path"] for p in packages if p["name"] == "pgmq")).parent
    sql = crate / "src" / "install" / "embedded"
    version = re.search(r"default_version = '(.+)'", (sql / "pgmq.control").read_text())[1]
    script = (sql / "sql" / "pgmq.sql").read_text()
    return System(
        "pgmq", f"CREATE SCHEMA IF NOT EXISTS pgmq; {script}; SELECT pgmq.create('q')",
        lambda n: f"SELECT count(*) FROM pgmq.send_batch('q', array_fill('{PAYLOAD}'::jsonb, ARRAY[{n}]))",
        lambda n: f"SELECT coalesce(array_agg(msg_id)::text, '{{}}') AS ids FROM pgmq.read('q', 300, {n})",
        lambda n: "SELECT count(*) FROM pgmq.archive('q', :ids::bigint[])",
        f"pgmq {version} (crate pgmq {CRATE[1].lstrip('=')}): send_batch, read, archive", "SELECT count(*) FROM pgmq.q_q")


def procrastinate():
    folder = PEERS / "procrastinate"
    if not (folder / "procrastinate").exists():
        folder.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder, PYPI)
    script = (folder / "procrastinate" / "sql" / "schema.sql").read_text()
    job = f"('default', 'load', 0, NULL, NULL, '{PAYLOAD}', NULL)::procrastinate_job_to_defer_v1"
    return System(
        "procrastinate", script + "; SELECT procrastinate_register_worker_v1()",
        lambda n: f"SELECT cardinality(procrastinate_defer_jobs_v1(array_fill({job}, ARRAY[{n}])))",
        lambda n: f"SELECT coalesce(array_agg(id)::text, '{{}}') AS ids FROM (SELECT (procrastinate_fetch_job_v2(NULL, 1)).id FROM generate_series(1, {n}) OFFSET 0) f WHERE id IS NOT NULL",
        lambda n: "SELECT count(*) FROM (SELECT procrastinate_finish_job_v1(id, 'succeeded', false) FROM unnest(:ids::bigint[]) id) f",
        f"{PYPI.replace('==', ' ')}: its functions defer_jobs, fetch_job and finish_job; the last two know no batches, so they are called n times within one statement",
        "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join("NULL" if v is None else json.dumps(str(v)) for v in value) + "}'"
    return str(value) if isinstance(value, (int, float)) else "'" + str(value).replace("'", "''") + "'"


def bound(statement, ids=None):
    """A recorded statement with its values written in; `ids` is the number of the parameter that holds the jobs."""
    def value(match):
        n = int(match[1])
        return ":ids" if n == ids else literal(statement["values"][n - 1])

    # pgbench ends a statement at a semicolon, and comments would swallow what follows.
    return re.sub(r"\$(\d+)", value, re.sub(r"--[^\n]*", "", statement["text"])).strip().rstrip(";")


def node():
    """The recorded statements of graphile-worker and pg-boss, and a function that makes their tables."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        raise RuntimeError("no node or npm here")
    folder = PEERS / "node"
    if not (folder / "node_modules" / "pg-boss").exists():
        folder.mkdir(parents=True, exist_ok=True)
        run(npm, "install", "--no-audit", "--no-fund", "--prefix", folder, *NPM)

    def ask(cluster):
        url = f"postgresql://postgres@127.0.0.1:{cluster.port}/postgres"
        return json.loads(run("node", ROOT / "benches" / "event_peers.mjs", url, *SIZES, cwd=folder).splitlines()[-1])

    return ask


def graphile(ask):
    told = {}

    def setup(cluster):
        told.update(ask(cluster)["graphile-worker"])
        if "error" in told:
            raise RuntimeError(told["error"])

    def claim(n):
        text = bound(told["sizes"][str(n)]["fetch"])
        # It changes two tables, so it can only be asked for its ids as one more part of itself.
        at = [m.start() for m in re.finditer(r"update \S*_private_jobs as jobs", text)][-1]
        return f"{text[:at].rstrip()}, f(job) AS ({text[at:]}) SELECT coalesce(array_agg(job)::text, '{{}}') AS ids FROM f"

    def finish(n):
        text = bound(told["sizes"][str(n)]["complete"], 1)
        # One job is completed by its id, several by an array.
        return re.sub(r"= :ids::bigint", "= ANY (:ids::bigint[])", text) if n == 1 else text

    return System(
        "graphile-worker", setup,
        lambda n: f"SELECT count(*) FROM graphile_worker.add_jobs(array_fill(json_populate_record(NULL::graphile_worker.job_spec, '{{\"identifier\": \"load\", \"payload\": {PAYLOAD}}}'), ARRAY[{n}]))",
        claim, finish,
        f"{NPM[0].replace('@', ' ')}: add_jobs, and the statements by which its worker fetches and completes (a completed job is deleted)",
        "SELECT count(*) FROM graphile_worker._private_jobs")


def boss(ask):
    told = {}

    def setup(cluster):
        told.update(ask(cluster)["pg-boss"])
        if "error" in told:
            raise RuntimeError(told["error"])

    return System(
        "pg-boss", setup, lambda n: bound(many(told, n)),
        lambda n: f"WITH f AS ({bound(told['sizes'][str(n)]['fetch'])}) SELECT coalesce(array_agg(id)::text, '{{}}') AS ids FROM f",
        lambda n: bound(told["sizes"][str(n)]["complete"], 2),
        f"{NPM[1].replace('@', ' ')}: the statements of its insert, fetch and complete", "SELECT count(*) FROM pgboss.job WHERE state < 'active'")


def many(told, n):
    """pg-boss's insert of n jobs, also for numbers that it was not asked about."""
    statement = dict(next(iter(told["sizes"].values()))["insert"])
    first = statement["values"][0]
    jobs = json.loads(first) if isinstance(first, str) else first
    statement["values"] = [json.dumps([jobs[0]] * n), *statement["values"][1:]]
    return statement


def peers():
    """The peers that can be had, and why the others cannot."""
    found, missing = [], {}
    try:
        ask = node()
    except (RuntimeError, OSError) as error:
        ask = None
        missing["graphile-worker"] = missing["pg-boss"] = str(error)
    makers = [("pgmq", pgmq), ("procrastinate", procrastinate)]
    if ask:
        makers += [("graphile-worker", lambda: graphile(ask)), ("pg-boss", lambda: boss(ask))]
    for name, make in makers:
        try:
            found.append(make())
        except (RuntimeError, OSError, StopIteration) as error:
            missing[name] = str(error) or type(error).__name__
    return found, missing
