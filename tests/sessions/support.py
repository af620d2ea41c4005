"""Helpers that the session tests share."""
from __future__ import annotations

import time

import psycopg
import pytest

from cluster import Cluster


def fails(conn: psycopg.Connection, sqlstate: str, query: str, args=None) -> psycopg.Error:
    """Asserts that a statement fails with this SQLSTATE and carries a HINT; returns the error."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(query, args)
    error = caught.value
    conn.rollback()
    assert error.sqlstate == sqlstate, f"{error.sqlstate}: {error}"
    assert error.diag.message_hint, f"no hint: {error}"
    return error


def reconnect(cluster, deadline=30) -> psycopg.Connection:
    """The first session after a crash."""
    until = time.monotonic() + deadline
    while True:
        try:
            return psycopg.connect(cluster.dsn(), autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def start_standby(primary: Cluster) -> Cluster:
    """A streaming standby of a cluster, in a folder of its own."""
    standby = Cluster()
    standby.run(standby.bindir / "pg_basebackup", "-h", str(primary.folder), "-p", str(primary.port), "-U", "postgres", "-D", str(standby.data), "-R", "-c", "fast", "-X", "stream")
    with open(standby.data / "postgresql.conf", "a", encoding="utf-8") as f:
        f.write(f"port = {standby.port}\nunix_socket_directories = '{standby.folder}'\narchive_mode = off\n")
    return standby.start()
