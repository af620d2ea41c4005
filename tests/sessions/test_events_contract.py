"""The event queue's contract, one session at a time: what each function does, and what it refuses."""
from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cluster import Cluster
from support import fails


@pytest.fixture
def conn(db):
    with db.connect() as c:
        yield c


def one(conn, query, args=None):
    return conn.execute(query, args).fetchone()[0]


def column(conn, query, args=None):
    return [r[0] for r in conn.execute(query, args)]


def claim(conn, n=1, lease="5 minutes", types=None, worker=None):
    """Rows of (id, attempt, lease_token, event_type, payload, priority)."""
    return conn.execute("SELECT id, attempt, lease_token, event_type, payload, priority FROM pgedge.claim_events(%s, %s, %s, %s)",
                        (n, lease, types, worker)).fetchall()


def with_lease(conn, function, ids, token):
    """The rows of complete_events, fail_events or release_events."""
    return conn.execute(f"SELECT * FROM pgedge.{function}(%s, %s)", (ids, token)).fetchall()


def enqueue(conn, kind="t", **named):
    named.setdefault("payload", "{}")
    args = ", ".join(f"{k} => %({k})s" for k in named)
    return one(conn, f"SELECT pgedge.enqueue_event(event_type => %(kind)s, {args})", {"kind": kind, **named})


def test_round_trip(conn):
    event = enqueue(conn, "mail", payload='{"to": 1}', priority=3)
    row = conn.execute("SELECT * FROM pgedge.claim_events(worker => 'w1')").fetchone()
    assert row[:5] == (event, "mail", {"to": 1}, 3, 1)
    assert claim(conn) == []
    assert conn.execute("SELECT pending, processing FROM pgedge.queue_stats").fetchall() == [(0, 1)]
    assert with_lease(conn, "complete_events", [event], row[5]) == [(event,)]
    assert conn.execute("SELECT status, processed_at IS NOT NULL FROM claude_events").fetchall() == [("processed", True)]
    assert with_lease(conn, "complete_events", [event], row[5]) == []


def test_priority_then_age(conn):
    ids = [enqueue(conn, priority=p) for p in (5, 10, 1, 5, 1)]
    plain, low, top = (one(conn, "INSERT INTO claude_events (event_type, payload, priority) VALUES ('t', '{}', %s) RETURNING id", (p,)) for p in (None, 99, -7))
    assert [r[0] for r in claim(conn, 100)] == [ids[2], ids[4], top, ids[0], ids[3], plain, ids[1], low]


def test_types(conn):
    a, b, c = (enqueue(conn, t) for t in "abc")
    assert claim(conn, 10, types=[]) == [] == claim(conn, 10, types=["x"])
    assert sorted(r[0] for r in claim(conn, 10, types=["a", "c"])) == [a, c]
    assert [r[0] for r in claim(conn, 10)] == [b]


def test_delay_and_bulk(conn):
    ids = column(conn, "SELECT pgedge.enqueue_events('t', ARRAY['1','2','3']::jsonb[], delay => '300 ms')")
    assert len(ids) == 3 and ids == sorted(ids) and claim(conn, 10) == []
    assert conn.execute("SELECT pending, ready, delayed FROM pgedge.queue_stats").fetchone() == (3, 0, 3)
    conn.execute("SELECT pg_sleep(0.35)")
    assert [(r[0], r[4]) for r in claim(conn, 10)] == list(zip(ids, [1, 2, 3]))
    assert column(conn, "SELECT pgedge.enqueue_events('t', '{}')") == []


def test_expired_lease_is_claimable_and_the_old_token_stale(conn):
    event = enqueue(conn)
    old = claim(conn, lease="50 ms")[0][2]
    conn.execute("SELECT pg_sleep(0.1)")
    assert conn.execute("SELECT processing, expired FROM pgedge.queue_stats").fetchone() == (0, 1)
    assert column(conn, "SELECT pgedge.extend_lease(%s, %s, '1 minute')", ([event], old)) == []
    [(again, attempt, new, *_)] = claim(conn)
    assert (again, attempt) == (event, 2) and new != old
    for function in ("complete_events", "release_events", "fail_events"):
        assert with_lease(conn, function, [event], old) == []
    assert column(conn, "SELECT pgedge.extend_lease(%s, %s, '1 minute')", ([event], old)) == []
    assert with_lease(conn, "complete_events", [event], new) == [(event,)]


def test_extend(conn):
    event = enqueue(conn)
    token = claim(conn, lease="300 ms")[0][2]
    assert column(conn, "SELECT pgedge.extend_lease(%s, %s, '1 minute')", ([event], token)) == [event]
    conn.execute("SELECT pg_sleep(0.35)")
    assert claim(conn) == []


def test_release_does_not_count(conn):
    event = enqueue(conn, max_attempts=1)
    for _ in range(3):
        [(got, attempt, token, *_)] = claim(conn)
        assert (got, attempt) == (event, 1)
        assert with_lease(conn, "release_events", [event], token) == [(event,)]


def test_fail_backs_off_then_dies_then_redrives(conn):
    event = enqueue(conn, max_attempts=2)
    token = claim(conn)[0][2]
    assert conn.execute("SELECT * FROM pgedge.fail_events(%s, %s, 'first')", ([event], token)).fetchall() == [(event, "pending")]
    assert claim(conn) == [] and one(conn, "SELECT delayed FROM pgedge.queue_stats") == 1
    conn.execute("UPDATE claude_events SET run_at = now()")
    token = claim(conn)[0][2]
    assert conn.execute("SELECT * FROM pgedge.fail_events(%s, %s, 'second', '0')", ([event], token)).fetchall() == [(event, "dead")]
    assert claim(conn) == []
    assert one(conn, "SELECT last_error FROM claude_events") == "second"
    assert one(conn, "SELECT pgedge.redrive_events('other')") == 0
    assert one(conn, "SELECT pgedge.redrive_events()") == 1
    assert [r[:2] for r in claim(conn)] == [(event, 1)]


def test_backoff_doubles_up_to_the_cap_with_jitter(conn):
    conn.execute("SET pgedge.retry_base = '10s'; SET pgedge.retry_cap = '50s'")
    ids = column(conn, "SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[40]), max_attempts => 90)")
    for attempt, longest in enumerate((10, 20, 40, 50, 50), 1):
        rows = claim(conn, 100)
        assert {r[1] for r in rows} == {attempt}
        with_lease(conn, "fail_events", ids, rows[0][2])
        delays = [float(d) for d in column(conn, "SELECT extract(epoch FROM run_at - clock_timestamp()) FROM claude_events")]
        assert longest / 2 - 5 < min(delays) and max(delays) <= longest and max(delays) - min(delays) > longest / 10
        conn.execute("UPDATE claude_events SET run_at = now()")
    conn.execute("UPDATE claude_events SET attempts = 80, run_at = now()")
    assert len(with_lease(conn, "fail_events", ids, claim(conn, 100)[0][2])) == 40


def test_retry_after(conn):
    later, now = enqueue(conn), enqueue(conn)
    conn.execute("SELECT pgedge.fail_events(%s, %s, NULL, '1 day')", ([later], claim(conn)[0][2]))
    assert one(conn, "SELECT next_due_at > now() + interval '23 hours' FROM pgedge.queue_stats")
    conn.execute("SELECT pgedge.fail_events(%s, %s, NULL, '0')", ([now], claim(conn)[0][2]))
    assert [r[:2] for r in claim(conn)] == [(now, 2)]


def test_expiry_of_the_last_attempt_kills(conn):
    enqueue(conn, max_attempts=1)
    claim(conn, lease="20 ms", worker="w7")
    conn.execute("SELECT pg_sleep(0.05)")
    assert claim(conn) == []
    [(status, error)] = conn.execute("SELECT status, last_error FROM claude_events").fetchall()
    assert status == "dead" and "w7" in error


def test_cancel_and_purge(conn):
    a, b, c, d = (enqueue(conn) for _ in range(4))
    token = claim(conn)[0][2]
    assert sorted(column(conn, "SELECT pgedge.cancel_events(%s)", ([a, b, 10**12],))) == [a, b]
    assert with_lease(conn, "complete_events", [a], token) == []
    assert column(conn, "SELECT pgedge.cancel_events(%s)", ([a],)) == []
    with_lease(conn, "complete_events", [c], claim(conn)[0][2])
    assert one(conn, "SELECT pgedge.purge_events('1 hour')") == 0
    assert one(conn, "SELECT pgedge.purge_events('0')") == 3
    assert column(conn, "SELECT id FROM claude_events") == [d]


def test_dedup(conn):
    first = enqueue(conn, dedup_key="k", payload='{"n": 1}')
    assert enqueue(conn, dedup_key="k", payload='{"n": 2}') == first
    assert enqueue(conn, "u", dedup_key="k") != first
    [(got, _, token, *_)] = claim(conn, types=["t"])
    assert enqueue(conn, dedup_key="k") == first, "leased is unfinished"
    with_lease(conn, "complete_events", [got], token)
    second = enqueue(conn, dedup_key="k")
    assert second != first
    rows = column(conn, "SELECT pgedge.enqueue_events('t', ARRAY['1','2','3','4']::jsonb[], dedup_keys => ARRAY['z','k','z',NULL])")
    assert rows[1] == second and rows[0] == rows[2] and rows[3] not in rows[:3]


def test_redrive_respects_dedup(conn):
    first = enqueue(conn, dedup_key="k", max_attempts=1)
    with_lease(conn, "fail_events", [first], claim(conn)[0][2])
    second = enqueue(conn, dedup_key="k")
    assert second != first and one(conn, "SELECT pgedge.redrive_events()") == 0
    conn.execute("SELECT pgedge.cancel_events(%s)", ([second],))
    assert one(conn, "SELECT pgedge.redrive_events()") == 1


def test_ordering(conn):
    a1, b1, a2, free = (enqueue(conn, ordering_key=k) for k in ("a", "b", "a", None))
    urgent = enqueue(conn, ordering_key="a", priority=1)
    rows = claim(conn, 10)
    assert sorted(r[0] for r in rows) == [a1, b1, free]
    assert claim(conn, 10) == []
    conn.execute("SELECT pgedge.fail_events(%s, %s, NULL, '1 h')", ([a1], rows[0][2]))
    assert claim(conn, 10) == [], "a retry keeps its place"
    conn.execute("UPDATE claude_events SET run_at = NULL WHERE id = %s", (a1,))
    for expected in (a1, a2, urgent):
        [(got, _, token, *_)] = claim(conn, 10)
        assert got == expected
        with_lease(conn, "complete_events", [got], token)


def test_many_keys_in_one_claim(conn):
    ids = column(conn, "SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[300]), ordering_keys => ARRAY(SELECT n::text FROM generate_series(1, 300) n))")
    got = []
    while rows := claim(conn, 1000):
        got += [r[0] for r in rows]
    assert sorted(got) == ids


def test_plain_clients(conn):
    ids = column(conn, "INSERT INTO claude_events (event_type, payload) SELECT 'p', '{}' FROM generate_series(1, 4) RETURNING id")
    token = claim(conn, 2)[0][2]
    conn.execute("UPDATE claude_events SET status = 'processed', processed_at = now() WHERE id = ANY (%s)", ([ids[0], ids[2]],))
    conn.execute("DELETE FROM claude_events WHERE id = %s", (ids[1],))
    assert with_lease(conn, "complete_events", ids, token) == [] == with_lease(conn, "fail_events", ids, token)
    assert column(conn, "SELECT id FROM claude_events WHERE status = 'pending'") == [ids[3]]
    assert [r[0] for r in claim(conn, 10)] == [ids[3]]
    conn.execute("INSERT INTO claude_events VALUES (DEFAULT, 'positional', '{}', 1, 'pending', now(), NULL)")
    conn.execute("UPDATE claude_events SET status = 'pending' WHERE id = %s", (ids[0],))
    assert {r[3] for r in claim(conn, 10)} == {"positional", "p"}
    conn.execute("INSERT INTO claude_events (event_type, payload, status) VALUES ('own', '{}', 'processing'), ('own', '{}', 'parked'), ('own', '{}', NULL)")
    assert claim(conn, 10) == []
    conn.execute("TRUNCATE claude_events")
    assert claim(conn, 10) == []
    with conn.cursor().copy("COPY claude_events (event_type, payload) FROM stdin") as copy:
        copy.write_row(("copied", "{}"))
    assert claim(conn)[0][3] == "copied"


@pytest.mark.parametrize("state, call", [
    ("22004", "enqueue_event(NULL, '{}')"), ("22023", "enqueue_event(' ', '{}')"), ("22001", "enqueue_event(repeat('x', 51), '{}')"),
    ("22004", "enqueue_event('t', NULL)"), ("22003", "enqueue_event('t', '{}', 0)"), ("22003", "enqueue_event('t', '{}', 11)"),
    ("22004", "enqueue_event('t', '{}', NULL)"), ("22023", "enqueue_event('t', '{}', 5, '-1 s')"), ("22003", "enqueue_event('t', '{}', max_attempts => 0)"),
    ("22023", "enqueue_event('t', '{}', delay => '9999 years')"), ("22004", "enqueue_event('t', '{}', delay => NULL)"),
    ("22004", "enqueue_events('t', NULL)"), ("22004", "enqueue_events('t', ARRAY['{}', NULL]::jsonb[])"), ("22003", "enqueue_events('t', '{}', 12)"),
    ("2202E", "enqueue_events('t', ARRAY['{}']::jsonb[], dedup_keys => '{a,b}')"), ("2202E", "enqueue_events('t', ARRAY['{}']::jsonb[], ordering_keys => '{}')"),
    ("22003", "claim_events(0)"), ("22003", "claim_events(-1)"), ("22003", "claim_events(10001)"), ("22004", "claim_events(NULL)"),
    ("22023", "claim_events(1, '0')"), ("22023", "claim_events(1, '-1 s')"), ("22004", "claim_events(1, NULL)"), ("22023", "claim_events(1, '2 years')"),
    ("22004", "complete_events(NULL, 1)"), ("22004", "complete_events('{1,NULL}', 1)"), ("22004", "complete_events('{1}', NULL)"),
    ("22004", "extend_lease(NULL, 1, '1 s')"), ("22023", "extend_lease('{1}', 1, '-1 s')"), ("22004", "extend_lease('{1}', 1, NULL)"),
    ("22004", "fail_events(NULL, 1)"), ("22023", "fail_events('{1}', 1, 'x', '-1 s')"), ("22004", "release_events('{1}', NULL)"),
    ("22004", "cancel_events(NULL)"), ("22004", "cancel_events('{NULL}')"), ("22003", "redrive_events(NULL, 0)"),
    ("22004", "purge_events(NULL)"), ("22023", "purge_events('-1 day')"),
    ("2202E", "complete_events('{{1,2},{3,4}}', 1)"), ("2202E", "fail_events('{{1},{2}}', 1)"), ("2202E", "extend_lease('{{1},{2}}', 1, '1 s')"),
    ("2202E", "release_events('{{1},{2}}', 1)"), ("2202E", "cancel_events('{{1},{2}}')"), ("2202E", "enqueue_events('t', ARRAY[['{}'],['{}']]::jsonb[])"),
    ("2202E", "enqueue_events('t', ARRAY['{}','{}']::jsonb[], dedup_keys => '{{a},{b}}')"), ("2202E", "enqueue_events('t', ARRAY['{}','{}']::jsonb[], ordering_keys => '{{a},{b}}')"),
])
def test_bad_input(shared_conn, state, call):
    before = shared_conn.execute("SELECT * FROM claude_events").fetchall()
    fails(shared_conn, state, f"SELECT pgedge.{call}")
    assert shared_conn.execute("SELECT * FROM claude_events").fetchall() == before


@pytest.fixture(scope="module")
def shared_conn(cluster):
    """One session in one database with one event, for the many calls that change nothing."""
    from conftest import create_database
    db = create_database(cluster)
    with db.connect() as c:
        enqueue(c)
        yield c
    cluster.psql(f'DROP DATABASE "{db.name}" WITH (FORCE)')


def test_empty_arrays_are_no_rows(shared_conn):
    for call in ("complete_events('{}', 1)", "release_events('{}', 1)", "extend_lease('{}', 1, '1 s')", "fail_events('{}', 1)", "cancel_events('{}')"):
        assert shared_conn.execute(f"SELECT pgedge.{call}").fetchall() == []


def test_read_only_transaction(conn):
    for call in ("enqueue_event('t', '{}')", "claim_events()", "complete_events('{1}', 1)", "purge_events('1 day')", "redrive_events()"):
        conn.execute("BEGIN READ ONLY")
        fails(conn, "25006", f"SELECT pgedge.{call}")
    with conn.transaction():
        conn.execute("SET TRANSACTION READ ONLY")
        assert conn.execute("SELECT * FROM pgedge.queue_stats").fetchall() == []


def test_hostile_names(conn):
    event = enqueue(conn)
    conn.execute("CREATE TEMP TABLE claude_events (LIKE public.claude_events INCLUDING ALL)")
    conn.execute("CREATE SCHEMA evil; SET search_path = evil, pg_temp, pg_catalog")
    for name in ("now", "clock_timestamp"):
        conn.execute(f"CREATE FUNCTION evil.{name}() RETURNS timestamptz LANGUAGE sql AS 'SELECT (1/0)::text::timestamptz'")
    [(got, _, token, *_)] = claim(conn)
    assert got == event and with_lease(conn, "complete_events", [event], token) == [(event,)]
    assert enqueue(conn) == event + 1
    assert one(conn, "SELECT count(*) FROM pg_temp.claude_events") == 0


def test_execute_alone_is_enough_and_the_owners_triggers_gain_nothing(db):
    db.sql("CREATE ROLE consumer LOGIN")
    db.sql("CREATE ROLE keeper")
    try:
        db.sql("GRANT USAGE ON SCHEMA pgedge TO consumer")
        with db.connect("consumer") as c, pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute("SELECT pgedge.claim_events()")
        db.sql("GRANT EXECUTE ON FUNCTION pgedge.claim_events, pgedge.enqueue_event, pgedge.complete_events TO consumer")
        for statement in (
            "ALTER TABLE claude_events OWNER TO keeper", "CREATE TABLE seen (who name)", "GRANT INSERT ON seen TO PUBLIC",
            "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.seen VALUES (current_user); RETURN NULL; END$$",
            "CREATE TRIGGER spy AFTER INSERT OR UPDATE ON claude_events FOR EACH STATEMENT EXECUTE FUNCTION spy()",
        ):
            db.sql(statement)
        with db.connect("consumer") as c:
            event = one(c, "SELECT pgedge.enqueue_event('t', '{}')")
            [(got, _, token, *_)] = claim(c)
            assert with_lease(c, "complete_events", [got], token) == [(event,)]
            assert one(c, "SELECT current_user") == "consumer"
            for forbidden in ("SELECT * FROM claude_events", "SELECT pgedge._events_as_owner('public.claude_events', true)", "SELECT * FROM pgedge.queue_stats"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    c.execute(forbidden)
        assert db.sql("SELECT DISTINCT who::text FROM seen") == [("keeper",)]
        with db.connect() as c:
            fails(c, "42501", "SELECT pgedge._events_as_owner('public.claude_events', true)")
    finally:
        db.sql("ALTER TABLE claude_events OWNER TO postgres")
        db.sql("DROP OWNED BY consumer, keeper")
        db.sql("DROP ROLE consumer, keeper")


def test_the_callers_search_path_gains_nothing_of_the_owners_triggers(db):
    """Whatever a claim writes as the owner of the table."""
    db.sql("CREATE ROLE consumer LOGIN")
    db.sql("CREATE ROLE keeper")
    try:
        for statement in (
            "GRANT USAGE ON SCHEMA pgedge TO consumer", "GRANT EXECUTE ON FUNCTION pgedge.claim_events, pgedge.enqueue_event, pgedge.complete_events TO consumer",
            "ALTER TABLE claude_events OWNER TO keeper", "CREATE SCHEMA evil AUTHORIZATION consumer", "GRANT USAGE ON SCHEMA evil TO PUBLIC", "CREATE TABLE seen (who name)", "GRANT INSERT ON seen TO PUBLIC",
            "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM note(1); RETURN NEW; END$$", "CREATE FUNCTION note(int) RETURNS void LANGUAGE sql AS ''",
            "CREATE TRIGGER spy BEFORE UPDATE ON claude_events FOR EACH ROW EXECUTE FUNCTION spy()",
        ):
            db.sql(statement)
        with db.connect("consumer") as c:
            c.execute("CREATE FUNCTION evil.note(int) RETURNS void LANGUAGE sql AS 'INSERT INTO public.seen VALUES (current_user)'; SET search_path = evil, public")
            one(c, "SELECT pgedge.enqueue_event('t', '{}', max_attempts => 1)")
            [(got, _, token, *_)] = c.execute("SELECT id, attempt, lease_token FROM pgedge.claim_events(1, '0.01 s')").fetchall()
            time.sleep(0.05)
            for call in (f"SELECT pgedge.complete_events(ARRAY[{got}], {token})", "SELECT pgedge.claim_events()"):
                with pytest.raises(psycopg.errors.UndefinedFunction):
                    c.execute(call)
            assert one(c, "SHOW search_path") == "evil, public"
        assert db.sql("SELECT * FROM seen") == []
    finally:
        db.sql("ALTER TABLE claude_events OWNER TO postgres")
        db.sql("DROP OWNED BY consumer, keeper CASCADE")
        db.sql("DROP ROLE consumer, keeper")


def test_wake_up_once_a_transaction(db):
    with db.connect() as listener, db.connect() as writer:
        listener.execute("LISTEN pgedge_events")
        with writer.transaction():
            for _ in range(5):
                enqueue(writer)
            writer.execute("INSERT INTO claude_events (event_type, payload) VALUES ('t', '{}')")
        assert len(list(listener.notifies(timeout=0.5))) == 1
        writer.execute("SET pgedge.notify = off")
        enqueue(writer)
        assert not list(listener.notifies(timeout=0.3))


def test_before_the_first_claim_listeners_are_told_once_a_second(db):
    with db.connect() as listener, db.connect() as writer:
        listener.execute("LISTEN pgedge_events")
        begun = time.monotonic()
        for _ in range(100):
            enqueue(writer)
        told = len(list(listener.notifies(timeout=0.3)))
        assert 1 <= told <= 2 + time.monotonic() - begun
        with pytest.raises(psycopg.errors.DivisionByZero), writer.transaction():
            enqueue(writer)
            writer.execute("SELECT 1/0")
        time.sleep(1.1)
        enqueue(writer)
        assert list(listener.notifies(timeout=5, stop_after=1))


def hang(conn, writer, pool):
    """Enqueues in a session whose commit then waits for a standby that does not exist; when that waits, what will have the id."""
    writer.execute("SET synchronous_commit = on")
    enqueued, until = pool.submit(enqueue, writer), time.monotonic() + 10
    while one(conn, "SELECT wait_event FROM pg_stat_activity WHERE pid = %s", (writer.info.backend_pid,)) != "SyncRep":
        assert time.monotonic() < until
        time.sleep(0.01)
    return enqueued


@pytest.fixture
def without_standby():
    """A server that waits for a standby that does not exist, at each commit that is not local."""
    with Cluster({"synchronous_standby_names": "nobody"}) as c:
        yield c


@pytest.mark.parametrize("claimed_before", [False, True])
def test_a_commit_that_hangs_stalls_nobody_and_is_heard_of(without_standby, claimed_before):
    """It sent no notification, before the first claim since one was just sent and later since no consumer was idle."""
    connect = functools.partial(psycopg.connect, without_standby.dsn(), autocommit=True, options="-c synchronous_commit=local")
    with connect() as conn, connect() as writer, connect() as consumer, ThreadPoolExecutor() as pool:
        conn.execute("CREATE EXTENSION pgedge CASCADE")
        consumer.execute("LISTEN pgedge_events")
        first = enqueue(writer)
        if claimed_before:
            assert len(claim(conn)) == 1
            enqueue(writer)  # notifies for the second
        enqueued = hang(conn, writer, pool)
        begun = time.monotonic()
        if not claimed_before:
            assert [r[0] for r in claim(consumer, 10)] == [first]
        else:
            assert len(claim(consumer, 10)) == 1
        assert conn.execute("SELECT pgedge.pause_events('other')") and time.monotonic() - begun < 2
        assert not one(conn, "SELECT pgedge.wait_for_events('100 ms')") and time.monotonic() - begun < 4
        list(consumer.notifies(timeout=0.1))
        begun, empty = time.monotonic(), 0
        while time.monotonic() < begun + 2.5:
            empty += 1
            assert claim(consumer) == []
        told = len(list(consumer.notifies(timeout=0.1)))
        assert empty > 4 and 1 <= told <= 4, "about once a second"
        conn.execute("SELECT pg_cancel_backend(%s)", (writer.info.backend_pid,))
        second, until = enqueued.result(10), time.monotonic() + 10
        while not (rows := claim(consumer)):
            assert time.monotonic() < until and list(consumer.notifies(timeout=5, stop_after=1))
        assert rows[0][0] == second
        # Then all is as ever: nobody waits, and the next is announced.
        assert claim(consumer) == []
        begun = time.monotonic()
        assert claim(consumer) == [] and time.monotonic() - begun < 0.15
        list(consumer.notifies(timeout=0.1))
        enqueue(conn)
        assert list(consumer.notifies(timeout=5, stop_after=1))


def test_one_that_does_not_notify_takes_no_wake_up_from_others(db):
    with db.connect() as listener, db.connect() as quiet, db.connect() as writer:
        listener.execute("LISTEN pgedge_events")
        assert claim(listener) == []
        quiet.execute("SET pgedge.notify = off")
        enqueue(quiet)
        assert not list(listener.notifies(timeout=0.2))
        enqueue(writer)
        assert list(listener.notifies(timeout=5, stop_after=1))


@pytest.mark.parametrize("ends", ["SELECT pgedge.cancel_events(ARRAY[%s])", "DELETE FROM claude_events WHERE id = %s",
                                  "UPDATE claude_events SET status = 'processed' WHERE id = %s"])
@pytest.mark.parametrize("head", ["delayed", "processing"])
def test_the_next_of_a_key_is_announced_when_its_head_ends_unclaimed(db, conn, ends, head):
    first = enqueue(conn, ordering_key="k", delay="1 day")
    if head == "processing":
        conn.execute("UPDATE claude_events SET status = 'processing' WHERE id = %s", (first,))
    second = enqueue(conn, ordering_key="k")
    with db.connect() as listener:
        listener.execute("LISTEN pgedge_events")
        assert claim(listener) == []
        conn.execute(ends, (first,))
        assert list(listener.notifies(timeout=5, stop_after=1))
        assert claim(listener)[0][0] == second


def test_a_limit_that_is_raised_is_announced(db, conn):
    conn.execute("INSERT INTO pgedge.event_limits (event_type, max_concurrent) VALUES ('t', 1)")
    conn.execute("SELECT pgedge.pause_events('paused')")
    events = [enqueue(conn), enqueue(conn), enqueue(conn, "paused")]
    assert claim(conn)[0][0] == events[0]
    with db.connect() as listener:
        listener.execute("LISTEN pgedge_events")
        for change, next_one in (("UPDATE pgedge.event_limits SET max_concurrent = 2 WHERE event_type = 't'", events[1]),
                                 ("DELETE FROM pgedge.event_limits WHERE paused", events[2])):
            assert claim(listener) == []
            list(listener.notifies(timeout=0.1))
            conn.execute(change)
            assert list(listener.notifies(timeout=5, stop_after=1))
            assert claim(listener)[0][0] == next_one


def test_memory_of_another_version_of_the_library_is_refused(db, conn):
    """The library is replaced before the server is restarted: new sessions must not begin a second set of leases."""
    if one(conn, "SHOW dynamic_shared_memory_type") != "posix":
        pytest.skip("the queue's memory is no file here")
    first = enqueue(conn)
    token = claim(conn)[0][2]
    database, table = conn.execute("SELECT d.oid, 'claude_events'::regclass::oid FROM pg_database d WHERE datname = current_database()").fetchone()
    handle = one(conn, "SELECT pg_read_file(%s)", (f"pg_stat_tmp/pgedge.{database}.{table}",)).split()[0]
    with open(f"/dev/shm/PostgreSQL.{handle}", "r+b") as memory:
        memory.seek(8)
        layout = memory.read(4)
        memory.seek(8)
        memory.write((int.from_bytes(layout, "little") - 1).to_bytes(4, "little"))
    with db.connect() as new:
        for call in ("SELECT * FROM pgedge.claim_events(1)", f"SELECT pgedge.complete_events(ARRAY[{first}], {token})", "SELECT pgedge.wait_for_events('1 ms')"):
            error = fails(new, "55000", call)
            assert "restart" in error.diag.message_hint
        new.execute("INSERT INTO claude_events (event_type, payload) VALUES ('t', '{}')")
    # Who has the memory already goes on with it.
    assert column(conn, "SELECT pgedge.complete_events(%s, %s)", ([first], token)) == [first]


def test_consumers_cannot_set_the_retention(db):
    db.sql("CREATE ROLE only_consumer LOGIN")
    try:
        db.sql("SELECT pgedge.grant_service('only_consumer', 'event_consumer')")
        with db.connect("only_consumer") as c:
            # Before the library is there, PostgreSQL cannot know; it takes the value back.
            c.execute("SET pgedge.event_retention = 0")
            for _ in range(2):
                db.sql("SELECT pgedge.enqueue_event('t', '{}')")
                rows = c.execute("SELECT id, lease_token FROM pgedge.claim_events(1)").fetchall()
                c.execute("SELECT pgedge.complete_events(%s, %s)", ([rows[0][0]], rows[0][1]))
            assert one(c, "SHOW pgedge.event_retention") == "-1"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                c.execute("SET pgedge.event_retention = 0")
        assert db.value("SELECT count(*) FROM claude_events") == 2
    finally:
        db.sql("DROP OWNED BY only_consumer CASCADE")
        db.sql("DROP ROLE only_consumer")


def test_rolled_back_enqueue(db):
    with db.connect() as a, db.connect() as b:
        a.execute("BEGIN")
        enqueue(a, dedup_key="k")
        assert claim(b) == []
        a.execute("ROLLBACK")
        assert claim(b) == [] and enqueue(b, dedup_key="k")
        assert len(claim(b)) == 1


def test_drop_extension_keeps_events_and_inserts(db):
    db.sql("SELECT pgedge.enqueue_event('t', '{}', delay => '1 h', ordering_key => 'k')")
    db.sql("DROP EXTENSION pgedge")
    db.sql("INSERT INTO claude_events (event_type, payload) VALUES ('plain', '{}')")
    assert db.value("SELECT count(*) FROM claude_events") == 2
    db.sql("CREATE EXTENSION pgedge")
    assert ("trigger pgedge_events_wake on public.claude_events",) in db.sql("SELECT pgedge.create_tables()")
    assert db.sql("SELECT pgedge.create_tables()") == []
    assert db.value("SELECT event_type FROM pgedge.claim_events(5)") == "plain"


def test_other_schema(empty_db):
    empty_db.sql('CREATE SCHEMA "Odd Name"')
    empty_db.sql("CREATE EXTENSION vector")
    empty_db.sql('CREATE EXTENSION pgedge SCHEMA "Odd Name"')
    event = empty_db.value("SELECT pgedge.enqueue_event('t', '{}')")
    assert empty_db.value("SELECT id FROM pgedge.claim_events()") == event == empty_db.value('SELECT id FROM "Odd Name".claude_events')


def test_dump_and_restore(cluster, db, empty_db):
    """Attempts, keys and the triggers come back, no lease does; DROP EXTENSION still works there without CASCADE."""
    db.sql("SELECT pg_current_xact_id() FROM generate_series(1, 3)")
    db.sql("SELECT pgedge.enqueue_event('t', '{}', dedup_key => 'd', ordering_key => 'o')")
    db.sql("SELECT pgedge.enqueue_event('t', '{}')")
    token = db.value("SELECT lease_token FROM pgedge.claim_events()")
    # As from a server that has seen more transactions than this one ever will.
    db.sql("SET session_replication_role = replica; ALTER TABLE claude_events DISABLE TRIGGER USER; UPDATE claude_events SET qx = '999999999999';"
           " ALTER TABLE claude_events ENABLE ALWAYS TRIGGER pgedge_events_wake; ALTER TABLE claude_events ENABLE ALWAYS TRIGGER pgedge_events_place;"
           " ALTER TABLE claude_events ENABLE ALWAYS TRIGGER pgedge_events_requeue; ALTER TABLE claude_events ENABLE ALWAYS TRIGGER pgedge_events_truncated;"
           " ALTER TABLE claude_events ENABLE ALWAYS TRIGGER pgedge_events_deleted;"
           " ALTER TABLE claude_events ENABLE ALWAYS TRIGGER pgedge_events_next")
    dump = cluster.tool("pg_dump", "-d", db.name, capture_output=True).stdout
    cluster.tool("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-d", empty_db.name, input=dump, capture_output=True)
    trigger = "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = 'claude_events'::regclass ORDER BY 1"
    assert empty_db.sql(trigger) == db.sql(trigger) == [(f"pgedge_events_{n}", "A") for n in ("deleted", "next", "place", "requeue", "truncated", "wake")]
    assert empty_db.sql("SELECT * FROM claude_events ORDER BY id") == db.sql("SELECT * FROM claude_events ORDER BY id")
    assert empty_db.sql("SELECT pgedge.create_tables()") == []
    plain = empty_db.value("SELECT pgedge.enqueue_event('t', '{}')")
    with empty_db.connect() as conn:
        first = conn.execute("SELECT id, attempt, lease_token FROM pgedge.claim_events(5)").fetchall()
        assert {r[:2] for r in first} == {(1, 1), (2, 1), (plain, 1)}
        assert empty_db.value("SELECT pgedge.enqueue_event('t', '{}', dedup_key => 'd')") == 1
        assert conn.execute("SELECT pgedge.complete_events('{1,2}', %s)", (token,)).fetchall() == []
        assert conn.execute("SELECT pgedge.complete_events('{1,2}', %s)", (first[0][2],)).fetchall() == [(1,), (2,)]
        # and it goes on
        later = enqueue(conn)
        assert [r[0] for r in claim(conn, 5)] == [later]
    empty_db.sql("DROP EXTENSION pgedge")
    empty_db.sql("INSERT INTO claude_events (event_type, payload) VALUES ('plain', '{}')")
