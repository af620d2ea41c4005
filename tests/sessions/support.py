"""Helpers that the session tests share."""
from __future__ import annotations

import time

import psycopg
import pytest


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
