"""Webhooks, with a stand-in for pg_net (pg_net.py) that really sends to a receiver that really answers."""
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import psycopg
import pytest

from conftest import Database, create_database
from pg_net import Receiver, Sender, StandIn
from support import fails, reconnect
from test_ops import drop_role, role

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
PROTECT = "REVOKE ALL ON net.http_request_queue, net._http_response FROM PUBLIC"


@pytest.fixture(scope="module", autouse=True)
def stand_in(cluster):
    files = StandIn(cluster.bindir)
    if files.real:
        pytest.skip("this server has the real pg_net, which the stand-in must not replace")
    with files:
        yield files


@pytest.fixture
def receiver():
    r = Receiver()
    yield r
    r.close()


@pytest.fixture
def box(cluster):
    """A database with both extensions and nobody who sends."""
    database = create_database(cluster)
    database.sql("CREATE EXTENSION pg_net")
    yield database
    cluster.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')


@pytest.fixture
def net(box):
    """The same with a sender."""
    with Sender(box.cluster.dsn(box.name)):
        yield box


def hook(conn, url: str, types="{mail}", **columns) -> int:
    columns = {"secret": SECRET, **columns}
    names = "".join(f", {c}" for c in columns)
    return conn.execute(f"INSERT INTO pgedge.webhooks (event_types, url{names}) VALUES (%s, %s{', %s' * len(columns)}) RETURNING id",
                        (types, url, *(json.dumps(v) if isinstance(v, dict) else v for v in columns.values()))).fetchone()[0]


def enqueue(conn, payload='{"n": 1}', event_type="mail", **arguments) -> int:
    more = "".join(f", {a} => %s" for a in arguments)
    return conn.execute(f"SELECT pgedge.enqueue_event(%s, %s{more})", (event_type, payload, *arguments.values())).fetchone()[0]


def dispatch(conn) -> int:
    return conn.execute("SELECT pgedge.dispatch_webhooks()").fetchone()[0]


def reconcile(conn) -> tuple:
    return conn.execute("SELECT * FROM pgedge.reconcile_webhooks()").fetchone()


def states(conn) -> list[tuple]:
    return conn.execute("SELECT webhook_id, state, attempts, status_code FROM pgedge.webhook_deliveries ORDER BY created_at, webhook_id").fetchall()


def event(conn, which: int) -> str:
    return conn.execute("SELECT status FROM claude_events WHERE id = %s", (which,)).fetchone()[0]


def work(conn, until, seconds: float = 60) -> None:
    """Turns of dispatch and reconcile until something holds."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, (states(conn)[:10], conn.execute("SELECT id, status, last_error FROM claude_events LIMIT 10").fetchall())
        dispatch(conn)
        reconcile(conn)
        time.sleep(0.02)


def answered(conn) -> tuple:
    """The first reconciliation that finds an answer."""
    end = time.monotonic() + 20
    while not any(counts := reconcile(conn)):
        assert time.monotonic() < end
        time.sleep(0.02)
    return counts


def signature(key: bytes, request: tuple) -> str:
    """The independent half: what the receiver computes from what it got."""
    headers, body = {k.lower(): v for k, v in request[2].items()}, request[3]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


# Signing ----------------------------------------------------------------------------------------------------------------------------

RFC4231 = [  # key, data, HMAC-SHA-256
    ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe".hex(), b"what do ya want for nothing?".hex(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)).hex(), "cd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    ("aa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First".hex(), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    ("aa" * 131, b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.".hex(),
     "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
]


def test_hmac_sha256(db):
    for key, data, expected in RFC4231:
        assert db.value("SELECT encode(pgedge._hmac_sha256(decode(%s, 'hex'), decode(%s, 'hex')), 'hex')", (key, data)) == expected
    for n in (0, 1, 63, 64, 65, 200):
        key = bytes(i * 7 % 256 for i in range(n))
        assert db.value("SELECT pgedge._hmac_sha256(%s::bytea, 'x'::bytea)", (key,)) == hmac.new(key, b"x", hashlib.sha256).digest()


PAYLOADS = ['{"a": 1}', '{"b":1.500,"a":1e3,"long":{"k":[1,2,null,true]}}', '{"text": "größe ☃ 𝄞 \\u00e9 \\"quoted\\" \\\\ \\n"}', "[]", '"text"', "12345678901234567890.10", "null"]


def test_pg_nets_errors_are_told_without_what_they_may_hold(db):
    shown = lambda message, headers="{}": db.value("SELECT pgedge._webhook_problem(%s, %s)", (message, headers))  # noqa: E731
    assert shown("Couldn't resolve host name") == "Couldn't resolve host name"
    assert shown("a\tb\n\x1b[31mc\x00".replace("\x00", "") + "\x7f\u0085d") == "a b [31mc d"
    assert shown("x" * 4000) == "x" * 500 and shown("y" * 1_000_000) == "pg_net gave an error of 1000000 characters"
    assert shown("could not reach https://h/t0ken?k=t0ken now, nor u:p4ss@h2") == "could not reach https://… now, nor …@h2"
    assert shown("bad url http://user:p4ss@h:80/x") == "bad url http://…"
    assert shown('header "Bearer t0ken, really" refused, t0ken too', '{"A": "Bearer t0ken, really", "B": "t0ken", "C": "er"}') == 'header "…" refused, … too'
    assert shown("") == "" and shown(None) is None


def test_a_long_error_of_pg_net_is_bounded_everywhere(box, receiver):
    with box.connect() as conn:
        conn.execute(PROTECT)
        which = hook(conn, receiver.url + "/in", headers={"A": "Bearer t0ken-0123"})
        number = enqueue(conn)
        assert dispatch(conn) == 1
        conn.execute("INSERT INTO net._http_response (id, error_msg) SELECT id, E'no\\n\\x01 ' || url || ' with ' || (headers ->> 'A') || repeat('!', 900) FROM net.http_request_queue; DELETE FROM net.http_request_queue")
        assert reconcile(conn) == (0, 1, 0)
        said = "no http://… with …" + "!" * 482
        assert conn.execute("SELECT last_error FROM pgedge.webhook_deliveries").fetchone() == (said,)
        assert conn.execute("SELECT last_error, history -> 0 ->> 'error' FROM claude_events WHERE id = %s", (number,)).fetchone() == (f"webhook {which}: {said}",) * 2


def test_an_overload_of_http_post_changes_nothing_and_its_absence_is_named(net, receiver):
    with net.connect() as conn:
        for arguments in ("url text, body jsonb, headers jsonb, timeout_milliseconds int", "url text, body jsonb, params jsonb, headers jsonb, timeout_milliseconds int, more int DEFAULT 0",
                          "url text, body text, params jsonb, headers jsonb, timeout_milliseconds int", "url varchar, body jsonb, params jsonb, headers jsonb, timeout_milliseconds bigint DEFAULT 1",
                          "VARIADIC more text[]"):
            conn.execute(f"CREATE FUNCTION net.http_post({arguments}) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$")
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "processed")
        conn.execute("ALTER EXTENSION pg_net DROP FUNCTION net.http_post(text, jsonb, jsonb, jsonb, int); ALTER FUNCTION net.http_post(text, jsonb, jsonb, jsonb, int) RENAME TO other")
        enqueue(conn)
        assert "net.http_post" in str(fails(conn, "55000", "SELECT pgedge.dispatch_webhooks()"))
        assert "net.http_post(text, jsonb, jsonb, jsonb, integer)" in str(fails(conn, "55000", "SELECT pgedge._webhook_http_post('http://h/', '1', '{}', '{}', 1)"))
        conn.execute("CREATE FUNCTION net.http_post(text, jsonb, jsonb, jsonb, int) RETURNS text LANGUAGE sql AS 'SELECT $1'; ALTER EXTENSION pg_net ADD FUNCTION net.http_post(text, jsonb, jsonb, jsonb, int)")
        fails(conn, "55000", "SELECT pgedge.dispatch_webhooks()")
        assert conn.execute("SELECT count(*) FROM pgedge.event_leases").fetchone() == (0,)


@pytest.mark.parametrize("envelope", [False, True])
def test_the_receiver_can_verify_what_arrives(net, receiver, envelope):
    with net.connect() as conn:
        hook(conn, receiver.url + "/in", envelope=envelope)
        ids = [enqueue(conn, p) for p in PAYLOADS]
        work(conn, lambda: all(event(conn, i) == "processed" for i in ids))
        messages = dict(conn.execute("SELECT message_id, event_id FROM pgedge.webhook_deliveries WHERE state = 'delivered' AND attempts = 1 AND status_code = 200").fetchall())
    requests = receiver.at("/in")
    assert len(requests) == len(PAYLOADS)
    for request in requests:
        method, _, headers, body, _ = request
        assert method == "POST" and headers["Content-Type"] == "application/json"
        assert headers["webhook-signature"] == signature(bytes(range(32)), request)
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        assert headers["webhook-id"] == headers["Idempotency-Key"]
        which = messages[headers["webhook-id"]]
        assert headers["X-Pgedge-Event-Type"] == "mail" and headers["X-Pgedge-Event-Id"] == str(which)
        sent, payload = json.loads(body), json.loads(PAYLOADS[ids.index(which)])
        if envelope:
            assert sent["type"] == "mail" and sent["data"] == payload
            assert abs(datetime.fromisoformat(sent["timestamp"].replace("Z", "+00:00")) - datetime.now(timezone.utc)) < timedelta(minutes=1)
        else:
            assert sent == payload
    assert len(messages) == len(PAYLOADS)


def test_rotation_signs_with_both_keys_and_null_with_none(net, receiver):
    with net.connect() as conn:
        which = hook(conn, receiver.url + "/in")
        fresh = conn.execute("SELECT pgedge.rotate_webhook_secret(%s)", (which,)).fetchone()[0]
        text_key = "a plain secret of enough bytes".replace(" ", "-")
        hook(conn, receiver.url + "/text", secret=text_key)
        hook(conn, receiver.url + "/none", secret=None)
        first = enqueue(conn)
        work(conn, lambda: event(conn, first) == "processed")
        (request,), (text,), (none,) = receiver.at("/in"), receiver.at("/text"), receiver.at("/none")
        assert request[2]["webhook-signature"] == f"{signature(base64.b64decode(fresh[6:]), request)} {signature(bytes(range(32)), request)}"
        assert text[2]["webhook-signature"] == signature(text_key.encode(), text)
        assert "webhook-signature" not in none[2] and "webhook-id" in none[2]
        # Each receiver's message is its own.
        assert len({r[2]["webhook-id"] for r in (request, text, none)}) == 3
        last = conn.execute("SELECT pgedge.rotate_webhook_secret(%s, keep_old => false)", (which,)).fetchone()[0]
        assert conn.execute("SELECT secret FROM pgedge.webhooks WHERE id = %s", (which,)).fetchone()[0] == last != fresh
        fails(conn, "02000", "SELECT pgedge.rotate_webhook_secret(%s)", (999,))
        # A secret that nobody gave is a good one.
        made = [conn.execute("INSERT INTO pgedge.webhooks (url) VALUES ('http://h/') RETURNING secret").fetchone()[0] for _ in range(2)]
        assert made[0] != made[1] and all(len(base64.b64decode(m.removeprefix("whsec_"))) == 32 for m in made)


# What an answer means ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("status,state,event_status", [
    *((s, "delivered", "processed") for s in (200, 201, 202, 204, 299)),
    *((s, "pending", "pending") for s in (408, 425, 429, 500, 502, 503, 504, 599)),
    *((s, "dead", "dead") for s in (304, 400, 401, 403, 404, 409, 410, 422, 451, 600)),
])
def test_status(net, receiver, status, state, event_status):
    receiver.answers["/in"] = status
    with net.connect() as conn:
        which, number = hook(conn, receiver.url + "/in"), enqueue(conn)
        assert dispatch(conn) == 1
        counts = answered(conn)
        assert counts == ((1, 0, 0) if state == "delivered" else (0, 1, 0) if state == "pending" else (0, 0, 1))
        assert states(conn) == [(which, state, 1, status)] and event(conn, number) == event_status
        (error, enabled, reason), = conn.execute("SELECT last_error, enabled, disabled_reason FROM claude_events, pgedge.webhooks").fetchall()
        assert error == (None if state == "delivered" else f"webhook {which}: HTTP {status}")
        # Gone is gone: the webhook takes no more events, and they wait.
        assert enabled == (status != 410) and (reason is None) == enabled
        if status == 410:
            waiting = enqueue(conn)
            assert dispatch(conn) == 0 and event(conn, waiting) == "pending"
            conn.execute("UPDATE pgedge.webhooks SET enabled = true")
            assert conn.execute("SELECT disabled_reason FROM pgedge.webhooks").fetchone() == (None,)


def test_no_connection_and_no_answer_in_time(net, receiver):
    with net.connect() as conn:
        hook(conn, "http://127.0.0.1:1/closed")
        hook(conn, receiver.url + "/slow", timeout="300 milliseconds")
        number = enqueue(conn)
        assert dispatch(conn) == 2
        while any(s[1] == "sent" for s in states(conn)):
            reconcile(conn)
        assert [s[1:] for s in states(conn)] == [("pending", 1, None), ("pending", 1, None)]
        assert event(conn, number) == "pending"
        errors = [r[0] for r in conn.execute("SELECT last_error FROM pgedge.webhook_deliveries ORDER BY webhook_id")]
        assert "connect" in errors[0] and "Timeout" in errors[1]
        assert conn.execute("SELECT run_at > now() FROM claude_events").fetchone() == (True,)


def test_a_redirect_is_followed_by_pg_net_and_loses_the_body(net, receiver):
    """As the real one does: the manual warns of it."""
    receiver.answers["/in"] = (302, {"Location": "/elsewhere"})
    with net.connect() as conn:
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "processed")
    (request,) = receiver.at("/elsewhere")
    assert request[0] == "GET" and request[3] == b""


def test_an_address_that_pg_net_refuses_fails_alone(net, receiver):
    with net.connect() as conn:
        hook(conn, receiver.url + "/refused-by-pg-net", max_attempts=1)
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "dead")
        assert [s[1] for s in states(conn)] == ["dead", "delivered"]
        error = conn.execute("SELECT last_error FROM pgedge.webhook_deliveries WHERE state = 'dead'").fetchone()[0]
        assert error == "pg_net refused the request (SQLSTATE XX000)"  # and not its words, which hold the address


# Trying again --------------------------------------------------------------------------------------------------------------------------

def test_retries_keep_their_key_and_end_with_a_success(net, receiver):
    receiver.answers["/in"] = lambda n: 503 if n < 3 else 200
    with net.connect() as conn:
        conn.execute("SET pgedge.retry_base = 0")
        which, number = hook(conn, receiver.url + "/in"), enqueue(conn, max_attempts=1)  # the webhook's attempts count
        work(conn, lambda: event(conn, number) == "processed")
        assert states(conn) == [(which, "delivered", 4, 200)]
        (attempts, history), = conn.execute("SELECT attempts, history FROM claude_events").fetchall()
        assert attempts == 4 and [h["error"] for h in history] == [f"webhook {which}: HTTP 503"] * 3
    requests = receiver.at("/in")
    assert len(requests) == 4 and len({r[2]["Idempotency-Key"] for r in requests}) == 1
    assert all(r[2]["webhook-signature"] == signature(bytes(range(32)), r) for r in requests)


def test_every_call_may_be_the_first_of_its_session(net, receiver):
    """As a scheduler's are; it is a call into the library that declares the settings."""
    receiver.answers["/in"] = lambda n: 503 if n == 0 else 200
    with net.connect() as conn:
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
    end = time.monotonic() + 30
    while net.value("SELECT status FROM claude_events WHERE id = %s", (number,)) != "processed":
        net.sql("SELECT pgedge.dispatch_webhooks()")
        net.sql("SELECT pgedge.reconcile_webhooks()")
        assert time.monotonic() < end
    assert len(receiver.at("/in")) == 2
    with net.connect() as conn:
        fails(conn, "22004", "SELECT pgedge.purge_webhook_deliveries()")


def test_backoff_doubles_up_to_the_cap(db):
    with db.connect() as conn:
        conn.execute("SET pgedge.retry_base = '1 s'; SET pgedge.retry_cap = '1 min'")
        for attempts, longest in ((1, 1), (2, 2), (5, 16), (7, 60), (1000, 60)):
            delays = [r[0].total_seconds() for r in conn.execute("SELECT pgedge._webhook_backoff(%s, NULL) FROM generate_series(1, 50)", (attempts,))]
            assert all(longest / 2 <= d <= longest for d in delays) and len(set(delays)) > 40
        assert conn.execute("SELECT pgedge._webhook_backoff(1, '20 seconds'), pgedge._webhook_backoff(1, '2 days')").fetchone() == (timedelta(seconds=20), timedelta(minutes=1))


def test_retry_after_is_read_in_all_its_forms(db):
    soon = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=100)
    forms = {"seconds": "100", "IMF-fixdate": format_datetime(soon, usegmt=True), "RFC 850": soon.strftime("%A, %d-%b-%y %H:%M:%S GMT"), "asctime": soon.strftime("%a %b ") + f"{soon.day:2d}" + soon.strftime(" %H:%M:%S %Y")}
    with db.connect() as conn:
        conn.execute("SET timezone = 'America/New_York'; SET datestyle = 'SQL, DMY'")
        for form, value in forms.items():
            delay = conn.execute("SELECT pgedge._webhook_retry_after(%s)", (value,)).fetchone()[0]
            assert timedelta(seconds=80) < delay <= timedelta(seconds=101), (form, value, delay)
        past = format_datetime(soon - timedelta(days=1), usegmt=True)
        assert conn.execute("SELECT pgedge._webhook_retry_after(%s), pgedge._webhook_retry_after(' 0 ')", (past,)).fetchone() == (timedelta(0), timedelta(0))
        for nonsense in ("", "soon", "-5", "1.5", "Mon, 99 Foo 2026 10:00:00 GMT", "Mon, 31 Feb 2026 10:00:00 GMT", "infinity", "2026-01-01", "tomorrow", None):
            assert conn.execute("SELECT pgedge._webhook_retry_after(%s)", (nonsense,)).fetchone() == (None,), nonsense
        assert conn.execute("SELECT pgedge._webhook_retry_after(%s) > interval '20 years'", ("9" * 50,)).fetchone() == (True,)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(net, receiver, form):
    wait = 3
    receiver.answers["/in"] = lambda n: (429, {"retry-AFTER": str(wait) if form == "seconds" else format_datetime(datetime.now(timezone.utc) + timedelta(seconds=wait), usegmt=True)}) if n == 0 else 200
    with net.connect() as conn:
        conn.execute("SET pgedge.retry_base = 0")
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "processed")
    first, second = receiver.at("/in")
    assert second[4] - first[4] >= wait - 1.1  # a date has whole seconds


def test_each_webhook_waits_as_long_as_its_receiver_asked(net, receiver):
    """One event, two receivers: the impatient one is not held up, and the patient one not hurried."""
    receiver.answers["/patient"] = lambda n: (503, {"Retry-After": "3"}) if n == 0 else 200
    receiver.answers["/quick"] = lambda n: 503 if n < 3 else 200
    with net.connect() as conn:
        conn.execute("SET pgedge.retry_base = '10 ms'")
        hook(conn, receiver.url + "/patient"), hook(conn, receiver.url + "/quick")
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "processed")
    patient, quick = receiver.at("/patient"), receiver.at("/quick")
    assert len(patient) == 2 and len(quick) == 4
    assert patient[1][4] - patient[0][4] >= 2.9 and quick[3][4] < patient[1][4]


def test_dead_after_max_attempts_and_back_by_redrive(net, receiver):
    receiver.answers["/bad"] = 500
    with net.connect() as conn:
        conn.execute("SET pgedge.retry_base = 0")
        good, bad = hook(conn, receiver.url + "/good"), hook(conn, receiver.url + "/bad", max_attempts=3)
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "dead")
        assert states(conn) == [(good, "delivered", 1, 200), (bad, "dead", 3, 500)]
        assert conn.execute("SELECT last_error FROM claude_events").fetchone() == (f"webhook {bad}: HTTP 500",)
        assert conn.execute("SELECT dead FROM pgedge.queue_stats WHERE event_type = 'mail'").fetchone() == (1,)
        # Finished as it looks, its deliveries are kept: redriving must know who has it.
        assert conn.execute("SELECT pgedge.purge_webhook_deliveries('0')").fetchone() == (0,)
        receiver.answers["/bad"] = 200
        assert conn.execute("SELECT pgedge.redrive_events('mail')").fetchone() == (1,)
        work(conn, lambda: event(conn, number) == "processed")
        assert states(conn) == [(good, "delivered", 1, 200), (bad, "delivered", 1, 200)]
        assert conn.execute("SELECT pgedge.purge_webhook_deliveries('0')").fetchone() == (2,)
    assert len(receiver.at("/good")) == 1 and len({r[2]["webhook-id"] for r in receiver.at("/bad")}) == 1


def test_one_ordering_key_is_delivered_in_order(net, receiver):
    receiver.answers["/in"] = lambda n: 500 if n in (0, 3) else 200
    with net.connect() as conn:
        conn.execute("SET pgedge.retry_base = '100 ms'")
        hook(conn, receiver.url + "/in")
        ids = [enqueue(conn, str(n), ordering_key="k") for n in range(5)]
        work(conn, lambda: all(event(conn, i) == "processed" for i in ids))
    assert [int(r[3]) for r in receiver.at("/in")] == [0, 0, 1, 2, 2, 3, 4]


# Which events ----------------------------------------------------------------------------------------------------------------------------

def test_types_delays_pauses_and_disabled_webhooks(net, receiver):
    with net.connect() as conn:
        both, every = hook(conn, receiver.url + "/both", "{mail,sms}"), hook(conn, receiver.url + "/every", None, enabled=False)
        mail, other, late = enqueue(conn), enqueue(conn, event_type="other"), enqueue(conn, delay=timedelta(hours=1))
        conn.execute("SELECT pgedge.pause_events('sms')")
        sms = enqueue(conn, event_type="sms")
        work(conn, lambda: event(conn, mail) == "processed")
        assert [event(conn, e) for e in (other, late, sms)] == ["pending"] * 3 and {s[0] for s in states(conn)} == {both}
        conn.execute("UPDATE pgedge.webhooks SET enabled = true WHERE id = %s", (every,))
        conn.execute("SELECT pgedge.resume_events('sms')")
        work(conn, lambda: event(conn, other) == event(conn, sms) == "processed")
        assert event(conn, late) == "pending"
    assert len(receiver.at("/both")) == 2 and sorted(r[2]["X-Pgedge-Event-Type"] for r in receiver.at("/every")) == ["other", "sms"]


def test_a_type_with_a_line_break_adds_no_header(net, receiver):
    with net.connect() as conn:
        hook(conn, receiver.url + "/in", None)
        conn.execute("INSERT INTO claude_events (event_type, payload) VALUES (E'a\\r\\nX-Evil: 1', '1')")
        work(conn, lambda: receiver.at("/in"))
    assert not {"X-Evil", "X-Pgedge-Event-Type"} & set(receiver.at("/in")[0][2])


def test_what_others_do_to_the_event_meanwhile(box, receiver):
    """Marked, cancelled, deleted while its request is out: nothing is contradicted and nothing stays behind."""
    with box.connect() as conn:
        hook(conn, receiver.url + "/in")
        marked, cancelled, deleted = (enqueue(conn) for _ in range(3))
        assert dispatch(conn) == 3
        conn.execute("UPDATE claude_events SET status = 'processed' WHERE id = %s", (marked,))
        conn.execute("SELECT pgedge.cancel_events(ARRAY[%s]::bigint[])", (cancelled,))
        conn.execute("DELETE FROM claude_events WHERE id = %s", (deleted,))
        with Sender(box.cluster.dsn(box.name)):
            while any(s[1] == "sent" for s in states(conn)):
                reconcile(conn)
        assert [s[1] for s in states(conn)] == ["delivered"] * 3
        assert [event(conn, marked), event(conn, cancelled)] == ["processed", "cancelled"]
        # An event deleted while it waits for its retry takes its delivery along.
        receiver.answers["/in"] = 500
        waiting = enqueue(conn)
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: states(conn)[-1][1] == "pending")
        conn.execute("DELETE FROM claude_events WHERE id = %s", (waiting,))
        conn.execute("UPDATE pgedge._webhook_deliveries SET check_at = now() - interval '1 second' WHERE live")
        reconcile(conn)
        assert states(conn)[-1][1] == "cancelled"
        assert conn.execute("SELECT pgedge.purge_webhook_deliveries('0')").fetchone() == (4,)


def test_an_id_that_comes_again_is_another_event(net, receiver):
    with net.connect() as conn:
        receiver.answers["/in"] = lambda n: 200 if n != 1 else 500
        hook(conn, receiver.url + "/in")
        first = enqueue(conn)
        work(conn, lambda: event(conn, first) == "processed")
        second = enqueue(conn)
        work(conn, lambda: states(conn)[-1][1] == "pending")  # live: waits for its retry
        conn.execute("TRUNCATE claude_events RESTART IDENTITY")
        again = [enqueue(conn), enqueue(conn)]
        assert again == [first, second]
        work(conn, lambda: all(event(conn, e) == "processed" for e in again))
        assert sorted(s[1] for s in states(conn)) == ["cancelled", "delivered", "delivered", "delivered"]
    assert len(receiver.at("/in")) == 4 and len({r[2]["webhook-id"] for r in receiver.at("/in")}) == 4


def test_a_webhook_deleted_or_disabled_on_the_way(box, receiver):
    with box.connect() as conn:
        gone, stays = hook(conn, receiver.url + "/gone"), hook(conn, receiver.url + "/stays")
        number = enqueue(conn)
        assert dispatch(conn) == 2
        conn.execute("DELETE FROM pgedge.webhooks WHERE id = %s", (gone,))
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: event(conn, number) == "processed")
        assert [s[:2] for s in states(conn)] == [(gone, "cancelled"), (stays, "delivered")]
    assert not receiver.at("/gone")


def queued(conn) -> list[str]:
    return [r[0].rsplit("/", 1)[1] for r in conn.execute("SELECT url FROM net.http_request_queue ORDER BY id").fetchall()]


def leased(conn) -> list[int]:
    return [r[0] for r in conn.execute("SELECT id FROM pgedge.event_leases ORDER BY id").fetchall()]


GOING = ["DELETE FROM pgedge.webhooks WHERE id = {id}", "UPDATE pgedge.webhooks SET id = 1000 WHERE id = {id}", "TRUNCATE pgedge.webhooks", "DELETE FROM pgedge.webhooks"]


@pytest.mark.parametrize("how", GOING)
def test_a_webhook_that_goes_gives_its_events_back_at_once(box, receiver, how):
    with box.connect() as conn:
        which = hook(conn, receiver.url + "/gone")
        ids = [enqueue(conn) for _ in range(3)]
        assert dispatch(conn) == 3 and leased(conn) == ids and queued(conn) == ["gone"] * 3
        # Undone with its transaction.
        with conn.transaction(force_rollback=True):
            conn.execute(how.format(id=which))
            assert queued(conn) == []
        assert leased(conn) == ids and queued(conn) == ["gone"] * 3 and [s[1] for s in states(conn)] == ["sent"] * 3
        conn.execute(how.format(id=which))
        assert leased(conn) == [] and queued(conn) == []
        assert conn.execute("SELECT DISTINCT webhook_id, state, last_error, finished_at IS NOT NULL, next_attempt_at FROM pgedge.webhook_deliveries").fetchall() == [
            (which, "cancelled", "the webhook is gone", True, None)]
        assert conn.execute("SELECT count(*) FROM pgedge._webhook_deliveries WHERE live OR lease_token IS NOT NULL").fetchone() == (0,)
        # As if no attempt had been made: to a worker, or to another webhook.
        rows = conn.execute("SELECT id, attempt, lease_token FROM pgedge.claim_events(1)").fetchall()
        assert rows[0][:2] == (ids[0], 1)
        assert conn.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (ids[0], rows[0][2])).fetchall() == [(ids[0],)]
        conn.execute("DELETE FROM pgedge.webhooks")
        hook(conn, receiver.url + "/next")
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: all(event(conn, i) == "processed" for i in ids))
        assert conn.execute("SELECT pgedge.purge_webhook_deliveries('0')").fetchone() == (5,)
    assert len(receiver.at("/next")) == 2 and not receiver.at("/gone")


def test_a_webhook_that_goes_leaves_the_others_what_they_do(box, receiver):
    """By what the other webhook of the event has come to."""
    with box.connect() as conn, box.connect() as worker:
        gone, stays = hook(conn, receiver.url + "/gone", max_attempts=1), hook(conn, receiver.url + "/stays")
        receiver.answers["/stays"] = 500
        conn.execute("SET pgedge.retry_base = '1 h'")
        waits = enqueue(conn)  # the other one is to be tried again, this one is at pg_net
        assert dispatch(conn) == 2
        conn.execute("UPDATE net.http_request_queue SET url = url || '?later' WHERE url LIKE '%%/gone'")
        conn.execute("CREATE TABLE later AS WITH d AS (DELETE FROM net.http_request_queue WHERE url LIKE '%%?later' RETURNING *) TABLE d")
        with Sender(box.cluster.dsn(box.name)):
            answered(conn)
        conn.execute("INSERT INTO net.http_request_queue TABLE later")
        receiver.answers["/gone"] = 404
        receiver.answers["/stays"] = 200
        both = enqueue(conn)  # this one has failed, the other has it: dead
        assert dispatch(conn) == 2
        conn.execute("TRUNCATE later; INSERT INTO later SELECT * FROM net.http_request_queue WHERE id = (SELECT min(id) FROM net.http_request_queue)")
        with worker.transaction():
            worker.execute("SELECT FROM net.http_request_queue WHERE id IN (SELECT id FROM later) FOR UPDATE")  # on its way
            conn.execute("DELETE FROM net.http_request_queue WHERE id NOT IN (SELECT id FROM later)")
            conn.execute("INSERT INTO net._http_response (id, status_code) SELECT request_id, CASE webhook_id WHEN %s THEN 404 ELSE 200 END FROM pgedge._webhook_deliveries WHERE event_id = %s", (gone, both))
            assert reconcile(conn) == (1, 0, 1) and event(conn, both) == "dead" and event(conn, waits) == "pending" and leased(conn) == [waits]
            conn.execute("DELETE FROM pgedge.webhooks WHERE id = %s", (gone,))
            assert leased(conn) == [], "its round is over"
            assert conn.execute("SELECT status, attempts, run_at > now() + interval '20 min', last_error FROM claude_events WHERE id = %s", (waits,)).fetchone() == ("pending", 1, True, f"webhook {stays}: HTTP 500")
            assert conn.execute("SELECT event_id, webhook_id, state, last_error FROM pgedge.webhook_deliveries ORDER BY event_id, webhook_id").fetchall() == [
                (waits, gone, "cancelled", "the webhook is gone; the request may have been sent"), (waits, stays, "pending", "HTTP 500"),
                (both, gone, "dead", "HTTP 404"), (both, stays, "delivered", None)]
            assert queued(conn) == ["gone?later"], "pg_net is at it"
        conn.execute("DELETE FROM net.http_request_queue; SELECT pgedge.redrive_events()")
        conn.execute("UPDATE claude_events SET run_at = NULL; UPDATE pgedge._webhook_deliveries SET retry_at = NULL")
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: event(conn, waits) == event(conn, both) == "processed")
    assert len(receiver.at("/stays")) == 2, "what it had is not sent again"


def test_deleting_a_webhook_needs_no_pg_net_and_waits_for_nobody_for_long(box, receiver):
    with box.connect() as conn, box.connect() as other:
        gone, kept = hook(conn, receiver.url + "/gone"), hook(conn, receiver.url + "/kept", types="{sms}")
        number = enqueue(conn)
        assert dispatch(conn) == 1
        conn.execute("CREATE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''spied''; END'; CREATE TRIGGER spy BEFORE DELETE ON net.http_request_queue FOR EACH ROW EXECUTE FUNCTION public.spy()")
        notices = []
        conn.add_notice_handler(lambda d: notices.append(d.message_primary))
        conn.execute("DELETE FROM pgedge.webhooks WHERE id = %s", (gone,))
        assert len(notices) == 1 and "stay at pg_net" in notices[0] and "trigger spy" in notices[0]
        assert leased(conn) == [] and [s[1] for s in states(conn)] == ["cancelled"] and event(conn, number) == "pending"
        conn.execute("DROP EXTENSION pg_net")
        conn.execute("DELETE FROM pgedge.webhooks WHERE id = %s", (kept,))
        # A deletion that did not see what was sent: the next reconciliation ends it.
        conn.execute("CREATE EXTENSION pg_net")
        gone = hook(conn, receiver.url + "/gone")
        conn.execute("ALTER TABLE pgedge.webhooks DISABLE TRIGGER gone")
        assert dispatch(conn) == 1
        conn.execute("DELETE FROM pgedge.webhooks WHERE id = %s", (gone,))
        assert leased(conn) == [number]
        conn.execute("ALTER TABLE pgedge.webhooks ENABLE ALWAYS TRIGGER gone")
        assert reconcile(conn) == (0, 0, 0)
        assert leased(conn) == [] and queued(conn) == [] and {s[1] for s in states(conn)} == {"cancelled"}
        # A reconciliation that is under way is waited for; another meanwhile does nothing.
        gone = hook(conn, receiver.url + "/gone")
        assert dispatch(conn) == 1
        with other.transaction():
            other.execute("SELECT FROM pgedge._webhook_epoch FOR UPDATE")
            conn.execute("SET lock_timeout = '100 ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                conn.execute("DELETE FROM pgedge.webhooks")
        conn.execute("SET lock_timeout = 0")
        with conn.transaction():
            conn.execute("DELETE FROM pgedge.webhooks")
            assert reconcile(other) == (0, 0, 0)
        assert leased(conn) == []


# What is lost at pg_net -----------------------------------------------------------------------------------------------------------------

LOSSES = {
    "crash": "TRUNCATE pgedge._webhook_epoch, net.http_request_queue, net._http_response; ALTER SEQUENCE net.http_request_queue_id_seq RESTART",
    "created anew": "DROP EXTENSION pg_net; CREATE EXTENSION pg_net",
    "ids restarted": "TRUNCATE net.http_request_queue RESTART IDENTITY",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_requests_lost_with_the_queue_are_repeated(box, receiver, loss):
    with box.connect() as conn:
        which, number = hook(conn, receiver.url + "/in"), enqueue(conn)
        assert dispatch(conn) == 1
        conn.execute(LOSSES[loss])
        # Another's request takes the same id and succeeds: no answer of ours.
        other = conn.execute("SELECT net.http_post(%s)", (receiver.url + "/other",)).fetchone()[0]
        assert other == 1
        conn.execute("INSERT INTO net._http_response (id, status_code) VALUES (1, 200)")
        assert reconcile(conn) == (0, 1, 0)
        assert states(conn) == [(which, "pending", 0, None)] and event(conn, number) == "pending"
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: event(conn, number) == "processed")
        assert states(conn) == [(which, "delivered", 1, 200)]
    assert len(receiver.at("/in")) == 1


def pass_deadline(conn) -> None:
    conn.execute("UPDATE pgedge._webhook_deliveries SET deadline = now() - interval '1 second' WHERE state = 'sent'")


def test_an_answer_that_pg_net_has_forgotten(box, receiver):
    """pg_net.ttl is over before anybody looked."""
    with box.connect() as conn:
        conn.execute("SET pgedge.retry_base = 0")
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        assert dispatch(conn) == 1
        conn.execute("DELETE FROM net.http_request_queue")
        assert reconcile(conn) == (0, 0, 0)  # it may still come
        pass_deadline(conn)
        assert reconcile(conn) == (0, 1, 0)
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: event(conn, number) == "processed")


def test_a_request_that_nobody_sends_is_taken_back_and_one_under_way_is_not(box, receiver):
    with box.connect() as conn, box.connect() as worker:
        which = hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        assert dispatch(conn) == 1
        with worker.transaction():
            worker.execute("DELETE FROM net.http_request_queue")
            pass_deadline(conn)
            assert reconcile(conn) == (0, 0, 0)
            assert states(conn) == [(which, "sent", 1, None)] and event(conn, number) == "pending"
            assert conn.execute("SELECT count(*) FROM pgedge.event_leases WHERE lease_expires_at > now() + interval '9 minutes'").fetchone() == (1,)
            raise psycopg.Rollback
        pass_deadline(conn)
        assert reconcile(conn) == (0, 1, 0)
        assert states(conn) == [(which, "pending", 0, None)]
        assert conn.execute("SELECT count(*) FROM net.http_request_queue").fetchone() == (0,)
        # So the signature is a fresh one when it is sent at last, and it is sent once.
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: event(conn, number) == "processed")
    assert len(receiver.at("/in")) == 1


def test_a_lease_that_ends_sends_nothing_twice(box, receiver):
    """The scheduler slept; or the server was restarted, which takes all leases."""
    with box.connect() as conn:
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        assert dispatch(conn) == 1
        conn.execute("SELECT pgedge.release_events(ARRAY[id], lease_token) FROM pgedge.event_leases")
        assert dispatch(conn) == 0  # taken over as it is
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: event(conn, number) == "processed")
    assert len(receiver.at("/in")) == 1


def test_a_rolled_back_dispatch_sends_nothing(net, receiver):
    with net.connect() as conn:
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        with conn.transaction(force_rollback=True):
            assert dispatch(conn) == 1
        time.sleep(0.2)
        assert not receiver.requests and states(conn) == []
        work(conn, lambda: event(conn, number) == "processed")
    assert len(receiver.at("/in")) == 1


def test_dispatchers_side_by_side_send_once(net, receiver):
    n, failures = 400, []
    with net.connect() as conn:
        hook(conn, receiver.url + "/in")
        conn.execute("SELECT count(*) FROM pgedge.enqueue_events('mail', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, %s) i))", (n,))
        done = threading.Event()

        def turns():
            try:
                with net.connect() as mine:
                    while not done.is_set():
                        mine.execute("SELECT pgedge.dispatch_webhooks(7)")
                        mine.execute("SELECT pgedge.reconcile_webhooks()")
            except psycopg.Error as problem:
                failures.append(problem)

        threads = [threading.Thread(target=turns) for _ in range(6)]
        [t.start() for t in threads]
        end = time.monotonic() + 90
        while conn.execute("SELECT count(*) FROM claude_events WHERE status = 'processed'").fetchone()[0] < n and time.monotonic() < end and not failures:
            time.sleep(0.1)
        done.set()
        [t.join() for t in threads]
        assert not failures
        assert conn.execute("SELECT count(*) FROM claude_events WHERE status = 'processed'").fetchone() == (n,)
    assert sorted(int(r[3]) for r in receiver.at("/in")) == list(range(1, n + 1))


def test_no_more_than_asked_for_is_in_flight(box, receiver):
    with box.connect() as conn:
        hook(conn, receiver.url + "/in")
        conn.execute("SELECT count(*) FROM pgedge.enqueue_events('mail', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 50) i))")
        sent = [conn.execute("SELECT pgedge.dispatch_webhooks(%s, %s)", a).fetchone()[0] for a in ((10, 25), (100, 25), (100, 25), (100, 1000))]
        assert sent == [10, 15, 0, 25]


def test_an_idle_turn_writes_nothing(net, receiver):
    with net.connect() as conn:
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "processed")
        dispatch(conn), reconcile(conn)
        for call in ("dispatch_webhooks", "reconcile_webhooks"):
            with conn.transaction():
                conn.execute(f"SELECT pgedge.{call}()")
                assert conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,), call
