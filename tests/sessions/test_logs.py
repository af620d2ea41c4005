"""Log aggregation under concurrency, crashes and hostile surroundings; and on labelled logs when they are there (PGEDGE_LOGHUB)."""
from __future__ import annotations

import csv
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from support import fails

SESSIONS = 8


def hammer(workers, *jobs):
    """Runs jobs(number) in threads at once; returns the exceptions they raised."""
    errors, barrier = [], threading.Barrier(workers)

    def run(number):
        try:
            barrier.wait()
            jobs[number % len(jobs)](number)
        except Exception as e:  # noqa: BLE001 - a test looks at them
            errors.append(e)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert not any(t.is_alive() for t in threads), "a session hangs"
    return errors


def totals(db):
    return db.sql("SELECT message_pattern, level, source, sum(count), count(*) FROM aggregated_logs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")


def one_row_each(db):
    """Every pattern, level and source has one row, and the support tables know it."""
    assert db.sql("SELECT message_pattern, level, source FROM aggregated_logs GROUP BY 1, 2, 3 HAVING count(*) > 1") == []
    assert db.sql("SELECT a.id FROM aggregated_logs a FULL JOIN pgedge._log_rows r ON r.row_id = a.id AND r.pattern = a.message_pattern"
                  " AND r.level IS NOT DISTINCT FROM a.level WHERE a.id IS NULL OR r.row_id IS NULL") == []


def test_calls_within_a_second_make_no_index_entries(db):
    """Lines without a time of their own have that of the call to the second; times of their own stay exact."""
    calls = 200

    def updates(conn, query):
        conn.execute("SELECT pg_stat_force_next_flush()")
        before = conn.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'aggregated_logs'").fetchone()
        began = time.monotonic()
        for n in range(calls):
            conn.execute(query, {"n": n})
        seconds = time.monotonic() - began
        conn.execute("SELECT pg_stat_force_next_flush()")
        after = conn.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'aggregated_logs'").fetchone()
        return after[0] - before[0], after[1] - before[1], seconds

    entries = """SELECT count(*) FROM pgedge.aggregate_logs('[{"message": "link 5 is up", "source": "s"}, {"message": "disk 7 is full", "source": "s"}]'::jsonb)"""
    lines = "SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['link 5 is up', 'disk 7 is full'], NULL, 's')"
    own = """SELECT count(*) FROM pgedge.aggregate_logs(jsonb_build_array(jsonb_build_object('message', 'link 5 is up', 'source', 's',
        'timestamp', '2026-01-01T00:00:00.123456Z'::timestamptz + %(n)s * interval '1 ms')))"""
    with db.connect() as conn:
        conn.execute("SET timezone = 'UTC'")
        conn.execute(own, {"n": 0})
        conn.execute(entries)
        for query in (entries, lines, entries.replace("::jsonb", "::text")):
            updated, hot, seconds = updates(conn, query)
            assert updated == 2 * calls
            # each row once a second, and once more where its page was full
            assert updated - hot <= 2 * (int(seconds) + 2) + 20, (updated, hot, seconds)
            assert conn.execute("SELECT bool_and(last_seen = date_trunc('second', last_seen) AND last_seen BETWEEN now() - interval '1 minute' AND now()) FROM aggregated_logs").fetchone()[0]
        assert conn.execute("SELECT first_seen::text FROM aggregated_logs WHERE message_pattern LIKE 'link%'").fetchone()[0] == "2026-01-01 00:00:00.123456"
        conn.execute("DELETE FROM aggregated_logs")
        updated, hot, _ = updates(conn, own)
        assert (updated, hot) == (calls - 1, 0)
        assert conn.execute("SELECT last_seen::text FROM aggregated_logs").fetchone()[0] == "2026-01-01 00:00:00.322456"


def test_rows_of_another_version_are_merged(db):
    """Shapes and rows as a version would have left them that saw several patterns where this one sees one."""
    names = ("north", "south", "attic", "cellar", "garage", "west", "pond")
    with db.connect() as conn:
        for name in names:
            conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(ARRAY[%s, %s], 'INFO', %s)", (f"pump {name} was stopped",) * 2 + (name,))
        first = conn.execute("SELECT min(id) FROM aggregated_logs").fetchone()[0]
        conn.execute("UPDATE aggregated_logs SET source = 'north'")
        for table in ("_log_shapes", "_log_rows"):
            conn.execute(f"UPDATE pgedge.{table} t SET source_no = (SELECT source_no FROM pgedge._log_sources WHERE source = 'north'), no = source_no * 10 + no")
        conn.execute("DELETE FROM pgedge._log_sources WHERE source <> 'north'; UPDATE pgedge._log_sources SET last_no = 1000")
    with db.connect() as conn:
        assert conn.execute("SELECT count(DISTINCT message_pattern) FROM aggregated_logs").fetchone() == (7,)
        # a shape that is known: nothing is learned
        answer = conn.execute("SELECT id, message_pattern, occurrences, is_new FROM pgedge.aggregate_logs(ARRAY['pump west was stopped'], 'INFO', 'north')").fetchall()
        assert answer == [(first, "pump {*} was stopped", 1, False)]
        assert conn.execute("SELECT id, message_pattern, count FROM aggregated_logs").fetchall() == [(first, "pump {*} was stopped", 15)]
        assert conn.execute("SELECT count(*), sum(lines), array_agg(DISTINCT id) FROM pgedge.log_pattern_lineage").fetchone() == (7, 14, [first])


def test_rows_of_a_version_that_cut_lines_elsewhere(db):
    """Patterns of which no shape of this version has the structure: the row goes to the pattern that its lines have now, if that is one."""
    by = [f"started by {name}." for name in ("agent", "updater", "dism", "backup", "cron", "hand")]
    with db.connect() as conn:
        conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::text[], 'INFO', 's')", (by,))
        conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['sync of disk/a: 7', 'sync of share/b: 7'], 'INFO', 's')")
        rows = dict(conn.execute("SELECT message_pattern, id FROM aggregated_logs").fetchall())
        assert set(rows) == {"started by {*}.", "sync of disk/a: {NUM}", "sync of share/b: {NUM}"}
        for new, old in (("started by {*}.", "started by {*}"), ("sync of disk/a: {NUM}", "sync of {*}: {NUM}")):
            conn.execute("UPDATE aggregated_logs SET message_pattern = %s WHERE id = %s", (old, rows[new]))
            conn.execute("UPDATE pgedge._log_rows SET pattern = %s WHERE row_id = %s", (old, rows[new]))
    with db.connect() as conn:
        conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['started by cron.', 'sync of disk/a: 8'], 'INFO', 's')")
        found = conn.execute("SELECT message_pattern, id, count FROM aggregated_logs ORDER BY id").fetchall()
        # its lines had two patterns now: it is left as it is, and they have rows of their own
        assert found[:3] == [("started by {*}.", rows["started by {*}."], 7), ("sync of {*}: {NUM}", rows["sync of disk/a: {NUM}"], 1),
                             ("sync of share/b: {NUM}", rows["sync of share/b: {NUM}"], 1)]
        assert [(p, n) for p, _, n in found[3:]] == [("sync of disk/a: {NUM}", 1)]
        assert conn.execute("SELECT old_pattern, new_pattern, lines FROM pgedge.log_pattern_lineage WHERE old_pattern = 'started by {*}'").fetchall() == [("started by {*}", "started by {*}.", 6)]


def test_many_small_calls_keep_the_table_small(db):
    """A session finds its rows again without their index; what an index scan does for the table, pruning its pages, must not be lost by it."""
    call = "SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['link 5 is up', 'disk 7 is full'], NULL, 's')"
    with db.connect() as conn:
        for _ in range(3000):
            conn.execute(call)
        counts, size = conn.execute("SELECT array_agg(count), pg_relation_size('aggregated_logs') FROM aggregated_logs").fetchone()
        assert counts == [3000, 3000]
        # one page, and a few where an analyze by autovacuum kept old versions for a moment; without pruning there would be eighty
        assert size <= 16 * 8192, size
        # every second each row gets an entry in each index, whose old ones are cleaned up as well
        sizes = conn.execute("SELECT sum(pg_relation_size(indexrelid)) FROM pg_index WHERE indrelid = 'aggregated_logs'::regclass").fetchone()[0]
        assert sizes <= 8 * 16384, sizes


@pytest.mark.parametrize("move", [
    "VACUUM FULL aggregated_logs",
    "CLUSTER aggregated_logs USING idx_logs_last_seen",
    # to the end of the table, then to its beginning; what is free behind is cut off
    "UPDATE aggregated_logs SET metadata = jsonb_build_object('k', repeat('x', 3000)); UPDATE aggregated_logs SET metadata = NULL; VACUUM aggregated_logs;"
    " UPDATE aggregated_logs SET last_seen = last_seen + interval '1 us'; VACUUM aggregated_logs",
    # other rows come to stand where the known ones stood
    "CREATE TABLE moved AS TABLE aggregated_logs; DELETE FROM aggregated_logs; VACUUM aggregated_logs;"
    " INSERT INTO aggregated_logs SELECT * FROM moved ORDER BY id DESC; DROP TABLE moved",
    "BEGIN; UPDATE aggregated_logs SET last_seen = last_seen + interval '1 us'; ROLLBACK; VACUUM aggregated_logs",
    "DELETE FROM aggregated_logs; VACUUM aggregated_logs",
    "TRUNCATE aggregated_logs",
], ids=["rewritten", "clustered", "moved", "shuffled", "rolled back", "deleted", "truncated"])
def test_rows_that_stand_elsewhere(db, move):
    """Where a session last found a row is looked at, not believed."""
    lines = [f"pump {'abcdefgh'[i] * 5} is at {i} percent" for i in range(8)]
    call = "SELECT sum(occurrences) FROM pgedge.aggregate_logs(%s::text[], NULL, 's')"
    with db.connect() as conn:
        for _ in range(3):
            conn.execute(call, (lines,))
        kept = not move.startswith(("TRUNCATE", "DELETE"))
        for statement in move.split("; "):
            conn.execute(statement)
        for _ in range(2):
            assert conn.execute(call, (lines[:5],)).fetchone()[0] == 5
        assert sum(r[0] for r in conn.execute("SELECT count FROM aggregated_logs").fetchall()) == (24 if kept else 0) + 10
    if kept:
        one_row_each(db)
    assert db.sql("SELECT message_pattern FROM aggregated_logs GROUP BY 1 HAVING count(*) > 1") == []


def test_a_rolled_back_call_leaves_no_place_behind(db):
    call = "SELECT sum(occurrences) FROM pgedge.aggregate_logs(ARRAY['link 5 is up'], NULL, 's', %s)"
    with db.connect() as conn:
        conn.execute(call, ("2026-01-01 00:00:00Z",))
        for n in range(1, 4):
            with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
                # another last_seen: the row begins anew on its page
                conn.execute(call, (f"2026-01-01 00:00:0{n}Z",))
                conn.execute("SELECT 1 / 0")
            with conn.transaction():
                with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
                    conn.execute(call, (f"2026-01-01 00:00:1{n}Z",))
                    conn.execute("SELECT 1 / 0")
                conn.execute(call, (f"2026-01-01 00:00:2{n}Z",))
        assert conn.execute("SELECT count, last_seen::timestamptz FROM aggregated_logs").fetchall()[0][0] == 4
    one_row_each(db)


def test_what_others_do_to_the_table_is_heard(db):
    """A session looks into the catalogs again once something changed there, be it while it waits for its turn."""
    call = "SELECT sum(occurrences) FROM pgedge.aggregate_logs(ARRAY['link 5 is up', 'disk 7 is full'], NULL, 's')"
    changes = [
        "CREATE INDEX by_count ON aggregated_logs (count)",
        "ALTER TABLE aggregated_logs ALTER COLUMN count TYPE bigint",
        "ALTER TABLE aggregated_logs ADD CONSTRAINT once UNIQUE (id, count) DEFERRABLE INITIALLY DEFERRED",
        "ALTER TABLE aggregated_logs DROP CONSTRAINT once, ALTER COLUMN id TYPE bigint",
        "ALTER TABLE aggregated_logs DROP CONSTRAINT aggregated_logs_pkey; CREATE INDEX only_index ON aggregated_logs (id)",
        "ALTER TABLE aggregated_logs RENAME COLUMN count TO n; ALTER TABLE aggregated_logs ADD COLUMN count bigint; UPDATE aggregated_logs SET count = n; ALTER TABLE aggregated_logs DROP COLUMN n",
        "ALTER TABLE aggregated_logs ADD PRIMARY KEY (id); CREATE INDEX by_count ON aggregated_logs (count)",
        "ALTER TABLE aggregated_logs OWNER TO pg_database_owner",
        "CREATE TYPE other AS (a int); DROP TYPE other; VACUUM FULL aggregated_logs",
    ]
    with db.connect() as conn, db.connect() as other:
        assert conn.execute(call).fetchone()[0] == 2
        for n, change in enumerate(changes):
            for statement in change.split("; "):
                other.execute(statement)
            assert conn.execute(call).fetchone()[0] == 2
            assert conn.execute(call).fetchone()[0] == 2
            # by the index where there is one
            other.execute("SET enable_seqscan = off")
            assert other.execute("SELECT count(*) FROM aggregated_logs WHERE count = %s", (2 * n + 3,)).fetchone()[0] == 2, change
        # while it waits
        with other.transaction():
            other.execute(call)
            other.execute("ALTER TABLE aggregated_logs ALTER COLUMN count TYPE integer")
            waiting = threading.Thread(target=conn.execute, args=(call,))
            waiting.start()
            time.sleep(0.5)
        waiting.join(60)
        assert other.execute("SELECT count, pg_typeof(count)::text FROM aggregated_logs").fetchall() == [(2 * len(changes) + 3, "integer")] * 2
    one_row_each(db)


@pytest.mark.parametrize("first", ["SELECT pgedge.aggregate_logs(ARRAY['link 5 is up'], NULL, 's')", "LOCK TABLE aggregated_logs, pgedge._log_sources"],
                         ids=["its turn", "the tables"])
@pytest.mark.parametrize("change, counts, sqlstate", [
    ("DROP TABLE aggregated_logs; SELECT pgedge.create_tables()", [1], None),
    ("DROP TABLE aggregated_logs", None, "42P01"),
    ("ALTER TABLE aggregated_logs RENAME TO former; SELECT pgedge.create_tables()", [1], None),
    ("DROP EXTENSION pgedge CASCADE; DROP TABLE aggregated_logs; CREATE EXTENSION pgedge", [1], None),
    ("DROP EXTENSION pgedge CASCADE", None, "3F000"),
    ("ALTER TABLE aggregated_logs OWNER TO logs_owner", None, None),
    ("ALTER TABLE aggregated_logs ALTER COLUMN count TYPE bigint; UPDATE aggregated_logs SET count = 3000000000", [3000000001], None),
], ids=["made anew", "dropped", "renamed", "extension made anew", "extension dropped", "given away", "widened"])
def test_what_others_do_while_a_call_waits(db, first, change, counts, sqlstate):
    """A call that waited finds the tables as they are then, and writes with the rights of who owns them then."""
    call = "SELECT sum(occurrences) FROM pgedge.aggregate_logs(ARRAY['link 6 is up'], NULL, 's')"
    with db.connect() as conn, db.connect() as other:
        try:
            other.execute("CREATE ROLE logs_owner; GRANT ALL ON SCHEMA public TO logs_owner; CREATE ROLE former_owner; GRANT ALL ON SCHEMA public TO former_owner;"
                          " ALTER TABLE aggregated_logs OWNER TO former_owner")
            conn.execute(call)
            conn.execute(call)
            errors = []
            with other.transaction():
                other.execute(first)
                for statement in change.split("; "):
                    other.execute(statement)
                waiting = threading.Thread(target=lambda: errors.extend(hammer(1, lambda _: conn.execute(call))))
                waiting.start()
                time.sleep(0.4)
                assert waiting.is_alive(), "it waits"
            waiting.join(60)
            assert not waiting.is_alive()
            assert [e.sqlstate for e in errors] == ([sqlstate] if sqlstate else []), errors
            if sqlstate is None:
                expected = counts or [3 + first.startswith("SELECT")]
                assert [r[0] for r in other.execute("SELECT count FROM aggregated_logs").fetchall()] == expected
                one_row_each(db)
        finally:
            other.execute("DROP OWNED BY logs_owner, former_owner CASCADE; DROP ROLE logs_owner, former_owner")


def test_times_of_fewer_digits(db):
    """A column of whole seconds gets whole seconds, however its row is written."""
    with db.connect() as conn:
        conn.execute("SET timezone = 'UTC'; ALTER TABLE aggregated_logs ALTER COLUMN first_seen TYPE timestamp(0), ALTER COLUMN last_seen TYPE timestamp(0)")
        for n in range(3):
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY['link 5 is up'], NULL, 's', %s)", (f"2026-01-01 00:00:0{n}.2Z",))
        assert conn.execute("SELECT count, first_seen::text, last_seen::text FROM aggregated_logs").fetchall() == [(3, "2026-01-01 00:00:00", "2026-01-01 00:00:02")]


def test_a_database_of_another_encoding(cluster):
    """What is no UTF-8 is refused, whichever way it comes."""
    cluster.psql("CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        cluster.psql("CREATE EXTENSION pgedge CASCADE", "latin1")
        with psycopg.connect(cluster.dsn("latin1"), autocommit=True, client_encoding="latin1") as conn:
            for call in ("aggregate_logs(ARRAY[%s])", "aggregate_logs(jsonb_build_array(jsonb_build_object('message', %s::text)))"):
                for line in ("Gr\u00fc\u00dfe 5", "x\u00f0", "\u00e2 \u00bb h\u00f0\u00ff:"):
                    fails(conn, "22021", f"SELECT count(*) FROM pgedge.{call}", (line,))
                assert conn.execute(f"SELECT count(*) FROM pgedge.{call}", ("link 5 is up",)).fetchone() == (1,)
            assert conn.execute("SELECT message_pattern, count FROM aggregated_logs").fetchall() == [("link {NUM} is up", 2)]
    finally:
        cluster.psql("DROP DATABASE latin1 WITH (FORCE)")


def test_rows_that_users_gave_another_source_or_level_are_theirs(db):
    """They are not merged into the patterns that they would have gone to, and no line belongs to them."""
    with db.connect() as conn:
        for place in ("north", "north", "south", "south", "east"):
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'INFO', 's')", (f"pump {place} was stopped",))
        conn.execute("UPDATE aggregated_logs SET source = 'mine' WHERE message_pattern = 'pump north was stopped'")
        conn.execute("UPDATE aggregated_logs SET level = 'WARN' WHERE message_pattern = 'pump south was stopped'")
        for place in ("north", "south"):
            assert conn.execute("SELECT * FROM pgedge.match_log(%s, 's')", (f"pump {place} was stopped",)).fetchall() == []
        assert len(conn.execute("SELECT * FROM pgedge.match_log('pump east was stopped', 's')").fetchall()) == 1
        conn.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', 's')", ([f"pump {w} was stopped" for w in ("attic", "cellar", "garage", "west", "pond", "roof")],))
        assert conn.execute("SELECT message_pattern, level, source, count FROM aggregated_logs ORDER BY 1, 2, 3").fetchall() == [
            ("pump north was stopped", "INFO", "mine", 2), ("pump south was stopped", "WARN", "s", 2), ("pump {*} was stopped", "INFO", "s", 7)]


def test_a_row_that_another_session_began_anew(db):
    """A session that knew the one before goes on with it: its lines of the hour, and when it began, are not forgotten."""
    call = "SELECT sum(occurrences) FROM pgedge.aggregate_logs(ARRAY['link 5 is up'], NULL, 's')"
    with db.connect() as conn, db.connect() as other:
        for lost in ("DELETE FROM aggregated_logs", "UPDATE aggregated_logs SET message_pattern = 'mine'"):
            conn.execute(call)
            other.execute(call)
            conn.execute(lost)
            for _ in range(10):
                conn.execute(call)
            other.execute(call)
            assert conn.execute("SELECT count, lines, first_hour IS NULL FROM aggregated_logs a JOIN pgedge._log_rows r ON r.row_id = a.id JOIN pgedge.log_trends() t USING (id)"
                                " WHERE a.message_pattern = 'link {NUM} is up'").fetchall() == [(11, 11, False)], lost
            conn.execute("DELETE FROM aggregated_logs WHERE message_pattern = 'link {NUM} is up'")
        # changed, and changed back
        conn.execute("DELETE FROM aggregated_logs")
        for session in (conn, other):
            session.execute(call)
        conn.execute("UPDATE aggregated_logs SET message_pattern = 'mine'")
        conn.execute(call)
        conn.execute("UPDATE aggregated_logs SET message_pattern = 'link {NUM} is up' WHERE message_pattern = 'mine'")
        for session in (conn, other):
            session.execute(call)
        assert conn.execute("SELECT count FROM aggregated_logs ORDER BY id").fetchall() == [(2,), (3,)]


def test_foreign_keys_that_say_what_to_do(db):
    """One that does not makes the call fail as a whole; one that does lets rows be merged."""
    lines = [f"pump {w} was stopped" for w in ("attic", "cellar", "garage", "west", "pond", "roof")]
    with db.connect() as conn:
        for place in ("north", "south"):
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'INFO', 's')", (f"pump {place} was stopped",))
        conn.execute("CREATE TABLE notes (log_id integer REFERENCES aggregated_logs); INSERT INTO notes SELECT id FROM aggregated_logs")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            conn.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', 's')", (lines,))
        assert conn.execute("SELECT sum(count) FROM aggregated_logs").fetchone() == (2,)
        conn.execute("ALTER TABLE notes DROP CONSTRAINT notes_log_id_fkey, ADD FOREIGN KEY (log_id) REFERENCES aggregated_logs ON DELETE SET NULL")
        conn.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', 's')", (lines,))
        assert conn.execute("SELECT message_pattern, count FROM aggregated_logs").fetchall() == [("pump {*} was stopped", 8)]
        assert conn.execute("SELECT count(*), count(log_id) FROM notes").fetchone() == (2, 1)
    one_row_each(db)


@pytest.mark.parametrize("line", [
    "\x1b[31mERROR\x1b[0m: disk 5 full", "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mDaily Cleanup\x1b[0m.",
    "2026-11-22 10:00:07 \x1b[33mWARN\x1b[0m disk 5", "\x1b[2m2026-11-22T10:00:07.123Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mtokio::net\x1b[0m\x1b[2m:\x1b[0m \x1b[3maddr\x1b[0m=10.0.0.7",
], ids=range(4))
def test_coloured_lines_are_found_with_and_without_their_colours(shared, line):
    assert shared.value("SELECT %s ~ pgedge.log_pattern_regex(pgedge.log_pattern(%s))", (line, line))
    assert shared.value(r"""SELECT regexp_replace(%s, '\x1b\[[0-9;?]*[A-Za-z]', '', 'g') ~ pgedge.log_pattern_regex(pgedge.log_pattern(%s))""", (line, line))


@pytest.mark.parametrize("at", ["4714-11-24 00:00:00Z BC", "4714-11-26 00:00:00Z BC", "294276-12-31 23:59:59Z"])
def test_times_at_the_ends_of_time(db, at):
    """They would be none in another zone, and an hour further: nothing that reads the table could go on."""
    with db.connect() as conn:
        fails(conn, "22007", "SELECT pgedge.aggregate_logs(ARRAY['link 5 is up'], NULL, 's', %s)", (at,))
        fails(conn, "22007", "SELECT pgedge.aggregate_logs(%s::jsonb)", (json.dumps([{"message": "link 5 is up", "timestamp": at}]),))
        for zone in ("Etc/GMT-14", "Etc/GMT+12"):
            conn.execute(f"SET timezone = '{zone}'")
            for least in ("4714-11-27 00:00:00Z BC", "294276-12-28 23:59:59Z"):
                conn.execute("SELECT pgedge.aggregate_logs(ARRAY['link 5 is up'], NULL, %s, %s)", (zone + least, least))
        for zone in ("Etc/GMT-14", "UTC", "Etc/GMT+12"):
            conn.execute(f"SET timezone = '{zone}'")
            conn.execute("SELECT * FROM pgedge.log_trends(), pgedge.log_anomalies()")
            conn.execute("BEGIN; SELECT pgedge.prune_logs('1 day'); ROLLBACK")


def test_a_unique_index_over_patterns(db):
    """A row takes a pattern that another one has until it is merged into it."""
    rng = random.Random(1)
    lines = [f"{''.join(rng.choices('abcdefghijkl', k=4))} {''.join(rng.choices('abcdefghijkl', k=4))}: {''.join(rng.choices('abc', k=3))}" for _ in range(3000)]
    with db.connect() as conn:
        conn.execute("CREATE UNIQUE INDEX ON aggregated_logs (message_pattern, coalesce(level, ''), coalesce(source, ''))")
        for n in range(0, len(lines), 60):
            conn.execute("SELECT pgedge.aggregate_logs(%s::text[], NULL, 's')", (lines[n:n + 60],))
        assert conn.execute("SELECT sum(count) FROM aggregated_logs").fetchone() == (len(lines),)
    one_row_each(db)


def test_eight_sessions_on_the_same_patterns(db):
    """No deadlock, no lost or doubled line, one row a pattern, though all sessions learn the same things at the same time."""
    calls, size = 30, 40

    def session(number):
        rng = random.Random(number)
        with db.connect() as conn:
            for _ in range(calls):
                entries = []
                for _ in range(size):
                    n = rng.randrange(1000)
                    message = rng.choice([f"User {n} logged in", f"Query took {n}ms", f"cannot open /var/lib/x{n}/y: No such file", f"retry {n} of 5",
                                          f"pump {rng.choice('north south east west attic cellar garage pond'.split())} in hall {n} was stopped"])
                    entries.append({"message": message, "level": rng.choice(["INFO", "ERROR"]), "source": rng.choice(["a", "b", "c"])})
                sent = conn.execute("SELECT sum(occurrences) FROM pgedge.aggregate_logs(%s::jsonb)", (json.dumps(entries),)).fetchone()[0]
                assert sent == size

    assert hammer(SESSIONS, session) == []
    assert db.value("SELECT sum(count) FROM aggregated_logs") == SESSIONS * calls * size
    one_row_each(db)
    patterns = {r[0] for r in totals(db)}
    assert "User {ID} logged in" in patterns and len(patterns) == 5, patterns
    # the sums by hour are the counts
    assert db.sql("SELECT a.id FROM aggregated_logs a LEFT JOIN pgedge.log_trends('2 days') t ON t.id = a.id GROUP BY a.id, a.count"
                  " HAVING sum(t.lines) IS DISTINCT FROM a.count") == []


def test_many_sources_in_one_call_do_not_deadlock(db):
    """Calls over several sources each, in opposite orders."""
    names = [f"source {i}" for i in range(20)]

    def session(number):
        with db.connect() as conn:
            for call in range(20):
                order = random.Random(number * 100 + call).sample(names, len(names))
                body = json.dumps({"logs": [{"message": f"job {i} of {s.replace(' ', '')} done", "source": s} for i, s in enumerate(order)]})
                conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::jsonb)", (body,))

    assert hammer(SESSIONS, session) == []
    assert db.value("SELECT sum(count) FROM aggregated_logs") == SESSIONS * 20 * len(names)
    one_row_each(db)


def test_transactions_with_several_calls_of_one_source_do_not_deadlock(db):
    lines = ["alpha 1 started", "beta 2 stopped", "gamma 3 waits"]

    def session(number):
        with db.connect(autocommit=False) as conn:
            for call in range(15):
                for line in random.Random(number * 100 + call).sample(lines, 3):
                    conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(ARRAY[%s], NULL, 's')", (line,))
                conn.commit()

    assert hammer(SESSIONS, session) == []
    assert [r[3] for r in totals(db)] == [SESSIONS * 15] * 3


def test_two_sessions_learn_at_once(db):
    """Each session learns half of what makes a pattern general; both know it in the end."""
    names = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ra", "se", "ti")]
    with db.connect() as one, db.connect() as two:
        for i, name in enumerate(names):
            (one if i % 2 else two).execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'INFO', 's')", (f"worker {name} has finished the nightly backup",))
        rows = db.sql("SELECT message_pattern, count FROM aggregated_logs")
        assert rows == [("worker {*} has finished the nightly backup", len(names))]
        for conn in (one, two):
            answer = conn.execute("SELECT message_pattern, is_new FROM pgedge.aggregate_logs(ARRAY['worker zo has finished the nightly backup'], 'INFO', 's')").fetchall()
            assert answer == [("worker {*} has finished the nightly backup", False)]
    one_row_each(db)


def test_generalising_merges_rows_and_keeps_the_oldest_id(db):
    with db.connect() as conn:
        conn.execute("SET pgedge.log_trend_hours = 80000")
        first = None
        names = ["karsten", "lorena", "mirko", "nunzia", "olga", "pavel", "quinn", "rosa"]
        for i, name in enumerate(names):
            row = conn.execute("SELECT id FROM pgedge.aggregate_logs(jsonb_build_array(jsonb_build_object('message', %s::text, 'source', 's', 'timestamp', %s::text,"
                               " 'metadata', jsonb_build_object(%s::text, %s::int))))",
                               (f"session of member {name} was closed", f"2026-01-{i + 1:02}T12:00:00Z", name, i)).fetchone()
            first = first or row[0]
        rows = conn.execute("SELECT id, message_pattern, count, first_seen::date::text, last_seen::date::text, jsonb_array_length(sample_messages), metadata FROM aggregated_logs").fetchall()
        assert rows == [(first, "session of member {*} was closed", 8, "2026-01-01", "2026-01-08", 5, {n: i for i, n in enumerate(names)})]
        lineage = conn.execute("SELECT id, former_id, old_pattern, new_pattern, lines FROM pgedge.log_pattern_lineage ORDER BY step_no").fetchall()
        assert lineage and {r[0] for r in lineage} == {first} and {r[3] for r in lineage} == {"session of member {*} was closed"}
        assert all(r[2].startswith("session of member ") and r[4] >= 1 for r in lineage)
        # every hour's lines have come along
        assert conn.execute("SELECT count(*), sum(lines) FROM pgedge.log_trends('100 years')").fetchone() == (8, 8)
        assert conn.execute("SELECT id FROM pgedge.match_log('session of member zoe was closed', 's')").fetchall() == [(first,)]
    one_row_each(db)


def test_the_order_of_lines_and_calls_does_not_matter(db):
    lines = [f"mount of volume {v} at /mnt/{v}{i} took {i}ms" for v in ("usb", "nas", "sdb", "old", "tmp") for i in range(6)]
    found = []
    for seed in range(4):
        rng = random.Random(seed)
        shuffled = rng.sample(lines, len(lines))
        source = f"s{seed}"
        with db.connect() as conn:
            while shuffled:
                n = rng.randrange(1, 9)
                conn.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', %s)", (shuffled[:n], source))
                shuffled = shuffled[n:]
        found.append(db.sql("SELECT message_pattern, count, sample_messages FROM aggregated_logs WHERE source = %s ORDER BY 1", (source,)))
    assert found[0] and all(f == found[0] for f in found)


def test_rolled_back_learning_is_forgotten(db):
    line = "sensor {} of the greenhouse reported a value out of range"
    names = ["north", "south", "east", "west", "upper", "lower"]
    with db.connect(autocommit=False) as conn:
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'WARN', 's')", (line.format("north"),))
        conn.commit()
        before = conn.execute("SELECT id, message_pattern, count FROM aggregated_logs").fetchall()
        conn.execute("SELECT pgedge.aggregate_logs(%s::text[], 'WARN', 's')", ([line.format(n) for n in names],))
        assert conn.execute("SELECT message_pattern, count FROM aggregated_logs").fetchall() == [(line.format("{*}"), 7)]
        conn.rollback()
        assert conn.execute("SELECT id, message_pattern, count FROM aggregated_logs").fetchall() == before
        # a subtransaction inside one that stays, one level further down
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'WARN', 's')", (line.format("north"),))
        conn.execute("SAVEPOINT a")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'WARN', 's')", (line.format("south"),))
        conn.execute("SAVEPOINT b")
        conn.execute("SELECT pgedge.aggregate_logs(%s::text[], 'WARN', 's')", ([line.format(n) for n in names],))
        conn.execute("RELEASE b")
        assert conn.execute("SELECT message_pattern, count FROM aggregated_logs").fetchall() == [(line.format("{*}"), 9)]
        conn.execute("ROLLBACK TO a")
        assert conn.execute("SELECT message_pattern, count FROM aggregated_logs").fetchall() == [(line.format("north"), 2)]
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'WARN', 's')", (line.format("south"),))
        conn.commit()
        assert conn.execute("SELECT message_pattern, count FROM aggregated_logs ORDER BY 1").fetchall() == [(line.format("north"), 2), (line.format("south"), 1)]
        # an error that is caught: nothing of the call stays
        conn.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;"
                     " CREATE TRIGGER refuse BEFORE UPDATE ON aggregated_logs FOR EACH ROW EXECUTE FUNCTION refuse()")
        conn.execute("DO $$BEGIN PERFORM pgedge.aggregate_logs(ARRAY['sensor zenith of the greenhouse reported a value out of range',"
                     " 'sensor north of the greenhouse reported a value out of range'], 'WARN', 's'); EXCEPTION WHEN raise_exception THEN NULL; END$$")
        conn.execute("DROP TRIGGER refuse ON aggregated_logs")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'WARN', 's')", (line.format("north"),))
        conn.commit()
        assert conn.execute("SELECT message_pattern, count FROM aggregated_logs ORDER BY 1").fetchall() == [(line.format("north"), 3), (line.format("south"), 1)]
    one_row_each(db)


def test_late_lines_and_hours(db):
    with db.connect() as conn:
        conn.execute("SET timezone = 'America/New_York'; SET pgedge.log_trend_hours = 80000")
        for hours in (2, 5, 0, 3, 5, 2, 1):
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY['tick 7', 'tick 8'], NULL, NULL, timestamptz '2026-03-08 06:30:00+00' + make_interval(hours => %s))", (hours,))
        # the columns have no time zone: they say what now() would have said in the session; New York skips an hour on that day
        assert conn.execute("SELECT count, first_seen::text, last_seen::text FROM aggregated_logs").fetchall() == [(14, "2026-03-08 01:30:00", "2026-03-08 07:30:00")]
        hours = conn.execute("SELECT extract(hour FROM hour AT TIME ZONE 'UTC')::int, lines FROM pgedge.log_trends('100 years')").fetchall()
        assert hours == [(6, 2), (7, 2), (8, 4), (9, 2), (11, 4)]


def test_rows_that_users_change(db):
    """Rows that were deleted, changed, truncated or written by clients that know nothing of the functions."""
    with db.connect() as conn:
        def send(line="User 5 logged in"):
            return conn.execute("SELECT id, is_new FROM pgedge.aggregate_logs(ARRAY[%s], 'INFO', 'auth')", (line,)).fetchone()

        plain = conn.execute("INSERT INTO aggregated_logs (message_pattern, count, level, source, sample_messages)"
                             " VALUES ('User {ID} logged in', 40, 'INFO', 'auth', '[\"a\", 5]'), ('User {ID} logged in', 2, 'INFO', 'auth', NULL) RETURNING id").fetchone()[0]
        assert send() == (plain, False)
        assert conn.execute("SELECT count, sample_messages FROM aggregated_logs WHERE id = %s", (plain,)).fetchone()[0] == 41
        conn.execute("DELETE FROM aggregated_logs")
        second, new = send()
        assert new and second != plain
        conn.execute("UPDATE aggregated_logs SET message_pattern = 'mine now'")
        third, new = send()
        assert new and third not in (plain, second)
        conn.execute("TRUNCATE aggregated_logs RESTART IDENTITY")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['disk full'], 'INFO', 'auth')")
        send(), send()
        assert sorted(conn.execute("SELECT message_pattern, count FROM aggregated_logs").fetchall()) == [("User {ID} logged in", 2), ("disk full", 1)]
        conn.execute("UPDATE aggregated_logs SET count = NULL, metadata = '[1]', sample_messages = '{}', first_seen = NULL, last_seen = NULL")
        send()
        row = conn.execute("SELECT count, metadata, sample_messages, first_seen IS NOT NULL, last_seen IS NOT NULL FROM aggregated_logs WHERE message_pattern LIKE 'User%'").fetchone()
        assert row == (1, [1], {}, True, True)
        one_row_each(db)


def test_a_count_never_overflows_silently(db):
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 5 logged in'])")
        conn.execute("UPDATE aggregated_logs SET count = 2147483646")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 5 logged in'])")
        error = fails(conn, "22003", "SELECT pgedge.aggregate_logs(ARRAY['User 6 logged in', 'something else'])")
        assert "2147483647" in str(error) and "TYPE bigint" in error.diag.message_hint
        assert conn.execute("SELECT count(*) FROM aggregated_logs").fetchone() == (1,)
        conn.execute("ALTER TABLE aggregated_logs ALTER COLUMN count TYPE bigint, ALTER COLUMN level TYPE text, ALTER COLUMN source TYPE text")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 6 logged in'])")
        assert conn.execute("SELECT max(count) FROM aggregated_logs").fetchone() == (2147483648,)
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['x'], repeat('l', 50), repeat('s', 500))")
        fails(conn, "22001", "SELECT pgedge.aggregate_logs(ARRAY['x'], 'l', repeat('s', 501))")


# Each makes the table one whose rows are written by a statement; on a plain one they are written without.
NOT_PLAIN = [
    "ALTER TABLE aggregated_logs ADD CHECK (count > 0)",
    "ALTER TABLE aggregated_logs ADD double bigint GENERATED ALWAYS AS (count * 2) STORED",
    "ALTER TABLE aggregated_logs ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE aggregated_logs ALTER first_seen TYPE timestamptz",
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE UPDATE ON aggregated_logs FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE TABLE heir () INHERITS (aggregated_logs)",
    "ALTER TABLE aggregated_logs DROP CONSTRAINT aggregated_logs_pkey",
]

ROWS = ("SELECT id, message_pattern, count, level, source, first_seen::timestamp, last_seen::timestamp, metadata::text, sample_messages::text"
        " FROM aggregated_logs ORDER BY 2, 4, 5")


def life_of_a_table(conn, other, seed):
    """Calls of few lines with everything that changes a row between them; answers what is stored after each."""
    rng = random.Random(seed)
    seen = []
    keys = ["host", "pid", "long", "list"]
    for n in range(60):
        entries = []
        for _ in range(rng.randrange(1, 12)):
            entry = {"message": rng.choice(["User {} logged in", "disk {} full", "Query took {}s", "password={} given"]).format(rng.randrange(40)),
                     "level": rng.choice(["INFO", "ERROR", None]), "source": rng.choice(["a", "b", None]),
                     "timestamp": f"2026-03-{rng.randrange(1, 20):02} 10:00:00.{rng.randrange(1000):03}+00"}
            if rng.random() < 0.5:
                entry["metadata"] = {k: rng.choice([1, 2, None, "x" * rng.choice([1, 3000]), [1]]) for k in rng.sample(keys, rng.randrange(4))}
            entries.append(entry)
        # who wrote last changes, so that what a session remembers of a row is no longer so
        by = rng.choice([conn, conn, conn, other])
        assert by.execute("SELECT sum(occurrences) FROM pgedge.aggregate_logs(%s::jsonb)", (json.dumps(entries),)).fetchone()[0] == len(entries)
        if n % 7 == 3:
            other.execute(rng.choice([
                "UPDATE aggregated_logs SET count = NULL, first_seen = NULL, last_seen = NULL WHERE id % 3 = 0",
                "UPDATE aggregated_logs SET metadata = '[1]', sample_messages = '{}' WHERE id % 3 = 1",
                "UPDATE aggregated_logs SET metadata = NULL, sample_messages = NULL",
                "UPDATE aggregated_logs SET message_pattern = 'mine' WHERE id % 4 = 1",
                "DELETE FROM aggregated_logs WHERE id % 4 = 2",
                "VACUUM FULL aggregated_logs", "VACUUM aggregated_logs", "TRUNCATE aggregated_logs",
            ]))
        seen.append(conn.execute(ROWS).fetchall())
    return seen


@pytest.mark.parametrize("change", NOT_PLAIN)
def test_rows_are_the_same_with_and_without_a_statement(db, change):
    seed = NOT_PLAIN.index(change)
    with db.connect() as conn, db.connect() as other:
        plain = life_of_a_table(conn, other, seed)

        assert max(map(len, plain)) > 5
        conn.execute("DROP EXTENSION pgedge CASCADE")
        conn.execute("DROP TABLE aggregated_logs")
        conn.execute("CREATE EXTENSION pgedge")
        conn.execute(change)
        by_statement = life_of_a_table(conn, other, seed)
        assert [sorted(map(repr, (r[1:] for r in rows))) for rows in by_statement] == [sorted(map(repr, (r[1:] for r in rows))) for rows in plain]


def test_a_row_that_another_client_holds_is_waited_for(db):
    """Lines are added to what the other client made of the row; what it made someone else's row stays as it made it."""
    with db.connect() as conn, db.connect(autocommit=False) as holder:
        send = "SELECT message_pattern, occurrences, is_new FROM pgedge.aggregate_logs(ARRAY['User 5 logged in'], 'INFO', 'auth')"
        for _ in range(3):
            conn.execute(send)
        for change, expected in (("count = count + 100", [("User {ID} logged in", 104)]),
                                 ("message_pattern = 'mine'", [("User {ID} logged in", 1), ("mine", 104)])):
            holder.execute(f"UPDATE aggregated_logs SET {change}")
            errors = []
            thread = threading.Thread(target=lambda: errors.extend(hammer(1, lambda _: conn.execute(send))))
            thread.start()
            time.sleep(0.3)
            assert thread.is_alive(), "it waits"
            holder.commit()
            thread.join(30)
            assert not thread.is_alive() and errors == []
            assert conn.execute("SELECT message_pattern, count FROM aggregated_logs ORDER BY 1").fetchall() == sorted(expected)
        holder.execute("UPDATE aggregated_logs SET count = 0")
        holder.rollback()
        conn.execute(send)
        assert conn.execute("SELECT sum(count) FROM aggregated_logs").fetchone() == (106,)


BAD = [
    ("22P02", "aggregate_logs('User 5 logged in')", "User 5 logged in"),
    ("22P02", "aggregate_logs('[{\"message\": \"a\"}')", "message"),
    ("22P05", "aggregate_logs('[{\"message\": \"\\u0000\"}]')", "u0000"),
    ("22023", "aggregate_logs('5'::jsonb)", "5"),
    ("22023", "aggregate_logs('\"a line\"'::jsonb)", "a line"),
    ("22023", "aggregate_logs('null'::jsonb)", "null"),
    ("22023", "aggregate_logs('{}'::jsonb)", "logs"),
    ("22023", "aggregate_logs('{\"log\": []}'::jsonb)", "log"),
    ("22023", "aggregate_logs('{\"logs\": {}}'::jsonb)", "{}"),
    ("22023", "aggregate_logs('[{\"message\": \"fine\"}, 7]'::jsonb)", "entries[1]"),
    ("22023", "aggregate_logs('[{\"message\": \"fine\"}, [\"x\"]]'::jsonb)", "entries[1]"),
    ("22023", "aggregate_logs('[{\"level\": \"INFO\"}]'::jsonb)", "entries[0]"),
    ("22023", "aggregate_logs('[{\"message\": null}]'::jsonb)", "null"),
    ("22023", "aggregate_logs('[{\"message\": 12.5}]'::jsonb)", "12.5"),
    ("22023", "aggregate_logs('[{\"message\": \"a\", \"level\": 3}]'::jsonb)", "level"),
    ("22023", "aggregate_logs('[{\"message\": \"a\", \"source\": [\"x\"]}]'::jsonb)", "[\"x\"]"),
    ("22023", "aggregate_logs('[{\"message\": \"a\", \"metadata\": \"m\"}]'::jsonb)", "metadata"),
    ("22023", "aggregate_logs('[{\"message\": \"a\", \"timestamp\": true}]'::jsonb)", "true"),
    ("22007", "aggregate_logs('[{\"message\": \"a\", \"timestamp\": \"soon\"}]'::jsonb)", "soon"),
    ("22007", "aggregate_logs('[{\"message\": \"a\", \"timestamp\": \"2026-02-30T00:00:00Z\"}]'::jsonb)", "2026-02-30"),
    ("22007", "aggregate_logs('[{\"message\": \"a\", \"timestamp\": \"infinity\"}]'::jsonb)", "infinity"),
    ("22007", "aggregate_logs('[{\"message\": \"a\", \"timestamp\": 1e40}]'::jsonb)", "100000"),
    ("22007", "aggregate_logs('[{\"message\": \"a\", \"timestamp\": \"2026-01-01T00:00:00 Nowhere/Land\"}]'::jsonb)", "Nowhere"),
    ("22001", "aggregate_logs('[{\"message\": \"a\", \"level\": \"CATASTROPHE\"}]'::jsonb)", "CATASTROPHE"),
    ("22001", "aggregate_logs(jsonb_build_array(jsonb_build_object('message', 'a', 'source', repeat('s', 101))))", "100"),
    ("22001", "aggregate_logs(ARRAY['a'], 'CATASTROPHE')", "CATASTROPHE"),
    ("22001", "aggregate_logs(ARRAY['a'], 'INFO', repeat('ü', 101))", "ü"),
    ("22007", "aggregate_logs(ARRAY['a'], 'INFO', 's', 'infinity')", "infinity"),
    ("22007", "aggregate_logs(ARRAY['a'], 'INFO', 's', '-infinity')", "infinity"),
    ("22023", "prune_logs('-1 day')", "-1 day"),
    ("22023", "prune_logs('-100000000 years')", "-100000000 years"),
    ("22023", "log_trends('-1 hour')", "-01:00"),
    ("22023", "log_trends('0')", "00:00"),
    ("22023", "log_trends('-100000000 years')", "-100000000 years"),
    ("22023", "log_anomalies('-1 day')", "-1 day"),
    ("22023", "log_anomalies('0')", "0"),
    ("22023", "log_anomalies('1 hour', 'NaN')", "NaN"),
]


@pytest.mark.parametrize(("sqlstate", "call", "named"), BAD, ids=[b[1][:60] for b in BAD])
def test_bad_input_changes_nothing(shared, sqlstate, call, named):
    with shared.connect() as conn:
        before = conn.execute("SELECT (SELECT count(*) FROM aggregated_logs), (SELECT sum(last_no) FROM pgedge._log_sources)").fetchone()
        error = fails(conn, sqlstate, f"SELECT * FROM pgedge.{call}")
        assert named in error.diag.message_primary
        assert conn.execute("SELECT (SELECT count(*) FROM aggregated_logs), (SELECT sum(last_no) FROM pgedge._log_sources)").fetchone() == before


@pytest.mark.parametrize(("sqlstate", "entries", "hint"), [
    ("22P02", '{"logs":[{"password":"hunter2"}', "Give JSON"),
    ("22P05", '[{"message":"a\\u0000","password":"hunter2"}]', "cannot hold the character \\u0000"),
    ("22023", '[{"password":"hunter2"}]', "Give an array"),
])
def test_errors_tell_no_secret(shared, sqlstate, entries, hint):
    with shared.connect() as conn:
        error = fails(conn, sqlstate, "SELECT * FROM pgedge.aggregate_logs(%s::text)", (entries,))
        assert "hunter2" not in str(error) and '***' in error.diag.message_primary and hint in error.diag.message_hint


def test_nothing_comes_of_nothing(shared):
    with shared.connect() as conn:
        for call in ("aggregate_logs('[]'::jsonb)", "aggregate_logs('{\"logs\": []}'::jsonb)", "aggregate_logs(NULL::jsonb)", "aggregate_logs('{}'::text[])",
                     "aggregate_logs(NULL::text[])", "aggregate_logs(ARRAY[NULL, NULL]::text[])", "match_log(NULL)", "match_log('never heard of')", "log_trends(NULL)", "log_anomalies(NULL)"):
            assert conn.execute(f"SELECT * FROM pgedge.{call}").fetchall() == []
        for call in ("log_pattern(NULL)", "log_parameters(NULL, 'x')", "log_parameters('x', NULL)", "log_pattern_regex(NULL)", "prune_logs(NULL)",
                     "log_parameters('User 5 logged in', 'another {NUM}')"):
            assert conn.execute(f"SELECT pgedge.{call}").fetchone() == (None,)
        assert conn.execute("SELECT pgedge.log_patterns(x) FROM unnest(ARRAY[NULL]::text[]) x").fetchone() == ([],)
        assert conn.execute("SELECT pgedge.log_patterns(x) FROM unnest('{}'::text[]) x").fetchone() == ([],)


def test_a_body_as_text_is_read_as_jsonb_is(db):
    """Text has a reader of its own for the usual form; what comes of a body must not depend on it."""
    bodies = [
        '[{"message": "User 5 logged in", "level": "INFO", "source": "a", "timestamp": "2026-01-02T03:04:05.678+02:00", "metadata": {"a": 1, "a": 2, "b": [1, "x"]}}]',
        ' {"logs": [{"message": "tab\\tquote\\"\\u00e9 \\ud83d\\ude00"}, {"message": "", "level": "", "source": "", "metadata": {}, "timestamp": null}]} ',
        '[{"message": "a", "message": "b"}, {"level": null, "message": "c", "source": null, "metadata": null}]',
        '[{"message": "x 1", "extra": [1, 2], "metadata": {"extra": 3}}, {"message": "x 2", "timestamp": 1795341600}]',
        '[{"message": "x", "metadata": {"n": 1.50e3, "m": 12345678901234567890.1, "u": "\\u00fc", "deep": {"k": [null, true]}}}]',
        '{"logs": [], "other": 1}', '{"logs": []}', '[]', '', '  ', '{', '[{"message": "a"},]', '[{"message": "a"}] x', '{"logs": [{"message": "a"}], "logs": []}',
        '[{"message": "a\\u0000"}]', '[{"message": "a", "metadata": {"k": "\\u0000"}}]', '[{"message": "a", "metadata": "{}"}]', '[{"message": "\\ud800"}]', '[{"message": ["a"]}]',
        '[{"message": "a", "timestamp": "soon"}]', '[{"message": "a", "level": "CATASTROPHE"}]', '[{"message": "a", "source": 5}]', '[[]]', 'null', '"x"',
    ]
    with db.connect(autocommit=False) as conn:
        conn.execute("SET timezone = 'Europe/Berlin'")
        conn.commit()

        def outcome(cast, body):
            try:
                answer = conn.execute(f"SELECT message_pattern, level, source, occurrences, is_new FROM pgedge.aggregate_logs(%s::{cast})", (body,)).fetchall()
                # now() is another one in each transaction
                rows = conn.execute("SELECT message_pattern, count, level, source, nullif(first_seen, date_trunc('second', now()::timestamp)), nullif(last_seen, date_trunc('second', now()::timestamp)), metadata::text, sample_messages"
                                    " FROM aggregated_logs ORDER BY 1, 3, 4").fetchall()
                return answer, rows
            except psycopg.Error as e:
                return e.sqlstate
            finally:
                conn.rollback()

        for body in bodies:
            assert outcome("text", body) == outcome("jsonb", body), body
        assert outcome("text", bodies[0])[1][0][6] == '{"a": 2, "b": [1, "x"]}'


@pytest.fixture(scope="module")
def shared(cluster):
    """A database that tests share which change nothing."""
    from conftest import create_database

    database = create_database(cluster)
    database.sql("SELECT pgedge.aggregate_logs(ARRAY['User 5 logged in'], 'INFO', 'auth')")
    yield database
    cluster.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')


def test_absurdly_long_intervals(db):
    """Longer than all of history: nothing is older, and everything is within it."""
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 5 logged in'], 'INFO', 's')")
        for long in ("6000 years", "10000 years", "178000000 years", "2000000000 days"):
            assert conn.execute("SELECT pgedge.prune_logs(%s)", (long,)).fetchone() == (0,)
            assert conn.execute("SELECT lines FROM pgedge.log_trends(%s)", (long,)).fetchall() == [(1,)]
            assert conn.execute("SELECT kind FROM pgedge.log_anomalies(%s, NULL, NULL)", (long,)).fetchall() == [("new",)]


def test_a_table_that_was_changed(db):
    """A column that is gone is named, with the way to get it back; a level that a line names may be too long for a narrower column."""
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 5 logged in'], 'INFO', 's')")
        for column in ("metadata", "count"):
            conn.execute(f"ALTER TABLE aggregated_logs DROP COLUMN {column} CASCADE")
            for call in ("aggregate_logs(ARRAY['User 6 logged in'], 'INFO', 's')", "match_log('User 6 logged in')", "prune_logs('1 day')"):
                error = fails(conn, "42703", f"SELECT * FROM pgedge.{call}")
                assert f'"{column}"' in str(error) and "create_tables" in error.diag.message_hint
            if column == "count":
                for call in ("log_trends()", "log_anomalies()"):
                    error = fails(conn, "42703", f"SELECT * FROM pgedge.{call}")
                    assert f'"{column}"' in str(error) and "create_tables" in error.diag.message_hint
            conn.execute("SELECT pgedge.create_tables()")
        assert conn.execute("SELECT occurrences FROM pgedge.aggregate_logs(ARRAY['User 6 logged in'], 'INFO', 's')").fetchone() == (1,)
        conn.execute("ALTER TABLE aggregated_logs ALTER COLUMN level TYPE varchar(4)")
        error = fails(conn, "22001", "SELECT pgedge.aggregate_logs(ARRAY['User 7 logged in', '2026-01-01 10:00:00 ERROR no pump'], NULL, 's')")
        assert '"ERROR"' in str(error) and "ALTER COLUMN level TYPE" in error.diag.message_hint
        assert conn.execute("SELECT occurrences FROM pgedge.aggregate_logs(ARRAY['2026-01-01 10:00:00 WARN no pump'], NULL, 's')").fetchone() == (1,)
        conn.execute("ALTER TABLE aggregated_logs ALTER COLUMN level TYPE varchar(20)")
        assert conn.execute("SELECT level FROM pgedge.aggregate_logs(ARRAY['x'], repeat('l', 20), 's')").fetchone() == ("l" * 20,)
        assert "longer than 20" in str(fails(conn, "22001", "SELECT pgedge.aggregate_logs(ARRAY['x'], repeat('l', 21), 's')"))


def test_the_expression_of_a_huge_pattern(shared):
    """Hundreds of placeholders: PostgreSQL takes the expression, and soon."""
    with shared.connect() as conn:
        conn.execute("SET statement_timeout = '20s'")
        for part, value in (("{*}", "foo"), ("k={NUM} x", "k=77 x"), ("at {TIME}", "at 10:00:00"), ("{PATH},", "/a/b,")):
            found = conn.execute("SELECT repeat(%s, 400) ~ pgedge.log_pattern_regex(rtrim(repeat(%s, 400))), 'other' ~ pgedge.log_pattern_regex(rtrim(repeat(%s, 400)))",
                                 (value + " ", part + " ", part + " ")).fetchone()
            assert found == (True, False), part


def test_odd_lines(db):
    """Very long, empty, any UTF-8, colour codes, traces, JSON in JSON: bounded and never an error."""
    trace = "java.lang.IllegalStateException: no pool\n\tat org.x.A.b(A.java:12)\n\tat org.x.C.d(C.java:34)\nCaused by: java.io.IOException: x"
    lines = ["", " ", "\t\n", "x" * 1_000_000, "ab " * 350_000, "9" * 1_000_000, "Ünïcödé 温度 🔥 23°C", "\x1b[31mERROR\x1b[0m disk 5 lost", trace,
             "C:\\Users\\ann\\file.txt not found", '{"msg": "{\\"msg\\": \\"deep\\"}"}', "{" * 5000, "[" * 5000, "a=b " * 20000, "\u200b\ufeff", "%s %d {ID} {*}", "'; DROP TABLE x; --"]
    with db.connect() as conn:
        for i, line in enumerate(lines):
            start = time.monotonic()
            assert conn.execute("SELECT sum(occurrences) FROM pgedge.aggregate_logs(%s::jsonb)", (json.dumps([{"message": line, "source": f"s{i}"}]),)).fetchone() == (1,)
            assert time.monotonic() - start < 5
        assert conn.execute("SELECT sum(count) FROM aggregated_logs").fetchone() == (len(lines),)
        longest = conn.execute("SELECT max(octet_length(message_pattern)), max(octet_length(sample_messages->>0)) FROM aggregated_logs").fetchone()
        assert longest[0] < 10_000 and longest[1] <= 2000, longest
        assert conn.execute("SELECT level, message_pattern FROM aggregated_logs WHERE source = 's7'").fetchall()[0][0] == "ERROR"
        assert conn.execute("SELECT message_pattern LIKE '%%{STACK}' FROM aggregated_logs WHERE source = 's8'").fetchone() == (True,)
        # all of them as one batch, again, and as an aggregate over a table
        conn.execute("SELECT pgedge.aggregate_logs(%s::text[], NULL, 'all')", (lines,))
        counted = conn.execute("SELECT sum((p->>'count')::int) FROM (SELECT pgedge.log_patterns(l) x FROM unnest(%s::text[]) l) a, jsonb_array_elements(x) p", (lines,)).fetchone()
        assert counted == (len(lines),)


def test_an_escaped_zero_byte_in_a_json_line(db):
    """Such a line is a line like others: text cannot hold what it stands for, so it becomes the replacement character."""
    line = '{"level": "error", "msg": "read a\\u0000b 5 times", "key\\u0000": {"x": ["\\u0000"]}}'
    with db.connect() as conn:
        pattern = conn.execute("SELECT message_pattern FROM pgedge.aggregate_logs(ARRAY[%s, 'fine'], NULL, 's') WHERE level = 'ERROR'", (line,)).fetchone()[0]
        assert pattern == conn.execute("SELECT pgedge.log_pattern(%s)", (line,)).fetchone()[0] == "read a\ufffdb {NUM} times"
        assert conn.execute("SELECT metadata FROM aggregated_logs WHERE level = 'ERROR'").fetchone() == ({"key\ufffd": {"x": ["\ufffd"]}},)
        assert conn.execute("SELECT message_pattern FROM pgedge.match_log(%s)", (line,)).fetchone() == (pattern,)
        assert conn.execute("SELECT pgedge.log_parameters(%s, %s)", (line, pattern)).fetchone() == (["5"],)
        assert conn.execute("SELECT pgedge.log_patterns(%s)->0->>'pattern'", (line,)).fetchone() == (pattern,)


def test_a_flood_of_unique_lines_stays_bounded(db):
    words = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in ("st", "rk", "nd", "lp", "sh", "m", "n", "r")]
    rng = random.Random(1)
    sent = 0
    with db.connect() as conn:
        for _ in range(4):
            batch = [" ".join(rng.sample(words, rng.randrange(3, 9))) + rng.choice(". ! ? : ;".split()) for _ in range(1500)]
            conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::text[], 'INFO', 'flood')", (batch,))
            sent += len(batch)
        assert conn.execute("SELECT sum(count) FROM aggregated_logs").fetchone() == (sent,)
        assert conn.execute("SELECT count(*) FROM pgedge._log_shapes").fetchone()[0] <= 4096
    # a session that comes later loads the same knowledge
    with db.connect() as late:
        late.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', 'flood')", (batch,))
        assert late.execute("SELECT sum(count) FROM aggregated_logs").fetchone() == (sent + len(batch),)
    one_row_each(db)


PARTS = "ka lo mi nu pe ra si to vu wa ze bo cy du fa go hi ju xo qi".split()


def services(n):
    return [f"service {PARTS[i % 20]}{PARTS[i // 20 % 20]}{PARTS[i // 400 % 20]} moved" for i in range(n)]


def test_a_flood_of_one_statement_is_one_row(db):
    """Past what is kept of a structure lines still go to the pattern that covers them, in any order and batches, and so in log_patterns()."""
    lines = services(6000)
    rng = random.Random(3)
    with db.connect() as conn:
        for source, size in [("whole", 6000), ("parts", 700), ("again", 250)]:
            for i in range(0, len(lines), size):
                conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::text[], 'INFO', %s)", (lines[i:i + size], source))
            rng.shuffle(lines)
        assert totals(db) == [("service {*} moved", "INFO", s, 6000, 1) for s in ("again", "parts", "whole")]
        assert {n for (n,) in db.sql("SELECT count(*) FROM pgedge._log_shapes GROUP BY source_no")} == {512}
        assert db.sql("SELECT count(*) FROM pgedge._log_rows") == [(3,)]
        found = conn.execute("SELECT p->>'pattern', p->>'count' FROM (SELECT pgedge.log_patterns(l) FROM unnest(%s::text[]) l) s(f), jsonb_array_elements(f) p", (lines,)).fetchall()
        assert found == [("service {*} moved", "6000")]
        assert conn.execute("SELECT message_pattern FROM pgedge.match_log('service neverseen moved', 'whole')").fetchone() == ("service {*} moved",)
    one_row_each(db)


def test_a_flood_of_many_structures_keeps_rows_bounded(db):
    """Rows of forgotten shapes end in what covers them, with all their lines and their lineage, however the lines were sent."""
    words = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in ("st", "rk", "nd", "lp", "sh", "m", "n", "r")]
    rng = random.Random(7)

    def line():
        parts = rng.sample(words, rng.randrange(3, 9))
        return "".join(p + rng.choice([" ", ": ", ", ", "/", " [", "] ", "=", " ("]) for p in parts)

    lines = list(dict.fromkeys(line() for _ in range(12_000)))
    kept = []
    for source, size in [("few", 4000), ("many", 600), ("back", 1700)]:
        with db.connect() as conn:
            sent = lines[::-1] if source == "back" else lines
            for i in range(0, len(sent), size):
                batch = sent[i:i + size]
                answer = conn.execute("SELECT sum(occurrences) FROM pgedge.aggregate_logs(%s::text[], 'INFO', %s)", (batch, source)).fetchone()
                assert answer == (len(batch),)
                rows, total = conn.execute("SELECT count(*), sum(count) FROM aggregated_logs WHERE source = %s", (source,)).fetchone()
                assert rows <= 2 * 4096 + 1 and total == min(i + size, len(sent))
            assert conn.execute("SELECT count(*) FROM pgedge.match_log(%s, %s)", (sent[0], source)).fetchone() == (1,)
        shapes = db.sql(f"SELECT shape FROM pgedge._log_shapes s JOIN pgedge._log_sources USING (source_no) WHERE source = '{source}' ORDER BY 1")
        assert len(shapes) == 4096
        kept.append(shapes)
        # the row {*} has what no pattern covers
        other = db.sql(f"SELECT count FROM aggregated_logs WHERE source = '{source}' AND message_pattern = '{{*}}'")
        assert len(other) == 1 and other[0][0] > 1000
        assert db.sql(f"SELECT count(*) > 0 FROM pgedge.log_pattern_lineage WHERE source = '{source}'") == [(source != "few" or len(lines) > 4000,)]
    assert kept[0] == kept[1] == kept[2]
    assert db.sql("SELECT count(*) FROM pgedge._log_rows") == db.sql("SELECT count(*) FROM aggregated_logs")
    one_row_each(db)
    # nothing more to do for a session that knows nothing yet
    before = totals(db)
    with db.connect() as late:
        late.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', 'few')", (lines[:50],))
    assert len(totals(db)) == len(before) and sum(r[3] for r in totals(db)) == sum(r[3] for r in before) + 50
    one_row_each(db)


def test_shapes_of_an_earlier_version_that_kept_more(db):
    """0.2.0 kept up to 4,096 shapes of a structure: they are read, and those that are no longer kept go at the next call."""
    lines = services(3000)
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', 'old')", (lines,))
        conn.execute("INSERT INTO pgedge._log_shapes (source_no, no, shape) SELECT s.source_no, s.last_no + v.n, v.line FROM pgedge._log_sources s, unnest(%s::text[]) WITH ORDINALITY v(line, n)"
                     " WHERE NOT EXISTS (SELECT FROM pgedge._log_shapes h WHERE h.source_no = s.source_no AND h.shape = v.line)", (lines,))
        conn.execute("UPDATE pgedge._log_sources SET last_no = last_no + 3000")
        # a row whose pattern has no shape any more
        gone = conn.execute("INSERT INTO aggregated_logs (message_pattern, count, level, source, first_seen, last_seen) VALUES ('service unheard moved', 5, 'INFO', 'old', now(), now()) RETURNING id").fetchone()[0]
        conn.execute("INSERT INTO pgedge._log_rows SELECT %s, source_no, last_no, 'service unheard moved', 'INFO', '{}', date_trunc('hour', now()), 0 FROM pgedge._log_sources", (gone,))
    with db.connect() as conn:
        assert db.sql("SELECT count(*) FROM pgedge._log_shapes") == [(3000,)]
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['service novel moved'], 'INFO', 'old')")
        assert totals(db) == [("service {*} moved", "INFO", "old", 3006, 1)]
        assert db.sql("SELECT count(*) FROM pgedge._log_shapes") == [(512,)]
        assert db.sql("SELECT old_pattern, new_pattern, lines FROM pgedge.log_pattern_lineage") == [("service unheard moved", "service {*} moved", 5)]
    one_row_each(db)


def test_metadata_is_merged_and_bounded(db):
    with db.connect() as conn:
        def send(*metadata):
            conn.execute("SELECT pgedge.aggregate_logs(%s::jsonb)", (json.dumps([{"message": f"tick {i}", "metadata": m} for i, m in enumerate(metadata)]),))
            return conn.execute("SELECT metadata FROM aggregated_logs").fetchone()[0]

        assert send({"a": 1}, {"b": [1, {"c": None}]}, {"a": 2}) == {"a": 2, "b": [1, {"c": None}]}
        assert send({"a": "x\"y\\z\n"}, {}) == {"a": "x\"y\\z\n", "b": [1, {"c": None}]}
        conn.execute("SELECT pgedge.aggregate_logs('[{\"message\": \"tick 9\", \"pid\": 12345678901234567890.12, \"level\": null}]')")
        assert conn.execute("SELECT metadata->>'pid' FROM aggregated_logs").fetchone() == ("12345678901234567890.12",)
        for i in range(30):
            after = send({f"key {i} {j}": "v" * 50 for j in range(20)})
        assert "a" in after and len(json.dumps(after)) < 10_000
        assert send({"huge": "h" * 100_000}) == after


def test_samples_are_masked(db):
    secret = "login of ann@example.org with password=hunter2 failed"
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], NULL, 'on')", (secret,))
        conn.execute("SET pgedge.mask_samples = off")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], NULL, 'off')", (secret,))
        on, off = (conn.execute("SELECT sample_messages->>0 FROM aggregated_logs WHERE source = %s", (s,)).fetchone()[0] for s in ("on", "off"))
        assert "hunter2" not in on and "ann@example.org" not in on and off == secret
        conn.execute("RESET pgedge.mask_samples")
        mined = conn.execute("SELECT pgedge.log_patterns(l)::text FROM unnest(ARRAY[%s]) l", (secret,)).fetchone()[0]
        assert "ann@example.org" not in mined


def test_hostile_search_path(db):
    """Neither a search_path nor temporary tables of the same names lead the functions astray."""
    with db.connect() as conn:
        conn.execute("CREATE ROLE log_writer_1; CREATE SCHEMA evil AUTHORIZATION log_writer_1")
        conn.execute("GRANT USAGE ON SCHEMA pgedge TO log_writer_1; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgedge TO log_writer_1; GRANT TEMP ON DATABASE " + f'"{db.name}" TO log_writer_1')
        conn.execute("SET ROLE log_writer_1")
        conn.execute("CREATE TABLE evil.aggregated_logs (id int, message_pattern text); CREATE TEMP TABLE aggregated_logs (id int, message_pattern text);"
                     " CREATE TEMP TABLE _log_sources (id int)")
        conn.execute("CREATE FUNCTION evil.least(text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hijacked''; END';"
                     " CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hijacked''; END';"
                     " CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq);"
                     " CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hijacked''; END'")
        conn.execute("SET search_path = evil, pg_temp, pg_catalog, public")
        for _ in range(2):
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in'], 'INFO', 's', '2026-01-01')")
        assert len(conn.execute("SELECT * FROM pgedge.match_log('User 2 logged in', 's')").fetchall()) == 1
        conn.execute("SELECT * FROM pgedge.log_anomalies(); SELECT * FROM pgedge.log_trends('10 years'); SELECT pgedge.prune_logs('1000 years')")
        conn.execute("RESET search_path")
        assert conn.execute("SELECT count(*) FROM pg_temp.aggregated_logs").fetchone() == (0,)
        conn.execute("RESET ROLE")
        assert conn.execute("SELECT count FROM public.aggregated_logs").fetchone() == (2,)
        conn.execute("DROP OWNED BY log_writer_1; DROP ROLE log_writer_1")


def test_privileges(db):
    """Nobody may without EXECUTE; with it no right on a table is needed; triggers run as the table's owner."""
    with db.connect() as conn:
        conn.execute("CREATE ROLE log_writer_2; CREATE ROLE log_owner_2; GRANT ALL ON SCHEMA public TO log_owner_2")
        conn.execute("ALTER TABLE aggregated_logs OWNER TO log_owner_2")
        conn.execute("CREATE TABLE who (name text); GRANT INSERT ON who TO log_owner_2")
        conn.execute("CREATE FUNCTION note_who() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.who VALUES (current_user); RETURN NEW; END'")
        conn.execute("CREATE TRIGGER note BEFORE INSERT OR UPDATE ON aggregated_logs FOR EACH ROW EXECUTE FUNCTION note_who()")
        conn.execute("SET ROLE log_writer_2")
        for call in ("aggregate_logs(ARRAY['x'])", "aggregate_logs('[]'::jsonb)", "match_log('x')", "prune_logs('1 day')", "log_anomalies()", "log_trends()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(f"SELECT * FROM pgedge.{call}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM pgedge.log_pattern_lineage")
        assert conn.execute("SELECT pgedge.log_pattern('User 1')").fetchone() is not None
        conn.execute("RESET ROLE; GRANT EXECUTE ON FUNCTION pgedge.aggregate_logs(text[], text, text, timestamptz) TO log_writer_2; SET ROLE log_writer_2")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in'])")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in'])")
        assert conn.execute("SELECT current_user").fetchone() == ("log_writer_2",)
        conn.execute("RESET ROLE")
        assert conn.execute("SELECT DISTINCT name FROM who").fetchall() == [("log_owner_2",)]
        # a trigger that logs into what fires it
        conn.execute("CREATE OR REPLACE FUNCTION note_who() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN PERFORM pgedge.aggregate_logs(ARRAY['again']); RETURN NEW; END$$")
        fails(conn, "55000", "SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in'])")
        # the error left nothing behind
        conn.execute("DROP TRIGGER note ON aggregated_logs")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in'])")
        assert conn.execute("SELECT count FROM aggregated_logs").fetchone() == (3,)
        conn.execute("ALTER TABLE aggregated_logs OWNER TO postgres; DROP OWNED BY log_writer_2, log_owner_2; DROP ROLE log_writer_2, log_owner_2")


def test_read_only_and_missing_table(db):
    with db.connect() as conn:
        conn.execute("SET default_transaction_read_only = on")
        fails(conn, "25006", "SELECT pgedge.aggregate_logs(ARRAY['x'])")
        fails(conn, "25006", "SELECT pgedge.prune_logs('1 day')")
        assert conn.execute("SELECT * FROM pgedge.match_log('x')").fetchall() == []
        conn.execute("SET default_transaction_read_only = off")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['x'])")
        conn.execute("DROP TABLE aggregated_logs")
        error = fails(conn, "42P01", "SELECT pgedge.aggregate_logs(ARRAY['x'])")
        assert "create_tables" in error.diag.message_hint
        conn.execute("SELECT pgedge.create_tables()")
        assert conn.execute("SELECT id, is_new FROM pgedge.aggregate_logs(ARRAY['x'])").fetchall() == [(1, True)]
        # made anew, elsewhere, in the same session
        conn.execute("DROP EXTENSION pgedge; CREATE SCHEMA \"Log data\"; CREATE EXTENSION pgedge SCHEMA \"Log data\"")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['x', 'y'])")
        assert conn.execute("SELECT count(*) FROM \"Log data\".aggregated_logs").fetchone() == (2,)
        assert conn.execute("SELECT sum(count) FROM public.aggregated_logs").fetchone() == (1,)
        conn.execute("ALTER SCHEMA \"Log data\" RENAME TO logs")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['x', 'y'])")
        assert conn.execute("SELECT sum(count) FROM logs.aggregated_logs").fetchone() == (4,)


def test_repeatable_read_fails_cleanly_or_counts(db):
    """A transaction with an old view of the world gets 40001 and nothing is counted twice or lost."""
    with db.connect(autocommit=False) as old, db.connect() as new:
        new.execute("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in'], 'INFO', 's')")
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1 FROM aggregated_logs")
        new.execute("SELECT pgedge.aggregate_logs(ARRAY['User 2 logged in', 'disk full'], 'INFO', 's')")
        for lines in (["User 3 logged in"], ["disk full"], ["something new"]):
            with pytest.raises(psycopg.errors.SerializationFailure):
                old.execute("SELECT pgedge.aggregate_logs(%s::text[], 'INFO', 's')", (lines,))
            old.rollback()
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT 1 FROM aggregated_logs")
            new.execute("SELECT pgedge.aggregate_logs(ARRAY['User 2 logged in', 'disk full', %s], 'INFO', 's')", (f"{lines[0]} {lines[0]}",))
        old.rollback()
        old.execute("SELECT pgedge.aggregate_logs(ARRAY['User 3 logged in'], 'INFO', 's')")
        old.commit()
    assert db.value("SELECT count FROM aggregated_logs WHERE message_pattern = 'User {ID} logged in'") == 6
    one_row_each(db)


def test_prune(db):
    with db.connect() as conn, db.connect() as other:
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['old thing 1'], 'INFO', 's', now() - interval '40 days')")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['old thing 1'], 'INFO', 'gone', now() - interval '40 days')")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['new thing 1'], 'INFO', 's')")
        conn.execute("INSERT INTO aggregated_logs (message_pattern, last_seen) VALUES ('plain', now() - interval '40 days'), ('plain', NULL), ('plain', now())")
        for session in (conn, other):
            assert len(session.execute("SELECT * FROM pgedge.match_log('old thing 2', 's')").fetchall()) == 1
        assert conn.execute("SELECT pgedge.prune_logs('30 days')").fetchone() == (3,)
        for session in (conn, other):
            assert session.execute("SELECT * FROM pgedge.match_log('old thing 2', 's')").fetchall() == []
            assert len(session.execute("SELECT * FROM pgedge.match_log('new thing 2', 's')").fetchall()) == 1
        assert conn.execute("SELECT (SELECT count(*) FROM pgedge._log_shapes), (SELECT count(*) FROM pgedge._log_sources), (SELECT count(*) FROM pgedge._log_rows)").fetchone() == (1, 1, 1)
        assert other.execute("SELECT is_new FROM pgedge.aggregate_logs(ARRAY['old thing 2'], 'INFO', 's')").fetchall() == [(True,)]
        assert conn.execute("SELECT pgedge.prune_logs('0')").fetchone() == (3,)
        assert conn.execute("SELECT count(*) FROM pgedge._log_sources").fetchone() == (0,)


def test_anomalies(db):
    with db.connect() as conn:
        def send(line, hours, lines):
            conn.execute("SELECT pgedge.aggregate_logs(array_fill(%s::text, ARRAY[%s]), 'INFO', 's', now() - make_interval(hours => %s))", (line, lines, hours))

        for hour in range(30, 1, -1):
            send("steady 1", hour, 20 + hour % 3)
            send("bursts 1", hour, 20)
            send("stops 1", hour, 20)
        send("rare 1", 29, 1)
        send("steady 1", 0, 22)
        send("bursts 1", 0, 200)
        send("rare 1", 0, 4)
        send("fresh 1", 0, 3)
        rows = conn.execute("SELECT kind, message_pattern, observed, expected, round(score::numeric, 2)::float FROM pgedge.log_anomalies('1 hour')").fetchall()
        assert rows == [("new", "fresh {NUM}", 3, 0, 3), ("silence", "stops {NUM}", 0, 20, 4.47), ("spike", "bursts {NUM}", 200, 20, 40.25)]
        assert conn.execute("SELECT count(*) FROM pgedge.log_anomalies('1 hour', 1000)").fetchone() == (1,)


def test_events(db):
    with db.connect() as conn:
        def events():
            return conn.execute("SELECT event_type, priority, payload->>'message_pattern', (payload->>'id')::int FROM claude_events ORDER BY id").fetchall()

        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['ERROR: quiet 1'], NULL, 's')")
        assert events() == []
        conn.execute("SET pgedge.log_events = on")
        ids = dict(conn.execute("SELECT message_pattern, id FROM pgedge.aggregate_logs(ARRAY['ERROR: pump 1 failed', 'INFO: fine 1', 'ERROR: quiet 2'], NULL, 's')").fetchall())
        first = ("log.new_pattern", 3, "ERROR: pump {NUM} failed", ids["ERROR: pump {NUM} failed"])
        assert events() == [first]
        conn.execute("SELECT pgedge.aggregate_logs(array_fill('ERROR: pump 2 failed'::text, ARRAY[1000]), NULL, 's')")
        assert events() == [first]
        for hour in range(10, 0, -1):
            conn.execute("SELECT pgedge.aggregate_logs(array_fill('tick 5'::text, ARRAY[9]), NULL, 's', now() - make_interval(hours => %s))", (hour,))
        for _ in range(4):
            conn.execute("SELECT pgedge.aggregate_logs(array_fill('tick 5'::text, ARRAY[10]), NULL, 's')")
        with db.connect() as other:
            other.execute("SET pgedge.log_events = on")
            other.execute("SELECT pgedge.aggregate_logs(array_fill('tick 5'::text, ARRAY[10]), NULL, 's')")
        found = events()
        assert [e[:3] for e in found] == [first[:3], ("log.spike", 3, "tick {NUM}")]
        assert conn.execute("SELECT (payload->>'observed')::int, (payload->>'expected')::float FROM claude_events WHERE event_type = 'log.spike'").fetchone() == (20, 9)
        conn.execute("DROP TABLE claude_events")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['FATAL: all lost 1'], NULL, 's')")


def test_log_patterns_is_the_same_in_parallel(db):
    with db.connect() as conn:
        conn.execute("CREATE TABLE raw AS SELECT 'User ' || i % 97 || ' of host-' || (ARRAY['ann','bob','cleo','dan','eve'])[i % 5 + 1] || ' read /data/' || i % 13 || ' in ' || i % 50 || 'ms' AS line"
                     " FROM generate_series(1, 40000) i UNION ALL SELECT NULL UNION ALL SELECT 'once only'")
        conn.execute("ALTER TABLE raw SET (parallel_workers = 8); ANALYZE raw")
        conn.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 8")
        plan = "\n".join(r[0] for r in conn.execute("EXPLAIN (ANALYZE, COSTS OFF) SELECT pgedge.log_patterns(line) FROM raw").fetchall())
        assert "Partial Aggregate" in plan and "Workers Launched: " in plan and "Workers Launched: 0" not in plan, plan
        parallel = conn.execute("SELECT pgedge.log_patterns(line)::text FROM raw").fetchone()[0]
        conn.execute("SET max_parallel_workers_per_gather = 0")
        assert conn.execute("SELECT pgedge.log_patterns(line)::text FROM raw").fetchone()[0] == parallel
        assert conn.execute("SELECT pgedge.log_patterns(line ORDER BY md5(line))::text FROM raw").fetchone()[0] == parallel
        found = json.loads(parallel)
        assert sum(p["count"] for p in found) == 40001
        top = found[0]
        assert set(top) == {"pattern", "count", "samples", "parameters"} and len(top["samples"]) == 5
        assert all(set(p) == {"type", "distinct", "top"} for p in top["parameters"])


def test_a_killed_backend_loses_only_its_own_transaction(db):
    """kill -9 of a backend in the middle restarts the server; what was committed is there, and its rows go on."""
    committed = 0
    with db.connect() as conn:
        for i in range(20):
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'INFO', 's')", (f"valve {'abcdefghij'[i % 10]}x opened",))
            committed += 1
        before = totals(db)
        conn.execute("BEGIN")
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['valve kx opened', 'something new'], 'INFO', 's')")
        os.kill(conn.info.backend_pid, 9)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    deadline = time.monotonic() + 30
    while True:
        try:
            assert totals(db) == before
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    db.sql("SELECT pgedge.aggregate_logs(ARRAY['valve zx opened'], 'INFO', 's')")
    assert db.value("SELECT sum(count) FROM aggregated_logs") == committed + 1
    one_row_each(db)


def test_power_cut_and_restart_keep_what_was_learned(fresh_cluster):
    from conftest import create_database

    db = create_database(fresh_cluster)
    names = ["ann", "bob", "cleo", "dan", "eve", "finn"]
    done = Counter()
    stop = threading.Event()

    def session(number):
        try:
            with db.connect() as conn:
                while not stop.is_set():
                    name = random.choice(names)
                    conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'INFO', 's')", (f"backup of {name} to the remote host failed",))
                    done[number] += 1
        except psycopg.OperationalError:
            pass

    threads = [threading.Thread(target=session, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    time.sleep(1)
    fresh_cluster.kill_postmaster()
    stop.set()
    for t in threads:
        t.join()
    fresh_cluster.start()
    total = db.value("SELECT sum(count) FROM aggregated_logs")
    # each session may have had one commit whose answer did not arrive
    assert sum(done.values()) <= total <= sum(done.values()) + 4
    one_row_each(db)
    patterns = db.sql("SELECT message_pattern FROM aggregated_logs")
    assert patterns == [("backup of {*} to the remote host failed",)]
    fresh_cluster.stop()
    fresh_cluster.start()
    assert db.sql("SELECT message_pattern, is_new FROM pgedge.aggregate_logs(ARRAY['backup of zoe to the remote host failed'], 'INFO', 's')") == [(*patterns[0], False)]
    # a prepared transaction's knowledge is not used before it is committed
    fresh_cluster.psql("ALTER SYSTEM SET max_prepared_transactions = 5")
    fresh_cluster.stop()
    fresh_cluster.start()
    with db.connect() as conn:
        conn.execute("BEGIN; SELECT pgedge.aggregate_logs(ARRAY['only prepared'], 'INFO', 'p'); PREPARE TRANSACTION 'x'")
        conn.execute("ROLLBACK PREPARED 'x'")
        assert conn.execute("SELECT is_new FROM pgedge.aggregate_logs(ARRAY['only prepared'], 'INFO', 'p')").fetchall() == [(True,)]


def loghub() -> list[Path]:
    here = Path(os.environ.get("PGEDGE_LOGHUB") or Path(__file__).resolve().parents[3] / "shared" / "loghub")
    return sorted(here.glob("*/*_2k.log_structured.csv"))


@pytest.mark.skipif(not loghub(), reason="no labelled logs: set PGEDGE_LOGHUB to a folder of Loghub-2k sets")
def test_labelled_logs(db):
    """Every line of every set: the counts are right, and a pattern's expression finds exactly its lines."""
    for path in loghub():
        name = path.parent.name
        with path.open(encoding="utf-8", newline="") as f:
            lines = [row["Content"] for row in csv.DictReader(f)]
        with db.connect() as conn:
            for i in range(0, len(lines), 500):
                conn.execute("SELECT count(*) FROM pgedge.aggregate_logs(%s::text[], NULL, %s)", (lines[i:i + 500], name))
            assert conn.execute("SELECT sum(count) FROM aggregated_logs WHERE source = %s", (name,)).fetchone() == (len(lines),)
            conn.execute("CREATE TEMP TABLE lines (n int, line text, pattern text)")
            with conn.cursor().copy("COPY lines (n, line) FROM STDIN") as copy:
                for n, line in enumerate(lines):
                    copy.write_row((n, line))
            conn.execute("UPDATE lines SET pattern = (SELECT message_pattern FROM pgedge.match_log(line, %s))", (name,))
            assert conn.execute("SELECT n, line FROM lines WHERE pattern IS NULL").fetchall() == []
            counts = dict(conn.execute("SELECT pattern, count(*) FROM lines GROUP BY 1").fetchall())
            assert counts == dict(conn.execute("SELECT message_pattern, sum(count) FROM aggregated_logs WHERE source = %s GROUP BY 1", (name,)).fetchall())
            missed = conn.execute("SELECT line, pattern FROM lines WHERE line !~ pgedge.log_pattern_regex(pattern)").fetchall()
            assert missed == [], (name, missed[:3])
            # Against lines of other patterns, five of each (the crate's test tries all): neither taking them apart nor an expression finds one.
            conn.execute("CREATE TEMP TABLE few AS SELECT line, pattern FROM (SELECT *, row_number() OVER (PARTITION BY pattern ORDER BY n) k FROM lines) l WHERE k <= 5")
            conn.execute("CREATE TEMP TABLE patterns AS SELECT DISTINCT pattern, pgedge.log_pattern_regex(pattern) AS regex FROM lines")
            others = "FROM patterns p JOIN few l ON l.pattern <> p.pattern"
            assert conn.execute(f"SELECT p.pattern, l.line {others} WHERE pgedge.log_parameters(l.line, p.pattern) IS NOT NULL").fetchall() == []
            strays = conn.execute(f"SELECT p.pattern, l.line {others} WHERE l.line ~ p.regex").fetchall()
            assert strays == [], (name, strays[:3])
            assert conn.execute("SELECT line FROM lines WHERE pgedge.log_parameters(line, pattern) IS NULL").fetchall() == []
            conn.execute("DROP TABLE lines, few, patterns")
    one_row_each(db)
