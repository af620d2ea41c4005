"""Log functions over time and place: the extension made anew, standbys, time zones, wrong clocks, bursts, floods of events."""
from __future__ import annotations

import json
import time

import psycopg
import pytest

from conftest import Cluster, create_database
from support import start_standby

HOURS = "now() - make_interval(hours => %s)"


def send(conn, line, lines=1, level="INFO", source="s", hours=0):
    """Sends a line some times, as if it came so many hours ago."""
    conn.execute(f"SELECT count(*) FROM pgedge.aggregate_logs(array_fill(%s::text, ARRAY[%s]), %s, %s, {HOURS})", (line, lines, level, source, hours))


def test_an_extension_made_anew_while_sessions_go_on(db):
    """Prepared statements of open sessions must not outlive the types of the extension that they were made for."""
    with db.connect() as one, db.connect() as two:
        for conn in (one, two):
            for _ in range(3):
                send(conn, "User 5 logged in")
        for by in (one, two):
            by.execute("DROP EXTENSION pgedge")
            by.execute("CREATE EXTENSION pgedge")
            for conn in (one, two):
                for _ in range(2):
                    send(conn, "User 5 logged in")
                send(conn, "disk 7 full", level="ERROR")
        assert one.execute("SELECT sum(count) FROM aggregated_logs").fetchone() == (6 + 2 * 2 * 3,)
        assert two.execute("SELECT count(*) FROM pgedge.match_log('User 6 logged in', 's')").fetchone() == (1,)
        # only the type, as an update script may do it
        one.execute("ALTER EXTENSION pgedge DROP TYPE pgedge._log_delta; DROP TYPE pgedge._log_delta;"
                    " CREATE TYPE pgedge._log_delta AS (id bigint, pattern text, level text, source text, n bigint, first_seen timestamptz,"
                    " last_seen timestamptz, metadata text, samples text); ALTER EXTENSION pgedge ADD TYPE pgedge._log_delta")
        for conn in (one, two):
            send(conn, "User 5 logged in")


def test_match_log_on_a_standby():
    """Reading functions work on a hot standby; writing ones say where to run."""
    with Cluster({"wal_level": "replica", "fsync": "off"}) as primary:
        primary.psql("CREATE EXTENSION pgedge CASCADE; SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['User 5 logged in'], 'INFO', 's')")
        standby = start_standby(primary)
        try:
            with psycopg.connect(standby.dsn(), autocommit=True) as conn:
                assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
                for _ in range(2):
                    assert conn.execute("SELECT message_pattern FROM pgedge.match_log('User 6 logged in')").fetchall() == [("User {ID} logged in",)]
                assert conn.execute("SELECT lines FROM pgedge.log_trends()").fetchall() == [(1,)]
                assert conn.execute("SELECT kind FROM pgedge.log_anomalies()").fetchall() == [("new",)]
                for call in ("aggregate_logs(ARRAY['x'])", "prune_logs('1 day')"):
                    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                        conn.execute(f"SELECT pgedge.{call}")
                # what the primary learns arrives
                primary.psql("SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['disk 7 full'], 'WARN', 's')")
                until = time.monotonic() + 20
                while not conn.execute("SELECT * FROM pgedge.match_log('disk 8 full')").fetchall():
                    assert time.monotonic() < until
                    time.sleep(0.1)
        finally:
            standby.destroy()


def test_match_log_takes_no_transaction_id(db):
    db.sql("SELECT pgedge.aggregate_logs(ARRAY['User 5 logged in'])")
    with db.connect(autocommit=False) as conn:
        for _ in range(2):
            assert len(conn.execute("SELECT * FROM pgedge.match_log('User 6 logged in')").fetchall()) == 1
        conn.execute("SELECT * FROM pgedge.log_trends(), pgedge.log_anomalies()")
        assert conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Kathmandu", "Pacific/Auckland"])
def test_sessions_in_other_time_zones(db, zone):
    """last_seen has no zone; what is fresh or old is told by the hours that are kept in true time."""
    with db.connect() as there, db.connect() as here:
        there.execute(f"SET timezone = '{zone}'")
        here.execute("SET timezone = 'UTC'")
        for writer, reader in ((there, here), (here, there)):
            send(writer, "fresh 5 line")
            send(writer, "older 5 line", hours=3)
            send(writer, "much older 5 line", hours=70)
            for ours in (writer, reader):
                found = ours.execute("SELECT message_pattern FROM pgedge.log_anomalies('1 hour') WHERE kind = 'new'").fetchall()
                assert found == [("fresh {NUM} line",)]
            assert reader.execute("SELECT pgedge.prune_logs('80 hours')").fetchone() == (0,)
            assert reader.execute("SELECT pgedge.prune_logs('40 hours')").fetchone() == (1,)
            assert reader.execute("SELECT pgedge.prune_logs('5 minutes')").fetchone() == (1,)
            assert reader.execute("SELECT message_pattern FROM aggregated_logs").fetchall() == [("fresh {NUM} line",)]
            # a day changed by hand counts, and so does a row of another client
            reader.execute("UPDATE aggregated_logs SET last_seen = last_seen - interval '40 days'")
            reader.execute("INSERT INTO aggregated_logs (message_pattern, last_seen) VALUES ('plain', now() - interval '40 days'), ('plain', now())")
            assert reader.execute("SELECT pgedge.prune_logs('30 days')").fetchone() == (2,)
            reader.execute("DELETE FROM aggregated_logs")
            assert reader.execute("SELECT pgedge.prune_logs('0')").fetchone() == (0,)


def test_silence_is_told_across_time_zones(db):
    with db.connect() as there, db.connect() as here:
        there.execute("SET timezone = 'Pacific/Auckland'")
        here.execute("SET timezone = 'America/Los_Angeles'")
        for hour in range(30, 2, -1):
            send(there, "ticks 5", 20, hours=hour)
            send(there, "talks 5", 20, hours=hour)
        send(there, "talks 5", 20)
        for conn in (here, there):
            assert conn.execute("SELECT message_pattern FROM pgedge.log_anomalies('1 hour') WHERE kind = 'silence'").fetchall() == [("ticks {NUM}",)]


def test_lines_of_the_future(db):
    """A clock that is ahead: its lines are counted in the hour in which they come, and nothing is kept for ever."""
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs((SELECT jsonb_agg(jsonb_build_object('message', 'probe ' || i || ' read', 'source', 's', 'timestamp', now() + make_interval(hours => i)))"
                     " FROM generate_series(0, 5000) i))")
        assert conn.execute("SELECT count(*), sum(lines), max(hour) <= now() FROM pgedge.log_trends('1 day')").fetchone() == (1, 5001, True)
        send(conn, "probe 7 read", level=None, hours=-90_000)
        assert conn.execute("SELECT count(*), sum(lines) FROM pgedge.log_trends('1 day')").fetchone() == (1, 5002)
        assert conn.execute("SELECT count(*) FROM pgedge._log_hours").fetchone() == (0,)
        assert conn.execute("SELECT pgedge.prune_logs('1 day')").fetchone() == (0,)
        # the row grows old although its last_seen is in the future
        conn.execute("UPDATE pgedge._log_rows SET open_hour = open_hour - interval '3 days', first_hour = first_hour - interval '3 days'")
        conn.execute("UPDATE aggregated_logs SET first_seen = last_seen")
        assert conn.execute("SELECT * FROM pgedge.log_anomalies('1 hour')").fetchall() == []
        assert conn.execute("SELECT pgedge.prune_logs('1 day')").fetchone() == (1,)


def test_what_always_came_in_bursts_is_no_spike(db):
    with db.connect() as conn:
        for day in range(6, 0, -1):
            send(conn, "backup 5 done", 190 + day, hours=24 * day)
        for hour in range(100, 1, -1):
            send(conn, "steady 5", 20 + hour % 3, hours=hour)
        send(conn, "backup 5 done", 200)
        send(conn, "steady 5", 22)
        spikes = "SELECT message_pattern, observed, round(score::numeric, 2)::float FROM pgedge.log_anomalies('1 hour') WHERE kind = 'spike'"
        assert conn.execute(spikes).fetchall() == []
        # far beyond the largest burst: 3 standard deviations of it
        send(conn, "backup 5 done", 100)
        assert conn.execute(spikes).fetchall() == [("backup {NUM} done", 300, 7.43)]
        assert conn.execute("SELECT count(*) FROM pgedge.log_anomalies('1 hour', 8) WHERE kind = 'spike'").fetchone() == (0,)


def test_bursts_raise_no_event(db):
    with db.connect() as conn:
        conn.execute("SET pgedge.log_events = on")
        for day in range(6, 0, -1):
            send(conn, "backup 5 done", 200, hours=24 * day)
        send(conn, "backup 5 done", 240)
        assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (0,)
        send(conn, "backup 5 done", 3)
        assert conn.execute("SELECT event_type, payload->>'observed' FROM claude_events").fetchall() == [("log.spike", "243")]


def words(n):
    return ["".join("bdfgklmnprst"[i // 12**k % 12] + "aeiou"[(i // 12**k + k) % 5] for k in range(3)) for i in range(n)]


def test_a_flood_of_new_patterns_is_no_flood_of_events(db):
    """20 an hour for a source and 100 in all, the worst and most frequent first."""
    with db.connect() as conn:
        conn.execute("SET pgedge.log_events = on")
        flood = [f"ERROR: {w}" + " {}" * (i % 7) + ";" * (i // 7) for i, w in enumerate(words(300))]
        lines = flood + ["FATAL: all lost 5"] + ["ERROR: often 5 seen"] * 9
        conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::text[], NULL, 's')", (lines,))
        found = conn.execute("SELECT payload->>'level', payload->>'message_pattern' FROM claude_events ORDER BY id").fetchall()
        assert len(found) == 20 and found[0] == ("FATAL", "FATAL: all lost {NUM}") and found[1] == ("ERROR", "ERROR: often {NUM} seen")
        conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::text[], NULL, 's')", (["FATAL: once more 5", "FATAL: and again"],))
        assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (20,)
        for i in range(100):
            send(conn, "ERROR: no 5 left", level="ERROR", source=f"other {i}")
        assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (100,)
        assert conn.execute("SELECT count(*) FROM pgedge._log_notices").fetchone() == (100,)
        # an hour later
        conn.execute("UPDATE pgedge._log_notices SET noticed_at = noticed_at - interval '61 minutes'")
        send(conn, "ERROR: quite 5 new", level="ERROR")
        assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (101,)
        assert conn.execute("SELECT count(*) FROM pgedge._log_notices").fetchone() == (1,)


def test_a_row_sent_again_after_it_was_deleted_raises_no_second_event(db):
    with db.connect() as conn, db.connect() as other:
        for c in (conn, other):
            c.execute("SET pgedge.log_events = on")
        for c in (conn, other, conn):
            send(c, "ERROR: pump 5 failed", level="ERROR")
            c.execute("DELETE FROM aggregated_logs")
        assert conn.execute("SELECT pgedge.prune_logs('0')").fetchone() == (0,)
        send(conn, "ERROR: pump 5 failed", level="ERROR")
        assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (1,)


def test_events_of_two_sources_do_not_wait_for_each_other(db):
    """Nor does either raise more than its share once what was raised an hour ago is forgotten."""
    with db.connect() as conn:
        conn.execute("SET pgedge.log_events = on")
        send(conn, "ERROR: pump 5 failed", level="ERROR", source="old")
        conn.execute("UPDATE pgedge._log_notices SET noticed_at = noticed_at - interval '61 minutes'")
    with db.connect(autocommit=False) as one, db.connect(autocommit=False) as two:
        for conn, source in ((one, "a"), (two, "b")):
            conn.execute("SET pgedge.log_events = on; SET statement_timeout = '5s'")
            send(conn, "ERROR: pump 5 failed", level="ERROR", source=source)
        two.commit()
        one.commit()
    assert db.sql("SELECT source FROM pgedge._log_notices ORDER BY 1") == [("a",), ("b",)]
    assert db.value("SELECT count(*) FROM claude_events") == 3


def test_imported_lines_raise_no_event(db):
    with db.connect() as conn:
        conn.execute("SET pgedge.log_events = on")
        send(conn, "ERROR: pump 5 failed", level="ERROR", hours=24 * 60)
        send(conn, "ERROR: valve 5 failed", level="ERROR", hours=2)
        assert conn.execute("SELECT count(*) FROM claude_events").fetchone() == (0,)
        send(conn, "ERROR: tank 5 failed", level="ERROR")
        assert conn.execute("SELECT payload->>'message_pattern' FROM claude_events").fetchall() == [("ERROR: tank {NUM} failed",)]


def test_empty_and_null_are_as_not_given(db):
    """Of all keys but message, which may be empty and must be there."""
    entry = {"message": "x 1", "level": "", "source": "", "metadata": "", "timestamp": ""}
    with db.connect() as conn:
        for cast in ("text", "jsonb"):
            for gone in ("", None):
                body = json.dumps([{k: gone if k != "message" else v for k, v in entry.items()}])
                conn.execute(f"SELECT count(*) FROM pgedge.aggregate_logs(%s::{cast})", (body,))
            conn.execute(f"SELECT count(*) FROM pgedge.aggregate_logs(%s::{cast})", ('[{"message": "x 1", "timestamp": ""}]',))
        rows = conn.execute("SELECT message_pattern, count, level, source, metadata, last_seen > now() - interval '1 minute' FROM aggregated_logs").fetchall()
        assert rows == [("x {NUM}", 6, None, None, None, True)]
        conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['', NULL])")
        assert conn.execute("SELECT count FROM aggregated_logs WHERE message_pattern = ''").fetchall() == [(1,)]


def test_an_infinite_time_is_named_with_its_sign(db):
    with db.connect() as conn:
        for sign in ("", "-"):
            with pytest.raises(psycopg.errors.InvalidDatetimeFormat, match=f'"{sign}infinity"'):
                conn.execute("SELECT pgedge.aggregate_logs(ARRAY['x'], NULL, NULL, %s::timestamptz)", (f"{sign}infinity",))
