"""Secrets in log lines: none of them may be anywhere in the database, whatever the form and the way in."""
from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from support import fails

FORMS = Path(__file__).resolve().parents[2] / "crates/logminer/tests/secrets"
SECRET = json.loads((FORMS / "secret.json").read_text())
PROSE = json.loads((FORMS / "prose.json").read_text())
PLANTED = "S3cr"


def dump(db):
    return db.cluster.tool("pg_dump", "-d", db.name, capture_output=True).stdout.decode()


def bodies():
    """Every form as a plain line, behind a prefix, in JSON, in logfmt, and twice more with other words around."""
    for line in SECRET:
        yield line
        yield f"<34>Oct 11 22:14:15 edge app[7]: {line}"
        yield json.dumps({"level": "error", "msg": line, "n": 1})
        yield json.dumps({"level": "error", "msg": "hi 1", "said": line, "deep": [{"list": [line]}]})
        for word in ("north", "south"):
            yield f"ERROR pump {word} said {line}"


METADATA = {
    "token": "S3crtok", "user": {"name": "ann", "password": "S3crpw", "pins": ["S3cr1", "S3cr2"]}, "headers": {"Cookie": "a=S3cr", "authorization": "Bearer S3crAbcd"},
    "args": ["run", "--password", "S3crpw"], "env": [{"name": "DB_PASSWORD", "value": "S3crpw"}], "url": "postgres://ann:S3crpw@db/x",
    "credentials": {"a": [1, "S3cr"]}, "note": "login password=S3crpw", "text": "{\"password\": \"S3crpw\"}", "S3cr.ann@example.org": 1,
}


@pytest.mark.parametrize("way", ["lines", "jsonb", "text"])
def test_nothing_in_the_dump(db, way):
    lines = [line for line in bodies()]
    with db.connect() as conn:
        conn.execute("SET pgedge.log_events = on")
        for _ in range(2):
            if way == "lines":
                conn.execute("SELECT pgedge.aggregate_logs(%s, 'ERROR', 'x')", (lines,))
                conn.execute("SELECT pgedge.aggregate_logs(%s, NULL, 'y')", (["level=error msg=\"hi 1\" password=S3crpw", 'level=info msg="hi 2" user=ann api_key="S3cr a"'],))
            else:
                entries = [{"message": line, "level": "ERROR", "source": "x", "metadata": METADATA} for line in lines]
                if way == "jsonb":
                    entries[0].update(METADATA)
                conn.execute(f"SELECT count(*) FROM pgedge.aggregate_logs(%s::{way})", (json.dumps({"logs": entries}),))
        # patterns that generalise leave their steps
        steps = [f"pump {w} login password=S3cr{w} failed" for w in "north south attic cellar garage west pond roof yard".split()]
        for step in steps:
            conn.execute("SELECT pgedge.aggregate_logs(ARRAY[%s], 'ERROR', 'x')", (step,))
        conn.execute("CREATE TABLE mined AS SELECT pgedge.log_patterns(l) AS found FROM unnest(%s::text[]) l", (lines + steps,))
        conn.execute("CREATE TABLE anomalies AS SELECT * FROM pgedge.log_anomalies('1 hour')")
        conn.execute("CREATE TABLE trends AS SELECT * FROM pgedge.log_trends('1 day')")
        conn.execute("CREATE TABLE told AS SELECT l, pgedge.log_pattern(l) AS pattern, pgedge.log_parameters(l, pgedge.log_pattern(l)) AS found FROM unnest(%s::text[]) l", (lines,))
        assert conn.execute("SELECT count(*) FROM told WHERE found IS NULL").fetchone() == (0,)
        # log_parameters tells e-mail addresses
        conn.execute("CREATE TABLE kept AS SELECT pattern, found FROM told WHERE pattern !~ 'EMAIL'; DROP TABLE told")
        assert conn.execute("SELECT count(*) FROM claude_events WHERE event_type = 'log.new_pattern'").fetchone()[0] > 0
        assert conn.execute("SELECT count(*) FROM pgedge.log_pattern_lineage").fetchone()[0] > 0
        assert conn.execute("SELECT sum(count) FROM aggregated_logs WHERE source = 'x'").fetchone()[0] == 2 * len(lines) + len(steps)
    text = dump(db)
    shown = [line for line in text.splitlines() if PLANTED in line]
    assert not shown, shown[:5]
    assert "{SECRET}" in text and "***" in text


def test_a_line_finds_its_row(db):
    """A raw line with its secret is of the row's pattern: match_log, log_parameters and the expression agree."""
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs(ARRAY['login password=S3crpw ok', 'mail ann@example.org now'], 'INFO', 'x')")
        for line, pattern, found in (("login password=other ok", "login password={SECRET} ok", ["***"]), ("mail bob@example.org now", "mail {EMAIL} now", ["bob@example.org"])):
            assert conn.execute("SELECT message_pattern FROM pgedge.match_log(%s, 'x')", (line,)).fetchone() == (pattern,)
            assert conn.execute("SELECT pgedge.log_parameters(%s, %s), %s ~ pgedge.log_pattern_regex(%s)", (line, pattern, line, pattern)).fetchone() == (found, True)
        missed = [
            line for line in SECRET
            if not conn.execute("SELECT %s ~ pgedge.log_pattern_regex(pgedge.log_pattern(%s))", (line, line)).fetchone()[0] and not line.startswith("{")
        ]
        assert not missed, missed


def test_prose_is_left_alone(db):
    with db.connect() as conn:
        conn.execute("SELECT pgedge.aggregate_logs(%s, 'INFO', 'prose')", ([line for line in PROSE],))
        stored = conn.execute("SELECT string_agg(message_pattern || sample_messages::text, '') FROM aggregated_logs").fetchone()[0]
        assert "{SECRET}" not in stored and stored.count("***") == PROSE.count("*** stop ***") * 4


def test_who_may_show_secrets(db):
    """Only a superuser, or who was granted SET on it, turns the masking off; patterns hold no secret even then."""
    with db.connect() as conn:
        conn.execute("DROP ROLE IF EXISTS log_writer_2; CREATE ROLE log_writer_2 LOGIN; GRANT USAGE ON SCHEMA pgedge TO log_writer_2; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgedge TO log_writer_2")
    try:
        with db.connect(user="log_writer_2") as writer:
            # the library defines the setting when it is loaded; until then PostgreSQL takes any
            writer.execute("SELECT pgedge.log_pattern('x')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute("SET pgedge.mask_samples = off")
            writer.execute("SELECT pgedge.aggregate_logs(ARRAY['login password=S3crpw ok'], 'INFO', 'x')")
        with db.connect(user="log_writer_2") as writer:
            writer.execute("SET pgedge.mask_samples = off")
            writer.execute("SELECT pgedge.aggregate_logs(ARRAY['login password=S3crpw early'], 'INFO', 'x')")
            assert writer.execute("SHOW pgedge.mask_samples").fetchone() == ("on",)
        assert PLANTED not in dump(db)
        with db.connect() as conn:
            conn.execute("GRANT SET ON PARAMETER pgedge.mask_samples TO log_writer_2")
        with db.connect(user="log_writer_2") as writer:
            writer.execute("SELECT pgedge.log_pattern('x'); SET pgedge.mask_samples = off")
            writer.execute("SELECT pgedge.aggregate_logs(ARRAY['logout password=S3crpw ok'], 'INFO', 'x')")
            row = db.sql("SELECT message_pattern, sample_messages->>0 FROM aggregated_logs WHERE message_pattern LIKE 'logout%'")
            assert row == [("logout password={SECRET} ok", "logout password=S3crpw ok")]
    finally:
        with db.connect() as conn:
            conn.execute("DROP OWNED BY log_writer_2; DROP ROLE log_writer_2")


def test_errors_tell_no_secret(db):
    with db.connect() as conn:
        error = fails(conn, "22023", "SELECT pgedge.aggregate_logs('[{\"password\": \"S3crpw\"}]')")
        assert PLANTED not in str(error) and "***" in str(error)
