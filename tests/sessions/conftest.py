"""Fixtures of the tests that need sessions, crashes or dumps: a real server per test run, a fresh database per test."""
from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from cluster import Cluster  # noqa: E402

from pg_net import StandIn  # noqa: E402

_numbers = itertools.count(1)


def pytest_sessionstart():
    """What a killed run left behind would look like pg_net to every other test."""
    if "PG_BIN" in os.environ:
        StandIn(Path(os.environ["PG_BIN"])).__exit__()


@pytest.fixture(scope="session")
def cluster():
    """One server for all tests that leave it running; autovacuum stays on, as in life."""
    with Cluster({"max_worker_processes": "16", "log_min_duration_statement": "-1"}) as c:
        yield c


@pytest.fixture
def fresh_cluster():
    """A server of its own for a test that kills it."""
    with Cluster() as c:
        yield c


class Database:
    """One database, and how to get sessions in it."""

    def __init__(self, cluster: Cluster, name: str):
        self.cluster, self.name = cluster, name

    def connect(self, user: str = "postgres", autocommit: bool = True) -> psycopg.Connection:
        return psycopg.connect(self.cluster.dsn(self.name, user), autocommit=autocommit)

    def sql(self, query: str, args=None, user: str = "postgres") -> list[tuple]:
        """Runs one statement in a session of its own and returns its rows."""
        with self.connect(user) as conn:
            cur = conn.execute(query, args)
            return cur.fetchall() if cur.description else []

    def value(self, query: str, args=None, user: str = "postgres"):
        rows = self.sql(query, args, user)
        return rows[0][0] if rows else None


def create_database(cluster: Cluster, extension: bool = True) -> Database:
    db = Database(cluster, f"t{os.getpid()}_{next(_numbers)}")
    cluster.psql(f'CREATE DATABASE "{db.name}"')
    if extension:
        cluster.psql("CREATE EXTENSION pgedge CASCADE", db.name)
    return db


@pytest.fixture
def db(cluster):
    """A fresh database with the extension in it."""
    database = create_database(cluster)
    yield database
    cluster.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')


@pytest.fixture
def empty_db(cluster):
    """A fresh database without the extension."""
    database = create_database(cluster, extension=False)
    yield database
    cluster.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')

