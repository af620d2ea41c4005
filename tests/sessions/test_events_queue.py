"""What claims must not miss, though they look only behind their cursors and write nothing: late commits, rollbacks, plain clients, limits, wake-ups."""
from __future__ import annotations

import threading
import time

import psycopg
import pytest

from conftest import create_database
from support import fails


@pytest.fixture(scope="module")
def shared(cluster):
    """One database for all tests of this file; each leaves the table empty."""
    database = create_database(cluster)
    yield database
    cluster.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')


@pytest.fixture
def conn(shared):
    with shared.connect() as c:
        yield c
        c.execute("TRUNCATE claude_events; DELETE FROM pgedge.event_limits")


def enqueue(conn, kind="t", **named):
    args = "".join(f", {k} => %({k})s" for k in named)
    return conn.execute(f"SELECT pgedge.enqueue_event(%(kind)s, '{{}}'{args})", {"kind": kind, **named}).fetchone()[0]


def claim(conn, n=100, lease="5 minutes", types=None, worker=None):
    """Rows of (id, attempt, lease_token)."""
    return conn.execute("SELECT id, attempt, lease_token FROM pgedge.claim_events(%s, %s, %s, %s)", (n, lease, types, worker)).fetchall()


def ids(rows):
    return [r[0] for r in rows]


def test_late_commits_are_not_missed(shared, conn):
    """Cursors pass writers that are still open; what they wrote comes once they are over, and meanwhile nobody waits for them."""
    with shared.connect(autocommit=False) as late, shared.connect(autocommit=False) as undone:
        first, lost = enqueue(late), enqueue(undone)
        early = [enqueue(conn) for _ in range(5)]
        urgent = enqueue(conn, priority=1)
        assert ids(claim(conn)) == [urgent, *early]
        more = enqueue(late, priority=9)
        assert claim(conn) == []
        again = enqueue(conn)
        late.commit()
        undone.rollback()
        assert sorted(ids(claim(conn))) == sorted([first, more, again]) and lost not in ids(claim(conn))


def test_a_late_commit_stands_in_line_where_it_was_not_passed(shared, conn):
    """Claims of urgent events pass a transaction that is still writing; its less urgent ones have older ones before them."""
    backlog = [enqueue(conn, priority=9) for _ in range(3)]
    with shared.connect(autocommit=False) as late:
        urgent, patient = enqueue(late, priority=1), enqueue(late, priority=9)
        passed = enqueue(conn, priority=1)
        assert ids(claim(conn, 1)) == [passed]
        late.commit()
    assert ids(claim(conn, 1)) == [urgent]
    assert [ids(claim(conn, 1)) for _ in range(4)] == [[i] for i in [*backlog, patient]]


@pytest.mark.parametrize("own", ["SELECT pg_current_xact_id()", "SELECT pgedge.enqueue_event('own', '{}')"])
def test_a_claiming_transaction_that_writes_itself_passes_nobody(shared, conn, own):
    """Its own id may be beyond its snapshot's end, with other writers unseen between the two."""
    with shared.connect(autocommit=False) as late, shared.connect(autocommit=False) as claimer:
        event = enqueue(late)
        claimer.execute(own)
        assert len(claim(claimer)) == ("own" in own)
        claimer.commit()
        late.commit()
        assert ids(claim(conn)) == [event]


def test_a_large_late_commit_comes_in_small_claims(shared, conn):
    with shared.connect(autocommit=False) as late:
        late.execute("INSERT INTO claude_events (event_type, payload, priority) SELECT 't', '{}', 1 + n % 3 FROM generate_series(1, 1000) n")
        enqueue(conn, priority=10)
        assert len(claim(conn)) == 1
        late.commit()
    got = []
    while rows := claim(conn, 70):
        got += ids(rows)
    assert len(got) == len(set(got)) == 1000


def test_rolled_back_claims_are_claimable_at_once(shared, conn):
    events = [enqueue(conn) for _ in range(4)]
    with shared.connect(autocommit=False) as other:
        assert ids(claim(other, 2)) == events[:2]
        other.execute("SAVEPOINT s")
        assert ids(claim(other, 1)) == [events[2]]
        other.execute("ROLLBACK TO s")
        assert ids(claim(conn)) == [events[2], events[3]]
        token = other.execute("SELECT DISTINCT lease_token FROM pgedge.event_leases WHERE id = %s", (events[0],)).fetchone()[0]
        assert len(other.execute("SELECT pgedge.complete_events(%s, %s)", (events[:2], token)).fetchall()) == 2
        assert claim(conn) == []
        other.rollback()
    assert [r[:2] for r in claim(conn)] == [(events[0], 1), (events[1], 1)], "the attempt does not count"


def test_a_rolled_back_completion_leaves_the_lease(conn):
    event = enqueue(conn)
    token = claim(conn)[0][2]
    with conn.transaction(force_rollback=True):
        assert len(conn.execute("SELECT pgedge.complete_events(%s, %s)", ([event], token)).fetchall()) == 1
        assert conn.execute("SELECT pgedge.complete_events(%s, %s)", ([event], token)).fetchall() == []
    assert claim(conn) == []
    assert len(conn.execute("SELECT pgedge.complete_events(%s, %s)", ([event], token)).fetchall()) == 1


def test_what_a_plain_consumer_has_locked_is_left_alone(shared, conn):
    events = [enqueue(conn) for _ in range(3)]
    with shared.connect(autocommit=False) as plain:
        plain.execute("SELECT FROM claude_events WHERE status = 'pending' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED")
        assert ids(claim(conn, 1)) == [events[1]]
        plain.execute("UPDATE claude_events SET status = 'processed' WHERE id = %s", (events[2],))
        assert claim(conn) == []
        plain.rollback()
        assert sorted(ids(claim(conn))) == [events[0], events[2]]


def test_plain_updates_move_events(conn):
    low, high = enqueue(conn, priority=9), enqueue(conn, priority=5)
    held = ids(claim(conn, 1))
    assert held == [high]
    conn.execute("UPDATE claude_events SET priority = 1 WHERE id = %s", (low,))
    mid = enqueue(conn, priority=3)
    assert ids(claim(conn)) == [low, mid]
    conn.execute("UPDATE claude_events SET status = 'processed'")
    conn.execute("UPDATE claude_events SET status = 'pending' WHERE id = %s", (low,))
    assert ids(claim(conn)) == [low], "whoever held it when it was marked holds it no more"
    delayed = enqueue(conn)
    conn.execute("UPDATE claude_events SET run_at = now() + interval '1 hour' WHERE id = %s", (delayed,))
    assert claim(conn) == []
    conn.execute("UPDATE claude_events SET run_at = now() WHERE id = %s", (delayed,))
    assert ids(claim(conn)) == [delayed]


def test_truncate_restarts_with_the_same_ids(conn):
    first = enqueue(conn)
    token = claim(conn)[0][2]
    conn.execute("TRUNCATE claude_events RESTART IDENTITY")
    assert enqueue(conn) == 1
    conn.execute("INSERT INTO claude_events (id, event_type, payload) VALUES (%s, 't', '{}') ON CONFLICT DO NOTHING", (first,))
    assert conn.execute("SELECT pgedge.complete_events(%s, %s)", ([first, 1], token)).fetchall() == []
    assert 1 in ids(claim(conn))
    with conn.transaction(force_rollback=True):
        conn.execute("TRUNCATE claude_events")
    assert claim(conn) == []


def test_rows_with_a_place_from_elsewhere(conn):
    """As a data-only restore and logical replication bring them: behind the cursor, and far in the future."""
    here = enqueue(conn)
    assert ids(claim(conn)) == [here]
    with conn.cursor().copy("COPY claude_events (event_type, payload, qx) FROM stdin") as copy:
        copy.write_row(("past", "{}", "3"))
        copy.write_row(("future", "{}", "888888888888"))
    assert len(claim(conn)) == 2
    assert ids(claim(conn)) == [] and enqueue(conn) in ids(claim(conn))


def test_types_do_not_hide_each_other(conn):
    kinds = {kind: [enqueue(conn, kind) for _ in range(3)] for kind in "abc"}
    assert ids(claim(conn, types=["b"])) == kinds["b"]
    assert ids(claim(conn, 2)) == kinds["a"][:2]
    assert ids(claim(conn, types=["a", "c"])) == [kinds["a"][2], *kinds["c"]]
    more = enqueue(conn, "a")
    assert claim(conn, types=["b"]) == [] and ids(claim(conn)) == [more]
    # More filters than the queue remembers.
    last = [enqueue(conn, f"k{n}") for n in range(50)]
    for _ in range(2):
        for n in range(50):
            assert ids(claim(conn, types=[f"k{n}"])) == [last[n]][:1 if last[n] else 0]
            last[n] = 0
        last = [enqueue(conn, f"k{n}") for n in range(50)]


def test_low_priorities_do_not_starve(conn):
    conn.execute("SET pgedge.priority_aging = '1h'")
    old = conn.execute("INSERT INTO claude_events (event_type, payload, priority, created_at) VALUES ('t', '{}', 8, now() - interval '2 hours') RETURNING id").fetchone()[0]
    young = enqueue(conn, priority=9)
    conn.execute("INSERT INTO claude_events (event_type, payload, priority) SELECT 't', '{}', 1 FROM generate_series(1, 400)")
    got = [claim(conn, 1)[0][0] for _ in range(16 * 10)]
    assert old in got and young not in got
    conn.execute("RESET pgedge.priority_aging")


def test_pause_and_resume(conn):
    a, b = enqueue(conn, "a"), enqueue(conn, "b")
    conn.execute("SELECT pgedge.pause_events('a')")
    assert ids(claim(conn)) == [b] and claim(conn, types=["a"]) == []
    assert conn.execute("SELECT pgedge.resume_events('b'), pgedge.resume_events('a')").fetchone() == (False, True)
    assert ids(claim(conn)) == [a]
    fails(conn, "22023", "SELECT pgedge.pause_events('')")
    fails(conn, "22004", "SELECT pgedge.resume_events(NULL)")


def test_concurrency_limit(conn):
    conn.execute("INSERT INTO pgedge.event_limits VALUES ('a', 2)")
    events = [enqueue(conn, "a") for _ in range(5)]
    free = enqueue(conn, "b")
    rows = claim(conn)
    assert ids(rows) == [*events[:2], free] and claim(conn) == []
    conn.execute("SELECT pgedge.complete_events(%s, %s)", ([events[0]], rows[0][2]))
    conn.execute("SELECT pgedge.release_events(%s, %s)", ([events[1]], rows[0][2]))
    assert sorted(ids(claim(conn))) == events[1:3]
    conn.execute("UPDATE pgedge.event_limits SET max_concurrent = NULL")
    assert ids(claim(conn)) == events[3:]


def test_rate_limit(conn):
    conn.execute("INSERT INTO pgedge.event_limits (event_type, max_per_second) VALUES ('a', 20)")
    conn.execute("SELECT pgedge.enqueue_events('a', array_fill('{}'::jsonb, ARRAY[60]))")
    start, got = time.monotonic(), 0
    got += len(claim(conn))
    assert got == 20, "a second's worth at once"
    while got < 40:
        got += len(claim(conn))
        time.sleep(0.02)
    assert 0.9 < time.monotonic() - start < 10


def test_open_claims_and_leases_are_seen(conn):
    event = enqueue(conn)
    claim(conn, worker="w" * 60)
    [(seen, worker, attempt)] = conn.execute("SELECT id, worker, attempt FROM pgedge.event_leases").fetchall()
    assert (seen, worker, attempt) == (event, "w" * 40, 1)


def test_history(conn):
    event = enqueue(conn, max_attempts=30)
    for n in range(1, 25):
        [(_, attempt, token)] = claim(conn, worker=f"w{n}")
        conn.execute("SELECT pgedge.fail_events(%s, %s, %s, '0')", ([event], token, f"error {n}"))
    [(_, attempt, token)] = claim(conn, worker="last")
    conn.execute("SELECT pgedge.complete_events(%s, %s)", ([event], token))
    history, by, at, attempts, error = conn.execute("SELECT history, claimed_by, claimed_at < now(), attempts, last_error FROM claude_events").fetchone()
    assert [h["attempt"] for h in history] == list(range(5, 25)) and (history[-1]["worker"], history[-1]["error"]) == ("w24", "error 24")
    assert (by, at, attempts, error) == ("last", True, 25, "error 24")


def test_retention(conn):
    for _ in range(3):
        enqueue(conn)
    rows = claim(conn, 3)
    conn.execute("SELECT pgedge.complete_events(%s, %s)", (ids(rows), rows[0][2]))
    conn.execute("UPDATE claude_events SET processed_at = now() - interval '2 days'")
    fails(conn, "22004", "SELECT pgedge.purge_events()")
    fails(conn, "22003", "SELECT pgedge.purge_events('1 day', max_events => 0)")
    conn.execute("SET pgedge.event_retention = '1d'")
    assert conn.execute("SELECT pgedge.purge_events(max_events => 2)").fetchone() == (2,)
    assert conn.execute("SELECT pgedge.purge_events()").fetchone() == (1,)
    conn.execute("RESET pgedge.event_retention")


def test_wait_for_events(shared, conn):
    assert conn.execute("SELECT pgedge.wait_for_events('50 ms')").fetchone() == (False,)
    enqueue(conn, "a")
    assert conn.execute("SELECT pgedge.wait_for_events('10 s'), pgedge.wait_for_events('50 ms', '{b}')").fetchone() == (True, False)
    assert len(claim(conn)) == 1, "waiting claims nothing"
    waited = []

    def wait():
        with shared.connect() as other:
            start = time.monotonic()
            assert other.execute("SELECT pgedge.wait_for_events('20 s')").fetchone() == (True,)
            waited.append(time.monotonic() - start)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    enqueue(conn)
    thread.join(15)
    assert waited and waited[0] < 10
    fails(conn, "22004", "SELECT pgedge.wait_for_events(NULL)")
    fails(conn, "22023", "SELECT pgedge.wait_for_events('-1 s')")


def test_no_wake_up_is_lost_and_few_are_sent(shared):
    """Producers at full speed and consumers that sleep until notified: all gets done, with far fewer notifications than transactions."""
    total, done, notified = 600, [], []

    def producer():
        with shared.connect() as c:
            for n in range(total // 3):
                enqueue(c)
                if n % 20 == 0:
                    time.sleep(0.01)

    def consumer():
        with shared.connect() as c:
            c.execute("LISTEN pgedge_events")
            while len(done) < total:
                rows = claim(c, 5)
                if rows:
                    done.extend(ids(rows))
                    c.execute("SELECT pgedge.complete_events(%s, %s)", (ids(rows), rows[0][2]))
                else:
                    woken = list(c.notifies(timeout=5, stop_after=1))
                    notified.extend(woken)
                    assert woken or len(done) >= total, "slept through an event"

    threads = [threading.Thread(target=t) for t in (producer, producer, producer, consumer, consumer)]
    for t in threads:
        t.start()
    deadline = time.monotonic() + 60
    while len(done) < total and time.monotonic() < deadline:
        time.sleep(0.05)
    shared.sql("NOTIFY pgedge_events")
    for t in threads:
        t.join(20)
    assert sorted(done) == sorted(set(done)) and len(done) == total
    shared.sql("TRUNCATE claude_events")


def test_stale_statistics_change_no_plan(shared, conn):
    """With statistics of an empty table, of one status, or none, completing a batch among many reads some pages, not all."""
    conn.execute("VACUUM ANALYZE claude_events")
    conn.execute("INSERT INTO claude_events (event_type, payload) SELECT 't', '{}' FROM generate_series(1, 30000)")
    for state in ("empty", "absent", "fresh"):
        if state == "absent":
            conn.execute("DELETE FROM pg_statistic WHERE starelid = 'claude_events'::regclass")
        elif state == "fresh":
            conn.execute("VACUUM ANALYZE claude_events")
        with shared.connect() as other:
            rows = claim(other, 10)
            other.execute("SELECT pgedge.complete_events(%s, %s)", (ids(rows[:1]), rows[0][2]))
            before = other.execute("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'claude_events'").fetchone()
            with other.transaction():
                other.execute("SELECT pgedge.complete_events(%s, %s)", (ids(rows[1:5]), rows[0][2]))
                other.execute("SELECT pgedge.fail_events(%s, %s)", (ids(rows[5:7]), rows[0][2]))
                other.execute("SELECT pgedge.release_events(%s, %s)", (ids(rows[7:]), rows[0][2]))
                other.execute("SELECT pgedge.extend_lease(%s, %s, '1 h')", (ids(rows[7:]), rows[0][2]))
                claim(other, 10)
                read = other.execute("SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'claude_events'").fetchone()
            assert read[0] == (before[0] if before else 0) == 0 and read[1] < 500, (state, read)


def test_prepared_transactions():
    from cluster import Cluster
    with Cluster({"max_prepared_transactions": "4"}) as c:
        c.psql("CREATE EXTENSION pgedge CASCADE")
        with psycopg.connect(c.dsn(), autocommit=True) as conn:
            conn.execute("BEGIN")
            event = enqueue(conn)
            conn.execute("INSERT INTO claude_events (event_type, payload) VALUES ('t', '{}')")
            conn.execute("PREPARE TRANSACTION 'p'")
            other = enqueue(conn)
            assert ids(claim(conn)) == [other]
            conn.execute("COMMIT PREPARED 'p'")
            assert ids(claim(conn)) == [event, event + 1]
            enqueue(conn)
            conn.execute("BEGIN")
            claim(conn)
            fails(conn, "0A000", "PREPARE TRANSACTION 'q'")


def test_a_kept_table_says_what_to_do(empty_db):
    empty_db.sql("CREATE TABLE claude_events (id serial PRIMARY KEY, event_type varchar(50) NOT NULL, payload jsonb NOT NULL, priority int DEFAULT 5,"
                 " status varchar(20) DEFAULT 'pending', created_at timestamp DEFAULT now(), processed_at timestamp)")
    empty_db.sql("INSERT INTO claude_events (event_type, payload) SELECT 'old', '{}' FROM generate_series(1, 3)")
    empty_db.sql("CREATE EXTENSION pgedge CASCADE")
    with empty_db.connect() as conn:
        for call in ("claim_events()", "enqueue_event('t', '{}')", "complete_events('{1}', 1)", "fail_events('{1}', 1)", "wait_for_events('1 s')"):
            error = fails(conn, "42703", f"SELECT pgedge.{call}")
            assert "create_tables()" in error.diag.message_hint
        conn.execute("SELECT pgedge.create_tables()")
        assert ids(claim(conn)) == [1, 2, 3]


def test_too_many_leases(empty_db):
    empty_db.sql("CREATE EXTENSION pgedge CASCADE")
    with empty_db.connect() as conn:
        conn.execute("SET pgedge.max_leases = 64")
        conn.execute("SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[200]))")
        rows = claim(conn)
        assert len(rows) == 64
        error = fails(conn, "53400", "SELECT * FROM pgedge.claim_events(10)")
        assert "64" in error.diag.message_primary
        conn.execute("SELECT pgedge.complete_events(%s, %s)", (ids(rows[:10]), rows[0][2]))
        assert len(claim(conn)) == 10
