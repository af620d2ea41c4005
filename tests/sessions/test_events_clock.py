"""A server whose clock is put back, as by a time server after a start with a wrong one: nothing waits until it has caught up."""
from __future__ import annotations

import shutil
import subprocess
import time

import psycopg
import pytest

from cluster import Cluster
from test_events_queue import claim, enqueue, ids

CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int gettimeofday(struct timeval *tv, void *tz) {
    struct timespec now; char text[32]; long seconds = 0; int n, f = open(getenv("CLOCK_OFFSET"), O_RDONLY);
    if (f >= 0) { n = read(f, text, 31); if (n > 0) { text[n] = 0; seconds = atol(text); } close(f); }
    clock_gettime(CLOCK_REALTIME, &now);
    tv->tv_sec = now.tv_sec + seconds; tv->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


@pytest.fixture
def clock(tmp_path_factory, monkeypatch):
    """A server, and a function that sets how many seconds its clock is ahead."""
    folder = tmp_path_factory.mktemp("clock")
    for f in (folder, folder.parent, folder.parent.parent):
        f.chmod(0o755)
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", folder / "clock.so", folder / "clock.c"], check=True)
    cluster = Cluster()
    try:
        home = cluster.folder
        shutil.copy(folder / "clock.so", home / "clock.so")
        (home / "offset").write_text("0")
        for f in ("clock.so", "offset"):
            (home / f).chmod(0o755)
        cluster.initdb()
        with monkeypatch.context() as m:
            m.setenv("LD_PRELOAD", str(home / "clock.so"))
            m.setenv("CLOCK_OFFSET", str(home / "offset"))
            cluster.start()
        cluster.psql("CREATE EXTENSION pgedge CASCADE")
        yield cluster, lambda seconds: (home / "offset").write_text(str(seconds))
    finally:
        cluster.destroy()


def test_a_clock_that_is_put_back_keeps_nothing_waiting(clock):
    cluster, ahead = clock
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn, psycopg.connect(cluster.dsn(), autocommit=True) as listener:
        conn.execute("SET pgedge.queue_check_interval = 10")
        real = conn.execute("SELECT clock_timestamp()").fetchone()[0]
        ahead(7200)
        assert 7100 < (conn.execute("SELECT clock_timestamp()").fetchone()[0] - real).total_seconds() < 7300, "the clock obeys"
        conn.execute("SET pgedge.event_retention = '1d'")
        first = enqueue(conn)
        rows = claim(conn)
        assert conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2])).fetchall() == [(first,)]
        assert claim(conn) == []
        ahead(0)
        delayed = enqueue(conn, delay="300 ms")
        ordered = enqueue(conn, ordering_key="k")
        time.sleep(0.4)
        assert sorted(ids(claim(conn))) == [delayed, ordered]
        # Retention, whose next walk was to come a day's tenth, at most an hour, after the last.
        conn.execute("INSERT INTO claude_events (event_type, payload, status, created_at, processed_at) SELECT 'old', '{}', 'processed', now() - interval '9 days', now() - interval '9 days' FROM generate_series(1, 5)")
        enqueue(conn)
        rows = claim(conn)
        conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))
        assert conn.execute("SELECT count(*) FROM claude_events WHERE event_type = 'old'").fetchone() == (0,)
        # Who only listens is told.
        conn.execute("SELECT * FROM pgedge.claim_events(100)")
        listener.execute("LISTEN pgedge_events")
        for _ in range(3):
            enqueue(conn)
            time.sleep(1.1)
        assert len(list(listener.notifies(timeout=2))) >= 2
        # The look behind places.
        conn.execute("SELECT * FROM pgedge.claim_events(100)")
        conn.execute("SET session_replication_role = replica; ALTER TABLE claude_events DISABLE TRIGGER pgedge_events_place")
        conn.execute("INSERT INTO claude_events (event_type, payload, qx) VALUES ('stray', '{}', '3'); RESET session_replication_role")
        until = time.monotonic() + 10
        while not claim(conn):
            assert time.monotonic() < until
            time.sleep(0.02)
