"""Corners of the event queue: full memory, events that change under a lease, tables that were tampered with, awkward sizes."""
from __future__ import annotations

import threading
import time

import psycopg
import pytest

from cluster import Cluster
from support import fails
from test_events_queue import claim, enqueue, ids


@pytest.fixture
def conn(db):
    with db.connect() as c:
        yield c


@pytest.fixture
def small(db):
    """A queue that remembers 64 events, 32 of them without a lease."""
    with db.connect() as c:
        c.execute("SET pgedge.max_leases = 64")
        assert claim(c) == []
        yield c


def complete(conn, rows):
    return [r[0] for r in conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))]


@pytest.mark.parametrize("how", ["late", "due"])
def test_events_that_nobody_takes_do_not_fill_the_memory(db, small, how):
    """More than fit, of a type without consumers, before one that is wanted."""
    if how == "late":
        with db.connect(autocommit=False) as late:
            late.execute("SELECT pgedge.enqueue_events('unwanted', array_fill('{}'::jsonb, ARRAY[150]))")
            wanted = enqueue(late)
            passed = enqueue(small)
            assert ids(claim(small)) == [passed]
            late.commit()
    else:
        small.execute("SELECT pgedge.enqueue_events('unwanted', array_fill('{}'::jsonb, ARRAY[150]), delay => '10 ms')")
        wanted = enqueue(small, delay="20 ms")
        time.sleep(0.1)
    got = []
    for _ in range(20):
        got += ids(claim(small, 5, types=["t"]))
    assert got == [wanted]
    for _ in range(6):
        rows = claim(small, 30, types=["unwanted"])
        if rows:
            got += complete(small, rows)
    assert len(set(got)) == len(got) == 151


def test_expired_leases_of_deleted_events_leave_room(small):
    for _ in range(3):
        small.execute("SELECT pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[50]), ordering_keys => ARRAY(SELECT n::text FROM generate_series(1, 50) n))")
        assert len(claim(small, 50, "10 ms")) == 50
        time.sleep(0.05)
        small.execute("DELETE FROM claude_events")
        assert claim(small) == []


def test_a_type_or_key_changed_while_waiting_or_leased(conn):
    event = enqueue(conn, "a")
    [(_, _, token)] = claim(conn)
    conn.execute("SELECT pgedge.release_events(ARRAY[%s]::bigint[], %s)", (event, token))
    conn.execute("UPDATE claude_events SET event_type = 'b', priority = 1")
    assert claim(conn, types=["a"]) == []
    rows = claim(conn, types=["b"])
    assert ids(rows) == [event]
    conn.execute("UPDATE claude_events SET ordering_key = 'k'")
    second = enqueue(conn, ordering_key="k")
    assert claim(conn) == [], "the first of the key is leased, though not under the key"
    conn.execute("SELECT pgedge.fail_events(ARRAY[%s]::bigint[], %s, 'x', '0')", (event, rows[0][2]))
    rows = claim(conn)
    assert ids(rows) == [event]
    conn.execute("UPDATE claude_events SET ordering_key = NULL WHERE id = %s", (event,))
    assert conn.execute("SELECT pgedge.fail_events(ARRAY[%s]::bigint[], %s, 'x', '0')", (event, rows[0][2])).fetchall()
    assert sorted(ids(claim(conn))) == [event, second]


def test_an_event_marked_and_requeued_by_a_plain_client_is_nobodys(conn):
    event = enqueue(conn)
    rows = claim(conn)
    conn.execute("UPDATE claude_events SET status = 'processed'")
    conn.execute("UPDATE claude_events SET status = 'pending'")
    assert complete(conn, rows) == []
    again = claim(conn)
    assert ids(again) == [event] and complete(conn, again) == [event]


def test_many_limited_types(conn):
    """More than filters were once remembered for; what one claim looks through drives out no place of its own."""
    conn.execute("INSERT INTO pgedge.event_limits SELECT 't' || n, 1000 FROM generate_series(1, 60) n")
    got, wanted = [], 0
    for _ in range(4):
        wanted += 70
        conn.execute("INSERT INTO claude_events (event_type, payload) SELECT 't' || n, '{}' FROM generate_series(1, 70) n")
        while rows := claim(conn, 7):
            got += complete(conn, rows)
    assert len(set(got)) == len(got) == wanted


def test_long_type_names_are_limited_too(conn):
    name = "é" * 50
    enqueue(conn, name)
    conn.execute("SELECT pgedge.pause_events(%s)", (name,))
    assert claim(conn) == []
    conn.execute("SELECT pgedge.resume_events(%s)", (name,))
    assert len(claim(conn)) == 1


def test_limits_changed_before_the_first_claim_and_in_an_open_transaction(db, conn):
    with db.connect(autocommit=False) as other:
        other.execute("INSERT INTO pgedge.event_limits (event_type, paused) VALUES ('t', true)")
        enqueue(conn)
        assert len(claim(conn, 1)) == 1
        enqueue(conn)
        other.commit()
    assert claim(conn) == []


def test_waiting_spends_nothing_of_a_rate(conn):
    conn.execute("INSERT INTO pgedge.event_limits (event_type, max_per_second) VALUES ('t', 1)")
    for _ in range(2):
        enqueue(conn)
        assert conn.execute("SELECT pgedge.wait_for_events('10 s')").fetchone() == (True,)
        rows = claim(conn)
        assert len(rows) == 1
        complete(conn, rows)


def test_completion_wakes_those_who_wait_for_the_next_of_its_key_or_type(db, conn):
    conn.execute("INSERT INTO pgedge.event_limits (event_type, max_concurrent) VALUES ('limited', 1)")
    with db.connect() as worker:
        for named in ({"ordering_key": "k"}, {"kind": "limited"}):
            first, second = enqueue(conn, **named), enqueue(conn, **named)
            rows = claim(conn)
            assert ids(rows) == [first]
            worker.execute("LISTEN pgedge_events")
            assert claim(worker) == []
            assert complete(conn, rows) == [first]
            assert list(worker.notifies(timeout=10, stop_after=1))
            rows = claim(worker)
            assert ids(rows) == [second]
            complete(worker, rows)


def test_attempts_at_the_end_of_the_range(conn):
    event = enqueue(conn, max_attempts=2**31 - 1)
    conn.execute("UPDATE claude_events SET attempts = 2147483647")
    [(_, attempt, token)] = claim(conn)
    assert attempt == 2**31 - 1
    assert conn.execute("SELECT status FROM pgedge.fail_events(ARRAY[%s]::bigint[], %s)", (event, token)).fetchall() == [("dead",)]


def test_keys_up_to_2000_bytes(conn):
    noise = conn.execute("SELECT string_agg(chr(33 + (random() * 90)::int), '') FROM generate_series(1, 2000)").fetchone()[0].replace("'", "x").replace("\\", "x")
    event = enqueue(conn, dedup_key=noise, ordering_key=noise)
    assert enqueue(conn, dedup_key=noise) == event == ids(claim(conn))[0]
    for call in ("enqueue_event('t', '{}', dedup_key => %s)", "enqueue_event('t', '{}', ordering_key => %s)",
                 "enqueue_events('t', ARRAY['{}']::jsonb[], dedup_keys => ARRAY[%s])", "enqueue_events('t', ARRAY['{}']::jsonb[], ordering_keys => ARRAY[%s])"):
        error = fails(conn, "22001", f"SELECT pgedge.{call}", (noise + "x",))
        assert "2001" in error.diag.message_primary


def test_many_dedup_keys_at_once(conn):
    """Quadratic, it would take minutes."""
    conn.execute("SET statement_timeout = '30s'")
    call = "SELECT count(*), count(DISTINCT e) FROM pgedge.enqueue_events('t', array_fill('{}'::jsonb, ARRAY[20000]), dedup_keys => ARRAY(SELECT (n %% 15000)::text FROM generate_series(%s::int, %s::int) n)) e"
    assert conn.execute(call, (1, 20000)).fetchone() == (20000, 15000)
    assert conn.execute(call, (10001, 30000)).fetchone() == (20000, 15000)
    assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (15000,)


@pytest.mark.parametrize("column", ["run_at", "attempts", "max_attempts", "dedup_key", "ordering_key", "claimed_by", "claimed_at", "last_error", "history", "qx", "lane"])
def test_a_dropped_column_of_the_queue(empty_db, column):
    empty_db.sql("CREATE EXTENSION pgedge CASCADE")
    with empty_db.connect() as conn:
        enqueue(conn)
        conn.execute(f"ALTER TABLE claude_events DROP COLUMN {column} CASCADE")
        for call in ("claim_events()", "enqueue_event('t', '{}')", "complete_events('{1}', 1)", "fail_events('{1}', 1)", "cancel_events('{1}')"):
            if call == "claim_events()" and column in ("dedup_key", "claimed_by", "claimed_at", "last_error", "history"):
                continue  # does not need it
            error = fails(conn, "42703", f"SELECT pgedge.{call}")
            assert column in error.diag.message_primary and "create_tables()" in error.diag.message_hint
        conn.execute("SELECT pgedge.create_tables()")
        rows = claim(conn)
        assert complete(conn, rows) == [1]


@pytest.mark.parametrize("column", ["payload", "event_type", "status", "priority", "created_at"])
def test_a_dropped_column_of_the_specification(empty_db, column):
    empty_db.sql("CREATE EXTENSION pgedge CASCADE")
    with empty_db.connect() as conn:
        conn.execute(f"ALTER TABLE claude_events DROP COLUMN {column} CASCADE")
        fails(conn, "42703", "SELECT pgedge.claim_events()")


def test_rows_put_behind_the_cursors_without_triggers_are_found(db, conn):
    """As pg_restore --data-only --disable-triggers does it."""
    conn.execute("SET pgedge.queue_check_interval = '50ms'")
    enqueue(conn)
    rows = claim(conn)
    complete(conn, rows)
    conn.execute("ALTER TABLE claude_events DISABLE TRIGGER ALL")
    conn.execute("INSERT INTO claude_events (event_type, payload, qx) SELECT 'restored', '{}', '3' FROM generate_series(1, 3000)")
    conn.execute("ALTER TABLE claude_events ENABLE TRIGGER ALL")
    got, until = [], time.monotonic() + 30
    while len(got) < 3000 and time.monotonic() < until:
        if rows := claim(conn, 1000):
            got += complete(conn, rows)
        else:
            time.sleep(0.05)
    assert len(set(got)) == len(got) == 3000
    assert "event queue's order" in db.cluster.log.read_text()


def test_indexes_are_rebuilt_under_a_claim(db, conn):
    enqueue(conn)
    with db.connect(autocommit=False) as open_claim:
        assert len(claim(open_claim, 1)) == 1
        conn.execute("SET lock_timeout = '200ms'")
        enqueue(conn)
        assert len(claim(conn, 1)) == 1
        open_claim.commit()
    conn.execute("REINDEX TABLE CONCURRENTLY claude_events")
    event = enqueue(conn)
    assert ids(claim(conn)) == [event]


@pytest.mark.parametrize("names", [("app", "app2"), ('"My App"', '"x.y (z)"'), ("public", "elsewhere")])
def test_the_schema_of_the_tables_is_renamed(empty_db, names):
    with empty_db.connect() as conn:
        conn.execute(f"CREATE SCHEMA IF NOT EXISTS {names[0]}")
        conn.execute(f"CREATE EXTENSION vector; CREATE EXTENSION pgedge SCHEMA {names[0]}")
        for n in range(3):
            enqueue(conn)
        rows = claim(conn, 1)
        conn.execute(f"ALTER SCHEMA {names[0]} RENAME TO {names[1]}")
    with empty_db.connect() as conn:
        for call in ("enqueue_event('t', '{}')", f"fail_events('{{1}}', {rows[0][2]})", "cancel_events('{2}')"):
            error = fails(conn, "42P01", f"SELECT pgedge.{call}")
            assert "create_tables()" in error.diag.message_hint
        assert [r for (r,) in conn.execute("SELECT pgedge.create_tables()") if "enqueue_event(" in r]
        assert conn.execute("SELECT pgedge.create_tables()").fetchall() == []
        assert complete(conn, rows) == [1]
        enqueue(conn)
        assert ids(claim(conn)) == [2, 3, 4]
        assert conn.execute("SELECT occurrences FROM pgedge.aggregate_logs(ARRAY['User 1 logged in'], 'INFO', 'auth')").fetchone() == (1,)
        assert conn.execute("SELECT processing FROM pgedge.queue_stats").fetchall() == [(3,)]


def test_a_claim_that_fails_under_the_lock_lets_go_of_the_queue_and_of_cancelling(db, conn):
    """A serialization failure comes out of the index scan itself."""
    event = enqueue(conn)
    conn.execute("CREATE TABLE x AS SELECT 1 AS v")
    with db.connect() as t1, db.connect() as t2, db.connect() as t3:
        for session in (t1, t2, t3):
            session.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        t1.execute("SELECT pg_current_snapshot()")
        t2.execute("SELECT * FROM x")
        t3.execute("UPDATE x SET v = 2")
        t3.commit()
        t2.execute("UPDATE claude_events SET payload = '[]'")
        t2.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            claim(t1)
        t1.rollback()
        t1.execute("SET statement_timeout = '100ms'")
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            t1.execute("SELECT pg_sleep(20)")
        assert time.monotonic() - start < 15
        assert ids(claim(conn)) == [event]


def test_events_given_back_make_room_for_leases(db, small):
    """Expired leases and rolled-back claims are remembered in all of the memory; another type is claimed all the same, and they come later."""
    small.execute("SELECT pgedge.enqueue_events('first', array_fill('{}'::jsonb, ARRAY[64]))")
    wanted = enqueue(small, "second")
    with db.connect(autocommit=False) as other:
        assert len(claim(other, 64, types=["first"])) == 64
        other.rollback()
    assert ids(claim(small, 1, types=["second"])) == [wanted]
    small.execute("SELECT pgedge.pause_events('first')")
    third = enqueue(small, "third")
    assert ids(claim(small, 1)) == [third]
    small.execute("SELECT pgedge.resume_events('first')")
    assert len(claim(small, 62)) == 62


@pytest.mark.parametrize("change", ["payload TYPE bigint USING 0", "payload TYPE json", "payload TYPE text", "created_at TYPE text", "attempts TYPE numeric",
                                    "max_attempts TYPE text"])
def test_a_column_of_another_type_is_refused(conn, change):
    enqueue(conn)
    conn.execute(f"ALTER TABLE claude_events ALTER {change.split()[0]} DROP DEFAULT, ALTER {change}")
    column = change.split()[0]
    error = fails(conn, "42804", "SELECT * FROM pgedge.claim_events(1)")
    assert f'column "{column}" of table claude_events has type' in str(error)


@pytest.mark.parametrize("definition", [
    "(run_at) WHERE status = 'dead'", "(ordering_key, id) WHERE ordering_key = 'vip'", "(lane, qx, id) WHERE lane = 1",
    "(ordering_key DESC, id DESC) WHERE ordering_key IS NOT NULL AND status IN ('pending', 'processing')"])
def test_indexes_of_users_are_not_taken_for_those_of_the_queue(db, definition):
    with db.connect() as c:
        c.execute(f"CREATE INDEX ON claude_events {definition}")
    with db.connect() as c:
        late = enqueue(c, delay="10 ms")
        first, second, other = (enqueue(c, ordering_key=k) for k in ("k", "k", "j"))
        plain = enqueue(c)
        time.sleep(0.05)
        rows = claim(c, 10)
        assert sorted(ids(rows)) == sorted([late, first, other, plain])
        assert len(complete(c, rows)) == 4
        assert ids(claim(c, 10)) == [second]


def test_an_event_that_loses_its_key_after_its_lease_expired_is_not_stuck(conn):
    event = enqueue(conn, ordering_key="k")
    assert ids(claim(conn, lease="100 ms")) == [event]
    time.sleep(0.15)
    assert claim(conn, types=["nothing of the kind"]) == []
    conn.execute("UPDATE claude_events SET ordering_key = NULL, run_at = clock_timestamp() + interval '100 ms'")
    time.sleep(0.2)
    assert ids(claim(conn)) == [event]


def test_a_claim_after_truncate_in_the_same_transaction_holds_after_its_commit(db, conn):
    enqueue(conn)
    assert len(claim(conn)) == 1
    with db.connect(autocommit=False) as other:
        before = enqueue(other)
        assert ids(claim(other)) == [before]
        other.execute("TRUNCATE claude_events")
        first, second = enqueue(other), enqueue(other)
        rows = claim(other, 1)
        assert ids(rows) == [first]
        other.commit()
        assert claim(conn) != [] and claim(conn) == []
        assert [r[0] for r in conn.execute("SELECT id FROM pgedge.event_leases ORDER BY 1")] == [first, second]
        assert complete(other, rows) == [first]
        other.commit()
        # What is finished in the transaction that emptied the table stays so, and a rollback undoes all.
        rows = conn.execute("SELECT id, 1, lease_token FROM pgedge.event_leases").fetchall()
        other.execute("SAVEPOINT s")
        other.execute("TRUNCATE claude_events")
        third = enqueue(other)
        assert complete(other, claim(other, 1)) == [third]
        other.execute("ROLLBACK TO s")
        other.commit()
        assert complete(conn, rows) == [second]


def test_memory_of_dropped_tables_is_given_back():
    """With mmap a segment is a file. It goes when the table is gone for good, not before, and not while someone has it mapped."""
    with Cluster({"dynamic_shared_memory_type": "mmap"}) as cluster:
        cluster.psql("CREATE EXTENSION pgedge CASCADE")

        def large():
            return [f for f in (cluster.data / "pg_dynshmem").iterdir() if f.stat().st_size > 4_000_000]

        def named():
            return sorted(f.name for f in (cluster.data / "pg_stat_tmp").iterdir() if f.name.startswith("pgedge."))

        with psycopg.connect(cluster.dsn(), autocommit=True) as conn, psycopg.connect(cluster.dsn()) as other:
            enqueue(conn)
            assert len(claim(conn)) == len(named()) == len(large()) == 1
            # A drop that is not over, or is undone, takes no lease from anyone.
            other.execute("DROP TABLE claude_events")
            other.execute("SELECT pgedge.create_tables()")
            enqueue(other)
            assert len(claim(other)) == 1 and len(named()) == 2
            other.rollback()
            assert claim(conn) == [] and conn.execute("SELECT count(*) FROM pgedge.event_leases").fetchone() == (1,)
            for _ in range(4):
                conn.execute("DROP TABLE claude_events")
                conn.execute("SELECT pgedge.create_tables()")
                enqueue(conn)
                assert len(claim(conn)) == 1
            assert len(named()) == 1
            assert len(large()) <= 3, "what sessions have mapped, and no more"
            assert claim(other) == []
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            assert claim(conn) == [] and len(large()) == 1
            conn.execute("DROP TABLE claude_events")
            # In one transaction, with another table's leases.
            with conn.transaction():
                conn.execute("SELECT pgedge.create_tables()")
                enqueue(conn)
                assert len(claim(conn)) == 1
                conn.execute("DROP TABLE claude_events")
                conn.execute("SELECT pgedge.create_tables()")
                last = enqueue(conn)
                assert ids(claim(conn)) == [last]
            assert claim(conn) == []


def test_wait_for_events_alone_can_be_granted(db, conn):
    conn.execute("DROP ROLE IF EXISTS waits; CREATE ROLE waits LOGIN")
    try:
        with db.connect("waits") as waits:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                waits.execute("SELECT pgedge.wait_for_events('10 ms')")
            conn.execute("GRANT EXECUTE ON FUNCTION pgedge.wait_for_events TO waits")
            assert waits.execute("SELECT pgedge.wait_for_events('10 ms')").fetchone() == (False,)
            enqueue(conn)
            assert waits.execute("SELECT pgedge.wait_for_events('10 s')").fetchone() == (True,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                waits.execute("SELECT * FROM pgedge.claim_events()")
            conn.execute("SELECT pgedge.grant_service('waits', 'event_consumer')")
            assert waits.execute("SELECT pgedge.wait_for_events('10 s')").fetchone() == (True,)
    finally:
        conn.execute("DROP OWNED BY waits; DROP ROLE waits")


def test_waiting_speaks_of_the_timeout(conn):
    for value, state in (("NULL", "22004"), ("'0'", "22023"), ("'-1 s'", "22023"), ("'2 years'", "22023")):
        error = fails(conn, state, f"SELECT pgedge.wait_for_events({value})")
        assert "timeout" in error.diag.message_primary and "lease" not in str(error).lower() + error.diag.message_hint.lower()


def test_an_id_changed_under_a_lease_is_another_event(conn):
    event = enqueue(conn)
    rows = claim(conn)
    conn.execute("UPDATE claude_events SET id = 1000 WHERE id = %s", (event,))
    again = claim(conn)
    assert ids(again) == [1000]
    assert complete(conn, rows) == []
    assert complete(conn, again) == [1000]
    conn.execute("INSERT INTO claude_events (id, event_type, payload) VALUES (%s, 't', '{}')", (event,))
    assert ids(claim(conn)) == [event], "the id is free again"


def test_an_ordering_key_changed_under_a_lease_counts_under_the_new_one(db, conn):
    early = enqueue(conn, "early", ordering_key="b")
    leased = enqueue(conn, "leased", ordering_key="a")
    behind = enqueue(conn, "behind", ordering_key="a")
    rows = claim(conn, types=["leased"])
    assert ids(rows) == [leased]
    with db.connect(autocommit=False) as other:
        other.execute("UPDATE claude_events SET ordering_key = 'b' WHERE id = %s", (leased,))
        other.rollback()
    assert claim(conn, types=["behind"]) == [], "undone, it is still the key's one"
    conn.execute("UPDATE claude_events SET ordering_key = 'b' WHERE id = %s", (leased,))
    assert ids(claim(conn)) == [behind], "one of key b is in someone's hands, none of key a"
    assert complete(conn, rows) == [leased]
    assert ids(claim(conn)) == [early]


def test_a_deleted_event_is_nobodys(db, conn):
    conn.execute("INSERT INTO pgedge.event_limits (event_type, max_concurrent) VALUES ('t', 1)")
    event, second = enqueue(conn, ordering_key="k"), enqueue(conn, ordering_key="k")
    rows = claim(conn)
    with db.connect(autocommit=False) as other:
        other.execute("DELETE FROM claude_events WHERE id = %s", (event,))
        other.rollback()
        assert claim(conn) == []
        with db.connect() as waiting:
            waiting.execute("LISTEN pgedge_events")
            assert claim(waiting) == []
            other.execute("DELETE FROM claude_events WHERE id = %s", (event,))
            assert claim(conn) == []
            other.commit()
            assert list(waiting.notifies(timeout=10, stop_after=1)), "who waits for its key or type is woken"
    assert conn.execute("SELECT count(*) FROM pgedge.event_leases").fetchone() == (0,)
    assert complete(conn, rows) == []
    rows = claim(conn)
    assert ids(rows) == [second]
    conn.execute("DELETE FROM claude_events WHERE id = %s", (second,))
    conn.execute("INSERT INTO claude_events (id, event_type, payload) VALUES (%s, 't', '{}')", (second,))
    again = claim(conn)
    assert ids(again) == [second] and complete(conn, rows) == [] and complete(conn, again) == [second]


@pytest.mark.parametrize("body", ["NEW.dedup_key := 'x' || NEW.dedup_key; RETURN NEW;", "NEW.event_type := 'other'; RETURN NEW;", "RETURN NULL;"])
def test_triggers_that_hide_the_dedup_key_end_in_an_error(conn, body):
    conn.execute(f"CREATE FUNCTION rewrite() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    conn.execute("CREATE TRIGGER rewrite BEFORE INSERT ON claude_events FOR EACH ROW EXECUTE FUNCTION rewrite()")
    conn.execute("SET statement_timeout = '20s'")
    if body != "RETURN NULL;":
        enqueue(conn, dedup_key="k")
    for call in ("SELECT pgedge.enqueue_event('t', '{}', dedup_key => 'k')", "SELECT pgedge.enqueue_events('t', '{1,2}'::jsonb[], dedup_keys => '{k,k2}')"):
        error = fails(conn, "27000", call)
        assert '"k"' in error.diag.message_primary and "trigger" in error.diag.message_hint


PLACES = [-1, 0, 1, 1000]


@pytest.mark.parametrize("far", PLACES)
@pytest.mark.parametrize("how", ["claim", "claim in a transaction that has written", "wait"])
def test_events_restored_with_the_place_of_the_very_next_transaction(how, far):
    """One claim gives them, wherever this server's counter stands."""
    with Cluster({"autovacuum": "off"}) as cluster:
        cluster.psql("CREATE EXTENSION pgedge CASCADE")
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            next_one = lambda: int(conn.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()[0])  # noqa: E731
            place = next_one() + 20
            # As a restore brings them: in one transaction, with triggers and all else later.
            conn.execute("ALTER TABLE claude_events DISABLE TRIGGER ALL")
            conn.execute("INSERT INTO claude_events (event_type, payload, qx, priority) SELECT 't', '{}', %s::text::xid8, 1 + n %% 3 FROM generate_series(1, 30) n", (place,))
            conn.execute("ALTER TABLE claude_events ENABLE TRIGGER ALL")
            while next_one() < place - far:
                conn.execute("SELECT pg_current_xact_id()")
            if far > 500:
                conn.execute("ALTER TABLE claude_events DISABLE TRIGGER ALL; UPDATE claude_events SET qx = (pg_current_xact_id()::text::bigint + 1000)::text::xid8; ALTER TABLE claude_events ENABLE TRIGGER ALL")
            else:
                assert next_one() == place - far
            if how == "wait":
                assert conn.execute("SELECT pgedge.wait_for_events('0.001 s')").fetchone() == (True,)
            with conn.transaction():
                if how == "claim in a transaction that has written":
                    conn.execute("CREATE TEMP TABLE x AS SELECT 1")
                assert len(claim(conn, 100)) == 30
            assert claim(conn) == []
            assert conn.execute("SELECT count(*) FROM claude_events WHERE qx > pg_current_xact_id()").fetchone() == (0,)


FIRST_CALLS = ["claim_events()", "complete_events('{1}', 1)", "fail_events('{1}', 1)", "release_events('{1}', 1)", "extend_lease('{1}', 1, '1 s')", "cancel_events('{1}')", "redrive_events()",
               "purge_events()", "purge_events('1 day')", "enqueue_event('t', '{}')", "enqueue_events('t', '{}')", "wait_for_events('1 ms')", "pause_events('t')", "resume_events('t')",
               "purge_webhook_deliveries()", "_webhook_backoff(1, NULL)", "create_tables()", "_queue_stats()", "_event_leases()", "health()", "rotate_webhook_secret(1)"]


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_every_function_may_be_the_first_of_its_session(db, call):
    """The library declares the settings when it is loaded, by the first of its functions that runs."""
    with db.connect() as conn:
        try:
            conn.execute(f"SELECT * FROM pgedge.{call}")
        except psycopg.Error as error:
            assert (call, error.sqlstate) in {("purge_events()", "22004"), ("purge_webhook_deliveries()", "22004"), ("rotate_webhook_secret(1)", "02000")}, error


def test_no_function_reads_a_setting_that_may_not_be_declared_yet(db):
    """Those that read one are in the list above."""
    readers = {r[0] for r in db.sql("SELECT proname FROM pg_proc WHERE pronamespace = 'pgedge'::regnamespace AND prosrc || coalesce(pg_get_function_sqlbody(oid), '') ~ 'current_setting\\(''pgedge[.]'")}
    assert len(readers) >= 4 and readers <= {call.split("(")[0] for call in FIRST_CALLS}, readers


def settled(conn):
    """The first look behind the cursors is over, and the next one is a minute away."""
    enqueue(conn)
    rows = claim(conn)
    complete(conn, rows)
    while claim(conn):
        pass


HIDES = {
    "delete": "DELETE FROM claude_events WHERE event_type = 'h'",
    "finish": "UPDATE claude_events SET status = 'processed' WHERE event_type = 'h'",
    "delay": "UPDATE claude_events SET run_at = now() + interval '1 hour' WHERE event_type = 'h'",
    "cancel": "SELECT pgedge.cancel_events(ARRAY(SELECT id::bigint FROM claude_events WHERE event_type = 'h'))",
    "truncate": "TRUNCATE claude_events",
}


@pytest.mark.parametrize("how", HIDES)
@pytest.mark.parametrize("where", ["transaction", "savepoint", "released savepoint", "wait", "connection lost", "late"])
def test_what_a_transaction_hid_from_its_own_claim_is_there_after_its_rollback(db, conn, how, where):
    settled(conn)
    if where == "late":
        with db.connect(autocommit=False) as late:
            hidden = [enqueue(late, "h") for _ in range(3)]
            passed = enqueue(conn)
            assert ids(claim(conn)) == [passed]
            late.commit()
    else:
        hidden = [enqueue(conn, "h") for _ in range(3)]
    with db.connect(autocommit=False) as other:
        if where == "savepoint":
            other.execute("SAVEPOINT s")
        if where == "released savepoint":
            other.execute("SAVEPOINT s; SAVEPOINT inner_one")
        other.execute(HIDES[how])
        if where == "wait":
            assert other.execute("SELECT pgedge.wait_for_events('10 ms')").fetchone() == (False,)
        else:
            assert claim(other) == []
        if where == "savepoint":
            other.execute("ROLLBACK TO s")
        elif where == "released savepoint":
            other.execute("RELEASE inner_one; ROLLBACK TO s")
        elif where == "connection lost":
            with conn.cursor() as c:
                c.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,))
            with pytest.raises(psycopg.OperationalError):
                other.execute("SELECT 1")
        if "savepoint" in where:
            assert sorted(ids(claim(other))) == hidden, "by this session itself"
            other.rollback()
        elif where != "connection lost":
            other.rollback()
    until = time.monotonic() + 5
    while where == "connection lost" and conn.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'").fetchone()[0] > 1:
        assert time.monotonic() < until
    assert sorted(ids(claim(conn))) == hidden


def test_a_retry_whose_type_and_priority_change_is_found_under_the_new_ones(conn):
    settled(conn)
    first = enqueue(conn, "a", priority=10)
    rows = claim(conn)
    conn.execute("SELECT pgedge.fail_events(%s::bigint[], %s, 'no', '10 ms')", (ids(rows), rows[0][2]))
    time.sleep(0.05)
    assert claim(conn, types=["z"]) == [], "which remembers it under its old type"
    others = [enqueue(conn, "b", priority=5) for _ in range(3)]
    conn.execute("UPDATE claude_events SET event_type = 'b', priority = 1 WHERE id = %s", (first,))
    assert claim(conn, types=["a"]) == []
    assert ids(claim(conn, 2, types=["b"])) == [first, others[0]]


@pytest.mark.parametrize("length", [130, 2000])
def test_long_ordering_keys_that_begin_alike(conn, length):
    conn.execute("SET statement_timeout = '20s'")
    conn.execute("INSERT INTO claude_events (event_type, payload, ordering_key) SELECT 'o', '{}', repeat('x', %s) || to_char(n, 'FM00000') FROM generate_series(1, 1500) n", (length - 5,))
    got = []
    while rows := claim(conn, 300):
        got += ids(rows)
    assert len(set(got)) == len(got) == 1500


def test_ordering_keys_too_long_to_be_told_apart_end_the_look(conn):
    """Plain clients may write keys of any length that compresses well."""
    conn.execute("SET statement_timeout = '20s'")
    conn.execute("INSERT INTO claude_events (event_type, payload, ordering_key) SELECT 'o', '{}', repeat('x', 5000) || to_char(n, 'FM00000') FROM generate_series(1, 1500) n")
    for _ in range(5):
        claim(conn, 300)
    assert claim(conn, 300) == []


@pytest.mark.parametrize("how", ["trigger", "policy"])
def test_a_completion_that_changes_nothing_leaves_the_event_claimable(db, how):
    with db.connect() as conn:
        conn.execute("SET pgedge.queue_check_interval = '1 d'")
        assert claim(conn) == []
        kept, other = enqueue(conn, "kept"), enqueue(conn)
        if how == "trigger":
            conn.execute("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.event_type = 'kept' THEN RETURN NULL; END IF; RETURN NEW; END $$")
            conn.execute("CREATE TRIGGER keep BEFORE UPDATE ON claude_events FOR EACH ROW EXECUTE FUNCTION keep()")
        else:
            conn.execute("DROP ROLE IF EXISTS mallory; CREATE ROLE mallory; GRANT USAGE, CREATE ON SCHEMA public TO mallory; ALTER TABLE claude_events OWNER TO mallory")
            conn.execute("ALTER TABLE claude_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON claude_events USING (event_type <> 'kept')")
        try:
            rows = claim(conn)
            assert ids(rows) == [kept, other]
            assert complete(conn, rows) == [other]
            assert conn.execute("SELECT count(*) FROM pgedge.event_leases").fetchone() == (0,)
            rows = claim(conn)
            assert ids(rows) == [kept] and rows[0][1] == 1
            with conn.transaction(force_rollback=True):
                assert complete(conn, rows) == []
            assert claim(conn) == [], "undone with its transaction"
            # Its last attempt expires, and that cannot be written either.
            conn.execute("SELECT pgedge.release_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))
            for _ in range(5):
                assert ids(claim(conn, lease="1 ms")) == [kept]
                time.sleep(0.01)
            assert claim(conn) == []
            if how == "trigger":
                conn.execute("DROP TRIGGER keep ON claude_events")
            else:
                conn.execute("ALTER TABLE claude_events NO FORCE ROW LEVEL SECURITY")
            assert claim(conn) == []
            assert conn.execute("SELECT status FROM claude_events WHERE id = %s", (kept,)).fetchone() == ("dead",)
        finally:
            if how == "policy":
                conn.execute("ALTER TABLE claude_events OWNER TO postgres; DROP OWNED BY mallory; DROP ROLE mallory")


def test_whoever_may_delete_events_needs_no_other_right(db, conn):
    conn.execute("DROP ROLE IF EXISTS deleter; CREATE ROLE deleter LOGIN; GRANT SELECT, DELETE ON claude_events TO deleter; GRANT USAGE ON SCHEMA public TO deleter")
    try:
        event = enqueue(conn)
        assert ids(claim(conn)) == [event]
        with db.connect("deleter") as deleter:
            deleter.execute("DELETE FROM claude_events")
        assert conn.execute("SELECT count(*) FROM pgedge.event_leases").fetchone() == (0,)
    finally:
        conn.execute("DROP OWNED BY deleter; DROP ROLE deleter")


def test_pausing_and_resuming_uses_nothing_up(conn):
    for n in range(70):
        conn.execute("SELECT pgedge.pause_events(%s)", (f"t{n}",))
        assert conn.execute("SELECT pgedge.resume_events(%s)", (f"t{n}",)).fetchone() == (True,)
    assert conn.execute("SELECT count(*) FROM pgedge.event_limits").fetchone() == (0,)
    conn.execute("INSERT INTO pgedge.event_limits VALUES ('t', 3, NULL, true)")
    assert conn.execute("SELECT pgedge.resume_events('t')").fetchone() == (True,)
    assert conn.execute("SELECT * FROM pgedge.event_limits").fetchall() == [("t", 3, None, False)]


def test_two_sessions_cannot_add_a_sixty_fifth_limit(db, conn):
    conn.execute("INSERT INTO pgedge.event_limits SELECT 't' || n, 1 FROM generate_series(1, 63) n")
    refused = []

    def second():
        with db.connect() as other:
            try:
                other.execute("INSERT INTO pgedge.event_limits VALUES ('b', 1)")
            except psycopg.Error as error:
                refused.append(error.sqlstate)

    with db.connect(autocommit=False) as first:
        first.execute("INSERT INTO pgedge.event_limits VALUES ('a', 1)")
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive(), "it waits for the other one"
        first.commit()
        thread.join(20)
    assert refused == ["54000"] and conn.execute("SELECT count(*) FROM pgedge.event_limits").fetchone() == (64,)


def test_a_pause_counts_before_other_limits(conn):
    """Beyond 64, which only a restore with triggers disabled can bring about."""
    conn.execute("SET session_replication_role = replica; ALTER TABLE pgedge.event_limits DISABLE TRIGGER changed")
    conn.execute("INSERT INTO pgedge.event_limits SELECT 'a' || n, 1 FROM generate_series(1, 70) n")
    conn.execute("INSERT INTO pgedge.event_limits VALUES ('z', NULL, NULL, true)")
    conn.execute("ALTER TABLE pgedge.event_limits ENABLE ALWAYS TRIGGER changed; RESET session_replication_role")
    enqueue(conn, "z")
    assert claim(conn) == []


@pytest.mark.parametrize("moment", ["-infinity", "infinity"])
def test_an_infinite_created_at_blinds_nobody(conn, moment):
    conn.execute("INSERT INTO claude_events (event_type, payload, created_at) VALUES ('t', '{}', %s), ('t', '{}', localtimestamp - interval '1 h')", (moment,))
    ready, age = conn.execute("SELECT ready, oldest_ready_age BETWEEN '59 min' AND '61 min' FROM pgedge.queue_stats").fetchone()
    assert (ready, age) == (2, True)
    assert conn.execute("SELECT message FROM pgedge.health() h(name, status, message) WHERE message LIKE '%%could not be checked%%'").fetchall() == []


def test_cancelled_waiters_give_their_places_back(db, conn):
    """More cancellations within one transaction than there are places; then a waiter is still woken, and does not only look every 250 ms."""
    assert claim(conn) == []
    with db.connect(autocommit=False) as canceller, db.connect() as waiter:
        for _ in range(70):
            canceller.execute("SAVEPOINT s; SET LOCAL statement_timeout = '5 ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                canceller.execute("SELECT pgedge.wait_for_events('10 s')")
            canceller.execute("ROLLBACK TO s")
        took = []
        for _ in range(9):
            thread = threading.Thread(target=waiter.execute, args=("SELECT pgedge.wait_for_events('10 s')",))
            thread.start()
            time.sleep(0.05)
            began = time.monotonic()
            enqueue(conn)
            thread.join(20)
            took.append(time.monotonic() - began)
            assert len(claim(conn)) == 1
        assert sorted(took)[4] < 0.15


def test_a_claim_of_very_many_types_finds_its_own(conn):
    conn.execute("INSERT INTO claude_events (event_type, payload) SELECT 'other', '{}' FROM generate_series(1, 20000)")
    wanted = [enqueue(conn, "wanted"), enqueue(conn, "also wanted")]
    many = [f"absent {n}" for n in range(20_000)]
    conn.execute("SET statement_timeout = '20s'")
    assert claim(conn, 5, types=many) == []
    assert ids(claim(conn, 5, types=["wanted", *many, "also wanted", "wanted"])) == wanted
