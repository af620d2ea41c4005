"""A throw-away PostgreSQL cluster for the demo, the tests and the benchmarks.

Started by root it runs as an unprivileged user (PGEDGE_SERVER_USER, else postgres, else pgedge-test), since PostgreSQL refuses root.
It listens on a Unix socket inside its own folder and on a free loopback port, trusts local connections, and is gone after stop().

    with Cluster({"work_mem": "16MB"}) as c:
        c.psql("SELECT 1")
"""
from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

SUPERUSER = "postgres"


def server_user() -> str | None:
    """The user to run the server as, None when we are not root and need no other."""
    if os.geteuid() != 0:
        return None
    for name in filter(None, (os.environ.get("PGEDGE_SERVER_USER"), "postgres", "pgedge-test")):
        try:
            pwd.getpwnam(name)
            return name
        except KeyError:
            continue
    raise RuntimeError("no unprivileged user to run PostgreSQL as; scripts/setup.sh makes one")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    """One initdb'ed data folder and its postmaster."""

    def __init__(self, settings: dict[str, str] | None = None, bindir: str | None = None):
        self.bindir = Path(bindir or os.environ["PG_BIN"])
        self.user = server_user()
        # Short, since a Unix socket's path may have 107 bytes only.
        self.folder = Path(tempfile.mkdtemp(prefix="pgedge-", dir="/tmp"))
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.port = free_port()
        self.settings = dict(settings or {})
        if self.user:
            shutil.chown(self.folder, self.user)

    def run(self, *command: str | Path, **kwargs) -> subprocess.CompletedProcess:
        """Runs a command as the server's user."""
        argv = [str(c) for c in command]
        if self.user:
            account = pwd.getpwnam(self.user)
            argv = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", *argv]
        kwargs.setdefault("check", True)
        kwargs.setdefault("cwd", self.folder)
        return subprocess.run(argv, **kwargs)

    def tool(self, name: str, *args: str, **kwargs) -> subprocess.CompletedProcess:
        """Runs a client program of this PostgreSQL against this cluster (psql, pg_dump, …) as the superuser."""
        env = {**os.environ, "PGHOST": str(self.folder), "PGPORT": str(self.port), "PGUSER": SUPERUSER, "LC_ALL": "C.UTF-8"}
        kwargs.setdefault("check", True)
        return subprocess.run([str(self.bindir / name), *args], env=env, **kwargs)

    def psql(self, sql: str, dbname: str = "postgres") -> str:
        """The unaligned output of some SQL."""
        out = self.tool("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", dbname, "-c", sql, capture_output=True, text=True, check=False)
        if out.returncode:
            raise RuntimeError(out.stderr.strip())
        return out.stdout.rstrip("\n")

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        return f"host={self.folder} port={self.port} dbname={dbname} user={user}"

    def initdb(self) -> "Cluster":
        # Durability stays on: crash tests kill the postmaster and expect committed rows back.
        self.run(self.bindir / "initdb", "-D", self.data, "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8",
                 stdout=subprocess.DEVNULL)
        conf = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(self.folder),
            "max_connections": "100", "shared_buffers": "256MB", "fsync": "on", "log_min_messages": "warning", **self.settings,
        }
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as f:
            f.writelines(f"{name} = '{value}'\n" for name, value in conf.items())
        return self

    def start(self) -> "Cluster":
        env = {k: v for k, v in os.environ.items() if k != "RUST_BACKTRACE"}  # it would put backtraces into error details
        self.run(self.bindir / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "120", "start", stdout=subprocess.DEVNULL, env=env)
        return self

    def stop(self, mode: str = "fast") -> None:
        self.run(self.bindir / "pg_ctl", "-D", self.data, "-w", "-m", mode, "stop", stdout=subprocess.DEVNULL)

    def postmaster_pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def kill_postmaster(self) -> None:
        """kill -9 of the postmaster, as a power cut would; its backends notice and leave."""
        pid = self.postmaster_pid()
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{p}") for p in [str(pid), *children]) and time.monotonic() < deadline:
            time.sleep(0.05)
        for p in children:
            if os.path.exists(f"/proc/{p}"):
                os.kill(int(p), signal.SIGKILL)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def destroy(self) -> None:
        if (self.data / "postmaster.pid").exists():
            try:
                self.stop("immediate")
            except subprocess.CalledProcessError:
                self.kill_postmaster()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Cluster":
        try:
            return self.initdb().start()
        except BaseException:
            if self.log.exists():
                print(self.log.read_text()[-4000:])
            self.destroy()
            raise

    def __exit__(self, *_) -> None:
        self.destroy()
