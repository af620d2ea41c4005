"""The event queue beside what else PostgreSQL does: standbys and their promotion, prepared transactions, logical replication, poolers."""
from __future__ import annotations

import itertools
import time

import psycopg
import pytest

from cluster import Cluster
from support import fails, start_standby
from test_events_queue import claim, enqueue, ids

WRITERS = ["claim_events()", "complete_events('{1}', 1)", "complete_events('{}', 1)", "fail_events('{1}', 1)", "fail_events('{}', 1)", "release_events('{1}', 1)", "extend_lease('{1}', 1, '1 s')",
           "cancel_events('{1}')", "redrive_events()", "purge_events('1 d')", "enqueue_event('t', '{}')", "enqueue_events('t', '{}')", "wait_for_events('1 ms')", "pause_events('t')", "resume_events('t')",
           "dispatch_webhooks()", "reconcile_webhooks()", "purge_webhook_deliveries('1 d')", "rotate_webhook_secret(1)"]
READERS = ["queue_stats", "event_leases", "webhook_deliveries", "event_limits", "health()"]


def test_a_standby_says_what_it_cannot_and_goes_on_after_its_promotion():
    with Cluster() as primary:
        primary.psql("CREATE EXTENSION pgedge CASCADE")
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            events = [enqueue(conn) for _ in range(10)]
            ordered = [enqueue(conn, ordering_key="k") for _ in range(3)]
            conn.execute("INSERT INTO pgedge.event_limits VALUES ('u', 0, NULL)")
            limited = enqueue(conn, "u")
            held = claim(conn, 4)
            standby = start_standby(primary)
            try:
                with psycopg.connect(standby.dsn(), autocommit=True) as there:
                    for call in WRITERS:
                        fails(there, "25006", f"SELECT * FROM pgedge.{call}")
                        with psycopg.connect(standby.dsn(), autocommit=True) as fresh:
                            fails(fresh, "25006", f"SELECT * FROM pgedge.{call}")
                    for view in READERS:
                        there.execute(f"SELECT * FROM pgedge.{view}")
                    done = conn.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (held[0][0], held[0][2])).fetchone()[0]
                    until = time.monotonic() + 30
                    while there.execute("SELECT status FROM claude_events WHERE id = %s", (done,)).fetchone() != ("processed",):
                        assert time.monotonic() < until
                        time.sleep(0.05)
                    primary.kill_postmaster()
                    standby.run(standby.bindir / "pg_ctl", "-D", standby.data, "promote", "-w")
                    # In a session that was there before: no lease, no token of the other server, the limits as they were, keys in their order.
                    rows = claim(there, 100)
                    assert ids(rows) == [e for e in events if e != done] + ordered[:1]
                    assert there.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (held[1][0], held[1][2])).fetchall() == []
                    there.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))
                    there.execute("DELETE FROM pgedge.event_limits")
                    new = enqueue(there)
                    assert sorted(ids(claim(there, 100))) == sorted([ordered[1], limited, new])
            finally:
                standby.destroy()


PREPARED = {  # what a transaction did: whether it can be prepared
    "SELECT pgedge.enqueue_event('t', '{}')": True, "SELECT pgedge.enqueue_events('t', ARRAY['{}']::jsonb[])": True, "INSERT INTO claude_events (event_type, payload) VALUES ('t', '{}')": True,
    "UPDATE claude_events SET run_at = NULL WHERE event_type = 'later'": True, "SELECT pgedge.redrive_events()": True, "SELECT pgedge.purge_events('0')": True, "SELECT pgedge.wait_for_events('1 ms')": True,
    "SELECT pgedge.extend_lease(ARRAY[{id}], {token}, '1 h')": True, "DELETE FROM claude_events WHERE event_type = 'later'": True, "SELECT pgedge.claim_events()": False,
    "SELECT pgedge.complete_events(ARRAY[{id}], {token})": False, "SELECT pgedge.fail_events(ARRAY[{id}], {token})": False, "SELECT pgedge.release_events(ARRAY[{id}], {token})": False,
    "SELECT pgedge.cancel_events(ARRAY[{id}])": False, "DELETE FROM claude_events WHERE id = {id}": False, "TRUNCATE claude_events": False, "SELECT pgedge.pause_events('t')": False,
}


def test_each_kind_of_transaction_prepared():
    with Cluster({"max_prepared_transactions": "4"}) as c:
        c.psql("CREATE EXTENSION pgedge CASCADE")
        with psycopg.connect(c.dsn(), autocommit=True) as conn, psycopg.connect(c.dsn(), autocommit=True) as other:
            for (statement, can), end in itertools.product(PREPARED.items(), ("COMMIT", "ROLLBACK")):
                conn.execute("TRUNCATE claude_events; TRUNCATE pgedge.event_limits")
                event, waits = enqueue(conn), enqueue(conn)
                later = enqueue(conn, "later", delay="1 h")
                token = claim(conn, 1)[0][2]
                conn.execute("BEGIN")
                conn.execute(statement.replace("{id}", str(event)).replace("{token}", str(token)))
                if can:
                    conn.execute("PREPARE TRANSACTION 'p'")
                    # Meanwhile the rest goes on.
                    rows = claim(other, 1)
                    assert ids(rows) == [waits], statement
                    other.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (waits, rows[0][2]))
                    conn.execute(f"{end} PREPARED 'p'")
                    found = len(claim(other))
                    assert found == (end == "COMMIT" and any(s in statement for s in ("enqueue", "INSERT", "SET run_at"))), (statement, end)
                    assert conn.execute("SELECT count(*) FROM claude_events WHERE id = %s", (later,)).fetchone() == (0 if end == "COMMIT" and "DELETE" in statement else 1,)
                else:
                    assert "prepared" in fails(conn, "0A000", "PREPARE TRANSACTION 'p'").diag.message_hint
                    # As if it had not been: the lease is its holder's, and everything else claimable.
                    assert conn.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (event, token)).fetchall() == [(event,)], statement
                    assert ids(claim(other)) == [waits], statement


def test_logical_replication_into_the_queue():
    with Cluster({"wal_level": "logical"}) as far, Cluster() as near:
        for c in (far, near):
            c.psql("CREATE EXTENSION pgedge CASCADE")
        with psycopg.connect(far.dsn(), autocommit=True) as there, psycopg.connect(near.dsn(), autocommit=True) as here, psycopg.connect(near.dsn(), autocommit=True) as listener:
            def soon(condition):
                until = time.monotonic() + 60
                while not condition():
                    assert time.monotonic() < until, near.log.read_text()[-2000:]
                    time.sleep(0.02)

            for _ in range(50):  # the other server's transactions are far ahead
                there.execute("SELECT pg_current_xact_id()")
            insert = "INSERT INTO claude_events (event_type, payload, run_at, ordering_key) SELECT %s, '{}', now() + %s::interval, %s FROM generate_series(1, 5) RETURNING id"
            events = lambda kind, wait=None, key=None: [r[0] for r in there.execute(insert, (kind, wait, key)).fetchall()]  # noqa: E731
            there.execute("CREATE PUBLICATION p FOR TABLE claude_events")
            copied, got = events("copied"), []
            listener.execute("LISTEN pgedge_events")
            here.execute(f"CREATE SUBSCRIPTION s CONNECTION '{far.dsn()}' PUBLICATION p")
            soon(lambda: got.extend(ids(claim(here))) or len(got) == 5)
            assert sorted(got) == copied and claim(here) == []
            assert list(listener.notifies(timeout=5, stop_after=1)), "the apply worker wakes consumers"
            live, ordered = events("live"), events("ordered", key="k")
            got = []
            soon(lambda: got.extend(ids(claim(here))) or len(got) == 6)
            assert sorted(got) == sorted([*live, ordered[0]])
            # What happens to an event there, happens to it here.
            later = events("later", "1 hour")
            soon(lambda: here.execute("SELECT count(*) FROM claude_events WHERE event_type = 'later'").fetchone() == (5,))
            there.execute("UPDATE claude_events SET run_at = NULL WHERE id = ANY (%s)", (later[:3],))
            there.execute("UPDATE claude_events SET status = 'cancelled' WHERE id = %s", (later[3],))
            there.execute("DELETE FROM claude_events WHERE id = %s", (later[4],))
            got = []
            soon(lambda: got.extend(ids(claim(here))) or len(got) == 3)
            assert sorted(got) == later[:3]
            there.execute("DELETE FROM claude_events WHERE id = ANY (%s)", (later[:2],))
            soon(lambda: here.execute("SELECT array_agg(id) FROM pgedge.event_leases WHERE id = ANY (%s)", (later,)).fetchone() == ([later[2]],))
            there.execute("TRUNCATE claude_events")
            soon(lambda: here.execute("SELECT count(*) FROM pgedge.event_leases").fetchone() == (0,))
            assert "ERROR" not in near.log.read_text()
            here.execute("DROP SUBSCRIPTION s")


@pytest.mark.parametrize("many", [1, 7])
def test_each_transaction_of_a_worker_in_another_session(db, many):
    """As behind a pooler in transaction mode: nothing of a claim is bound to the session that made it."""
    pool = [db.connect() for _ in range(5)]
    turn = itertools.cycle(pool)
    try:
        events = [enqueue(next(turn)) for _ in range(3 * many)]
        for _ in range(3):
            rows = claim(next(turn), many)
            assert len(rows) == many
            assert len(next(turn).execute("SELECT pgedge.extend_lease(%s::bigint[], %s, '1 h')", (ids(rows), rows[0][2])).fetchall()) == many
            with next(turn) as conn, conn.transaction(force_rollback=True):
                conn.execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2]))
            pool[:] = [c if not c.closed else db.connect() for c in pool]
            turn = itertools.cycle(pool)
            next(turn)
            assert len(next(turn).execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2])).fetchall()) == many
        assert db.value("SELECT count(*) FROM claude_events WHERE status = 'processed' AND id = ANY (%s)", (events,)) == 3 * many
        # The session that claimed may be gone.
        event = enqueue(next(turn))
        with db.connect() as gone:
            rows = claim(gone)
        assert next(turn).execute("SELECT pgedge.complete_events(%s::bigint[], %s)", (ids(rows), rows[0][2])).fetchall() == [(event,)]
    finally:
        for c in pool:
            c.close()


UNDOING = {  # what a trigger of the table's owner does, under a completion or a plain client's update
    "drops the update": "RETURN NULL;", "puts the status back": "NEW.status = 'pending'; RETURN NEW;", "changes the priority": "NEW.priority = 9; RETURN NEW;",
}


@pytest.mark.parametrize("does", UNDOING)
@pytest.mark.parametrize("how", ["completed", "updated"])
def test_an_event_that_a_users_trigger_left_waiting_is_handed_out_again(db, does, how):
    with db.connect() as conn:
        conn.execute("SET pgedge.queue_check_interval = 10")
        event, other = enqueue(conn), enqueue(conn)
        rows = claim(conn)
        conn.execute(f"CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {UNDOING[does]} END $$")
        conn.execute("CREATE TRIGGER zz_undo BEFORE UPDATE ON claude_events FOR EACH ROW EXECUTE FUNCTION undo()")
        if how == "completed":
            conn.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (event, rows[0][2]))
        else:
            conn.execute("SELECT pgedge.release_events(ARRAY[%s]::bigint[], %s)", (event, rows[0][2]))
            conn.execute("UPDATE claude_events SET payload = '1' WHERE id = %s", (event,))
        conn.execute("DROP TRIGGER zz_undo ON claude_events")
        waits = conn.execute("SELECT status FROM claude_events WHERE id = %s", (event,)).fetchone() == ("pending",)
        assert waits == (how == "updated" or does != "changes the priority")
        until = time.monotonic() + 10
        got = []
        while waits and not got:
            assert time.monotonic() < until
            got = ids(claim(conn))
        assert got == [event] * waits and claim(conn) == []
        assert conn.execute("SELECT id FROM pgedge.event_leases WHERE id = %s", (other,)).fetchone() == (other,)
