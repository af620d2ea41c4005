"""Webhooks: crashes, the background worker, who may see what, and what is refused."""
from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import psycopg
import pytest

from cluster import Cluster
from conftest import Database, create_database
from pg_net import Receiver, Sender
from support import fails, reconnect, start_standby
from test_ops import drop_role, health, role
from test_webhooks import PROTECT, SECRET, box, dispatch, enqueue, event, hook, net, receiver, reconcile, stand_in, states, work  # noqa: F401


# Crashes -------------------------------------------------------------------------------------------------------------------------------

def test_everything_arrives_although_the_server_is_killed_twice(fresh_cluster, receiver):
    n = 300
    with psycopg.connect(fresh_cluster.dsn(), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION pgedge CASCADE; CREATE EXTENSION pg_net")
        conn.execute("ALTER SYSTEM SET pgedge.retry_base = '50 ms'")
        conn.execute("SELECT pg_reload_conf()")
        receiver.answers["/in"] = lambda k: 503 if k % 10 == 9 else 200
        hook(conn, receiver.url + "/in")
        conn.execute("SELECT count(*) FROM pgedge.enqueue_events('mail', ARRAY(SELECT to_jsonb(i) FROM generate_series(1, %s) i))", (n,))
    kills, highest, restarted = 0, 0, 0
    end = time.monotonic() + 120
    conn = reconnect(fresh_cluster)
    with Sender(fresh_cluster.dsn(), batch=20, pause=0.05):
        while conn.execute("SELECT count(*) FROM claude_events WHERE status = 'processed'").fetchone()[0] < n:
            assert time.monotonic() < end, states(conn)[:5]
            conn.execute("SELECT pgedge.dispatch_webhooks(40)")
            reconcile(conn)
            last = conn.execute("SELECT last_value FROM net.http_request_queue_id_seq").fetchone()[0]
            restarted += last < highest
            highest = last
            # Between a post and its answer: requests of ours are at pg_net.
            if kills < 2 and len(receiver.requests) > (kills + 1) * 80 and conn.execute("SELECT count(*) FROM net.http_request_queue").fetchone()[0] > 0:
                kills += 1
                fresh_cluster.kill_postmaster()
                conn.close()
                fresh_cluster.start()
                conn = reconnect(fresh_cluster)
    assert kills == restarted == 2
    assert {int(r[3]) for r in receiver.at("/in")} == set(range(1, n + 1))
    # The same message has the same key, whatever happened, and nothing is left over.
    keys: dict[int, set] = {}
    for r in receiver.at("/in"):
        keys.setdefault(int(r[3]), set()).add(r[2]["Idempotency-Key"])
    assert all(len(k) == 1 for k in keys.values()) and len(set().union(*keys.values())) == n
    assert conn.execute("SELECT count(*), count(*) FILTER (WHERE state = 'delivered'), count(*) FILTER (WHERE live) FROM pgedge._webhook_deliveries").fetchone() == (n, n, 0)
    conn.close()


# The background worker ------------------------------------------------------------------------------------------------------------------

WORKER = {"shared_preload_libraries": "pgedge", "pgedge.webhook_database": "postgres", "pgedge.webhook_interval": "100ms"}
IS_WORKER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgedge webhooks'"


def eventually(condition, seconds: float = 40):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return result


def test_the_worker_does_it_by_itself(receiver):
    with Cluster({**WORKER, "wal_level": "replica"}) as cluster:
        db = Database(cluster, "postgres")
        pid = eventually(lambda: db.value(IS_WORKER))  # there is nothing for it to do, and it does not mind
        db.sql("CREATE EXTENSION pgedge CASCADE")
        db.sql("CREATE EXTENSION pg_net")
        with db.connect() as conn, Sender(cluster.dsn()):
            hook(conn, receiver.url + "/in")
            first = enqueue(conn)
            eventually(lambda: event(conn, first) == "processed")
            assert db.value(IS_WORKER) == pid
            # Ended, and after an error, it comes back.
            conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
            pid = eventually(lambda: (p := db.value(IS_WORKER)) and p != pid and p)
            conn.execute("CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
            conn.execute("CREATE TRIGGER never BEFORE INSERT ON net.http_request_queue FOR EACH STATEMENT EXECUTE FUNCTION never()")
            second = enqueue(conn)
            eventually(lambda: db.value(IS_WORKER) != pid)
            conn.execute("DROP FUNCTION never() CASCADE")
            eventually(lambda: event(conn, second) == "processed")
            # kill -9 of the whole server.
            third = enqueue(conn, delay="3 seconds")
            conn.commit()
            cluster.kill_postmaster()
            cluster.start()
            with reconnect(cluster) as again:
                eventually(lambda: event(again, third) == "processed")
        # A standby has no worker until it is promoted.
        standby = start_standby(cluster)
        try:
            there = Database(standby, "postgres")
            with there.connect() as conn:
                time.sleep(1)
                assert conn.execute(IS_WORKER).fetchall() == []
                for call in ("dispatch_webhooks", "reconcile_webhooks", "purge_webhook_deliveries"):
                    fails(conn, "25006", f"SELECT pgedge.{call}({'interval $$1 day$$' if call.startswith('purge') else ''})")
                assert health(there)["webhooks"][0] in ("ok", "warning", "critical")
                cluster.stop("immediate")
                conn.execute("SELECT pg_promote()")
                eventually(lambda: conn.execute(IS_WORKER).fetchall())
                with Sender(standby.dsn()):
                    fourth = enqueue(conn)
                    eventually(lambda: event(conn, fourth) == "processed")
        finally:
            standby.destroy()
    assert len(receiver.at("/in")) >= 4


def test_the_worker_does_not_run_what_is_not_pgedges():
    """A schema of that name in a database without the extension, and a setting that would find other operators."""
    with Cluster(WORKER) as cluster:
        cluster.psql("CREATE TABLE ran (by text)")
        cluster.psql("CREATE SCHEMA pgedge")
        for name, result in (("_webhook_has_work", "boolean"), ("dispatch_webhooks", "bigint"), ("reconcile_webhooks", "bigint")):
            cluster.psql(f"CREATE FUNCTION pgedge.{name}() RETURNS {result} LANGUAGE sql AS $$ INSERT INTO public.ran VALUES (current_user); SELECT 1::{'int::' if result == 'boolean' else ''}{result} $$")
        time.sleep(1)
        assert cluster.psql("SELECT count(*) FROM ran") == "0"
        # And it leaves the server's shutdown alone.
        cluster.stop("fast")
        cluster.start()
        eventually(lambda: cluster.psql(IS_WORKER))


def test_without_preloading_nothing_needs_it(db):
    assert db.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgedge webhooks'") == 0
    with db.connect() as conn:
        conn.execute("SELECT pgedge.enqueue_event('e', '{}')")  # loads the library
        assert conn.execute("SHOW pgedge.webhook_database").fetchone() == ("",)
        assert conn.execute("SHOW pgedge.webhook_interval").fetchone() == ("1s",)


# Without pg_net, or with something else in its place ---------------------------------------------------------------------------------------

def test_without_pg_net(db):
    with db.connect() as conn:
        hook(conn, "http://127.0.0.1:1/")
        enqueue(conn)
        for call in ("dispatch_webhooks", "reconcile_webhooks"):
            error = fails(conn, "55000", f"SELECT pgedge.{call}()")
            assert "pg_net" in str(error) and "CREATE EXTENSION pg_net" in error.diag.message_hint
        assert event(conn, 1) == "pending" and health(db)["webhooks"][0] == "critical"
    with db.connect() as conn:
        conn.read_only, conn.autocommit = True, False
        fails(conn, "25006", "SELECT pgedge.dispatch_webhooks()")


TRESPASS = "CREATE FUNCTION public.trespass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE ' || quote_ident(TG_ARGV[0]) || ' SUPERUSER'; RETURN NEW; END $$"


def test_a_schema_net_of_somebody_else_gets_nothing(db):
    mallory = role(db, "mallory", f'GRANT CREATE ON DATABASE "{db.name}" TO {{role}}')
    with db.connect() as conn:
        hook(conn, "http://127.0.0.1:1/")
        number = enqueue(conn)
        with db.connect(mallory) as theirs:
            theirs.execute("CREATE SCHEMA net")
            theirs.execute("CREATE TABLE net.http_request_queue (id bigserial, method text, url text, headers jsonb, body bytea, timeout_milliseconds int)")
            theirs.execute("CREATE TABLE net._http_response (id bigint, status_code int, headers jsonb, timed_out boolean, error_msg text, created timestamptz)")
            theirs.execute("CREATE FUNCTION net.http_post(url text, body jsonb, params jsonb, headers jsonb, timeout_milliseconds int) RETURNS bigint LANGUAGE plpgsql AS"
                           f" $$ BEGIN EXECUTE 'ALTER ROLE \"{mallory}\" SUPERUSER'; RETURN 1; END $$")
            fails(conn, "55000", "SELECT pgedge.dispatch_webhooks()")
            # Not even where some extension is called pg_net: its members count.
            conn.execute("INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) VALUES (999998, 'pg_net', 10, 'public'::regnamespace, false, '0')")
            error = fails(conn, "55000", "SELECT pgedge.dispatch_webhooks()")
            assert "not those of the extension" in str(error)
            conn.execute("DELETE FROM pg_extension WHERE oid = 999998")
        assert event(conn, number) == "pending" and conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (mallory,)).fetchone() == (False,)
    drop_role(db, mallory)


@pytest.mark.parametrize("table", ["http_request_queue", "_http_response"])
def test_a_trigger_on_pg_nets_tables_never_runs(box, table):  # noqa: F811
    """pg_net gives every role the right to create one, and it would run as whoever inserts, a superuser here."""
    mallory = role(box, "mallory", "GRANT CREATE ON SCHEMA public TO {role}")
    with box.connect() as conn:
        hook(conn, "http://127.0.0.1:1/")
        number = enqueue(conn)
        if table == "_http_response":
            assert dispatch(conn) == 1
        with box.connect(mallory) as theirs:
            theirs.execute(TRESPASS)
            theirs.execute(f"CREATE TRIGGER x BEFORE INSERT OR DELETE ON net.{table} FOR EACH ROW EXECUTE FUNCTION trespass('{mallory}')")
        for call in ("dispatch_webhooks", "reconcile_webhooks"):
            error = fails(conn, "42501", f"SELECT pgedge.{call}()")
            assert "trigger x" in str(error) and "REVOKE" in error.diag.message_hint
        assert event(conn, number) == "pending"
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (mallory,)).fetchone() == (False,)
        conn.execute(f"DROP TRIGGER x ON net.{table}")
        dispatch(conn)
        # Nor can one be put there between the look and the insert.
        with conn.transaction():
            dispatch(conn), reconcile(conn)
            with box.connect(mallory) as theirs:
                theirs.execute("SET lock_timeout = '200 ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    theirs.execute(f"CREATE TRIGGER x BEFORE INSERT ON net.{table} FOR EACH ROW EXECUTE FUNCTION trespass('{mallory}')")
    drop_role(box, mallory)


# Secrets -------------------------------------------------------------------------------------------------------------------------------

def test_nobody_else_sees_a_secret(net, receiver):  # noqa: F811
    reader, service, monitor = role(net, "reader"), role(net, "service"), role(net, "monitor", "GRANT pg_monitor TO {role}")
    net.sql("SELECT pgedge.grant_reader(%s)", (reader,))
    kinds = [r[0] for r in net.sql("SELECT kind FROM pgedge._service_kinds()")]
    net.sql("SELECT pgedge.grant_service(%s, VARIADIC %s)", (service, kinds))
    with net.connect() as conn:
        conn.execute("SET log_statement = 'all'; SET log_min_duration_statement = 0; SET log_parameter_max_length = -1; SET client_min_messages = debug1; SET log_min_messages = debug1")
        which = conn.execute("INSERT INTO pgedge.webhooks (event_types, url, headers) VALUES ('{mail}', $1, jsonb_build_object('X-Api-Key', encode(sha256('x'), 'hex'))) RETURNING id"
                             .replace("$1", f"'{receiver.url}/in'")).fetchone()[0]
        secret, header = conn.execute("SELECT secret, headers ->> 'X-Api-Key' FROM pgedge.webhooks").fetchone()
        notices = []
        conn.add_notice_handler(lambda d: notices.append(str(d.message_primary) + str(d.context)))
        number = enqueue(conn)
        # pg_net lets everyone read its queue: such a request is not put there, and says why without saying what.
        error = fails(conn, "42501", "SELECT pgedge.dispatch_webhooks()")
        assert f"webhook {which} " in str(error) and PROTECT in error.diag.message_hint
        assert event(conn, number) == "pending" and conn.execute("SELECT count(*) FROM net.http_request_queue").fetchone() == (0,)
        conn.execute(PROTECT)
        work(conn, lambda: event(conn, number) == "processed")
        dispatch(conn)
        log = Path(net.cluster.log).read_text()
        assert "SELECT pgedge.dispatch_webhooks()" in log
        told = " ".join(notices) + log + "".join(str(r) for r in conn.execute("SELECT * FROM pgedge.webhook_deliveries")) + str(conn.execute("SELECT * FROM claude_events").fetchall())
        assert secret not in told and header not in told and secret[6:] not in told
    (request,) = receiver.at("/in")
    assert request[2]["X-Api-Key"] == header and secret not in str(request)
    for user in (reader, service, monitor):
        with net.connect(user) as conn:
            for query in ("SELECT * FROM pgedge.webhooks", "SELECT secret FROM pgedge.webhooks", "SELECT headers FROM pgedge.webhooks", "SELECT url FROM pgedge.webhooks", "TABLE pgedge._webhook_deliveries",
                          "TABLE pgedge._webhook_epoch", "SELECT pgedge.rotate_webhook_secret(1)", "UPDATE pgedge.webhooks SET secret = NULL", "DELETE FROM pgedge.webhooks",
                          "INSERT INTO pgedge.webhooks (url) VALUES ('http://h/')", "SELECT * FROM net.http_request_queue", "SELECT * FROM net._http_response",
                          "SELECT pgedge._webhook_net_post('http://h/', '1', '{}', 1)", "SELECT * FROM pgedge._webhook_net_answers('{1}', '{now}')", "SELECT pgedge._webhook_signature('a', 'b', 1, 'c')"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(query)
    with net.connect(reader) as conn:
        assert len(conn.execute("SELECT * FROM pgedge.webhook_deliveries").fetchall()) == 1
    with net.connect(service) as conn:
        number = enqueue(conn)
        work(conn, lambda: event(conn, number) == "processed")  # a dispatcher needs no more
    for user in (reader, service, monitor):
        drop_role(net, user)


REFUSED = [  # column, value, SQLSTATE, what the message holds
    ("url", None, "22004", "url"), ("url", "", "22023", "url"), ("url", "ftp://h/", "22023", "ftp"), ("url", "file:///etc/passwd", "22023", "file"), ("url", "javascript:alert(1)", "22023", "http"),
    ("url", "//h/x", "22023", "http"), ("url", "http://", "22023", "well formed"), ("url", "http://h h/", "22023", "well formed"), ("url", "http://h/a b", "22023", "well formed"),
    ("url", "http://h/\r\nX: 1", "22023", "well formed"), ("url", "http://ü.example/", "22023", "well formed"), ("url", "http://u:p4ss@h/", "22023", "user name"), ("url", "http://h:99999999/", "22023", "port"),
    ("url", "http://h/" + "t0ken" * 500, "22001", "too long"), ("url", "ftp://u:p4ss@h/", "22023", '"ftp:…"'), ("url", "u:p4ss@h", "22023", "neither"), ("url", "http:/u:p4ss@h/", "22023", '"http:…"'),
    ("url", "http://u:p4ss#@h/", "22023", '"http:…"'), ("url", "http://u:p4ss", "22023", '"http://u…"'), ("url", "https://h:p4ss/", "22023", '"https://h…"'), ("url", SECRET, "22023", "neither"),
    ("url", "t0ken", "22023", "neither"), ("url", "http://[t0ken", "22023", "well formed"), ("url", "http://u@p4ss:1:2/", "22023", "user name"), ("url", "HTTP://h%20t0ken/", "22023", '"HTTP://h…"'),
    ("url", "http://h:0/", "22023", 'port: "http://h:0…"'), ("url", "http://h:00000", "22023", "port"), ("url", "https://h:65536/x", "22023", 'port: "https://h:65536…"'), ("url", "http://[::1]:70000?q", "22023", "port"),
    ("url", "http://h:4294967297/", "22023", "port"), ("url", "http://h:" + "9" * 60, "22023", "port"), ("url", "http://h:-1/", "22023", "well formed"), ("url", "http://h:/", "22023", "well formed"), ("url", "http://h:80x/", "22023", "well formed"),
    ("id", None, "22004", "id"), ("created_at", None, "22004", "created_at"), ("headers", json.dumps({f"X-{n}": "t0ken" * 800 for n in range(4)}), "22001", "too long"),
    ("headers", "null", "22023", "object"), ("headers", "[]", "22023", "object"), ("headers", '{"A": 1}', "22023", "number"), ("headers", '{"A": null}', "22023", "null"), ("headers", '{"A b": "x"}', "22023", "A b"),
    ("headers", '{"": "x"}', "22023", "name"), ("headers", '{"A": "t0ken\\r\\nB: c"}', "22023", '"A"'), ("headers", '{"A": "t0ken\\n"}', "22023", '"A"'), ("headers", '{"A": " "}', "22023", '"A"'),
    ("headers", '{"A\\r\\nB": "x"}', "22023", "name"), ("headers", '{"a": "x", "A": "y"}', "22023", "twice"), ("headers", '{"content-type": "text/plain"}', "22023", "content-type"),
    ("headers", '{"Webhook-Signature": "x"}', "22023", "Webhook-Signature"), ("headers", '{"HOST": "x"}', "22023", "HOST"), ("headers", '{"Idempotency-Key": "x"}', "22023", "Idempotency-Key"), ("headers", None, "22004", "headers"),
    ("secret", "", "22023", "secret"), ("secret", "t0ken", "22023", "secret"), ("secret", "whsec_", "22023", "secret"), ("secret", "whsec_t0ken", "22023", "secret"), ("secret", "whsec_" + "A" * 31 + "!", "22023", "secret"),
    ("secret", "whsec_" + base64.b64encode(b"x" * 23).decode(), "22023", "secret"), ("secret", "whsec_" + base64.b64encode(b"x" * 65).decode(), "22023", "secret"), ("secret", SECRET + "  " + SECRET, "22023", "secret"),
    ("secret", SECRET + " t0ken", "22023", "secret"), ("secret", " ".join([SECRET] * 6), "22023", "5 keys"), ("secret", SECRET + "\n", "22023", "secret"),
    ("event_types", "{}", "22023", "event_types"), ("event_types", "{NULL}", "22004", "event_types"), ("event_types", '{""}', "22023", "type"), ("event_types", "{{a},{b}}", "22023", "event_types"),
    ("event_types", "{" + "x" * 51 + "}", "22023", "xxx"),
    ("timeout", "0", "22023", "timeout"), ("timeout", "-1 s", "22023", "timeout"), ("timeout", "1 hour", "22023", "timeout"), ("timeout", None, "22004", "timeout"),
    ("max_attempts", 0, "22003", "max_attempts"), ("max_attempts", 1001, "22003", "max_attempts"), ("max_attempts", None, "22004", "max_attempts"), ("enabled", None, "22004", "enabled"), ("envelope", None, "22004", "envelope"),
]


def test_what_cannot_be_a_webhook_is_refused_and_not_shown(db):
    with db.connect() as conn:
        kept = hook(conn, "http://h/")
        log = Path(db.cluster.log)
        before = len(log.read_text())
        for column, value, code, part in REFUSED:
            columns = {"url": "https://h/x", "secret": SECRET, column: value}
            insert = f"INSERT INTO pgedge.webhooks ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
            for query, values in ((insert, list(columns.values())), (f"UPDATE pgedge.webhooks SET {column} = %s", [value])):
                error = fails(conn, code, query, values)
                said = f"{error} {error.diag.message_detail} {error.diag.message_hint} {error.diag.context}"
                assert part in str(error), (column, value, str(error))
                assert SECRET not in said and "t0ken" not in said and "p4ss" not in said, said
        # Every constraint of the table is seen to before PostgreSQL would show the row; nor does the log get the statement.
        for column in [r[0] for r in conn.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'pgedge.webhooks'::regclass AND attnotnull AND attnum > 0")]:
            assert column in {r[0] for r in REFUSED if r[1] is None}, column
        assert conn.execute("SELECT count(*) FROM pg_constraint WHERE conrelid = 'pgedge.webhooks'::regclass AND contype NOT IN ('p', 'n')").fetchone() == (0,)
        for literal in (f"INSERT INTO pgedge.webhooks (url, secret) VALUES ('nowhere', '{SECRET}')", f"UPDATE pgedge.webhooks SET secret = '{SECRET} t0ken'"):
            fails(conn, "22023", literal)
        conn.execute("SET log_parameter_max_length_on_error = -1")
        fails(conn, "22023", "INSERT INTO pgedge.webhooks (url, secret) VALUES ('http://h/', %s)", (SECRET + " t0ken",))
        told = log.read_text()[before:]
        assert "url is neither http nor https" in told and "secret is not usable as a key" in told
        assert SECRET not in told and "t0ken" not in told and "p4ss" not in told
        assert conn.execute("SELECT count(*), min(url), min(secret) FROM pgedge.webhooks").fetchone() == (1, "http://h/", SECRET)
        # A row that an earlier version let in can still be changed and disabled.
        conn.execute("ALTER TABLE pgedge.webhooks DISABLE TRIGGER checked; UPDATE pgedge.webhooks SET url = 'http://h:70000/'; ALTER TABLE pgedge.webhooks ENABLE ALWAYS TRIGGER checked")
        conn.execute("UPDATE pgedge.webhooks SET enabled = false; UPDATE pgedge.webhooks SET enabled = true, url = 'http://h:65535/'")
        for url in ("http://h", "HTTPS://H.example:8443/a?b=c#d", "http://127.0.0.1:1/", "http://[::1]:80/x", "http://a-b_c/%C3%BC?x=@"):
            conn.execute("UPDATE pgedge.webhooks SET url = %s WHERE id = %s", (url, kept))
        # What PostgreSQL itself refuses comes after the trigger, and shows the key alone.
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            conn.execute("INSERT INTO pgedge.webhooks (id, url) VALUES (%s, 'http://h/')", (kept,))
        assert "whsec_" not in f"{caught.value} {caught.value.diag.message_detail}"


def test_bad_arguments(box):  # noqa: F811
    with box.connect() as conn:
        for arguments, code in (("NULL", "22004"), ("1, NULL", "22004"), ("0", "22003"), ("-1", "22003"), ("10001", "22003"), ("1, 0", "22003")):
            fails(conn, code, f"SELECT pgedge.dispatch_webhooks({arguments})")
        for arguments, code in (("", "22004"), ("'-1 day'", "22023"), ("'1 day', 0", "22003"), ("'5000 years'", "22023")):
            fails(conn, code, f"SELECT pgedge.purge_webhook_deliveries({arguments})")
        assert dispatch(conn) == 0 and reconcile(conn) == (0, 0, 0)
        conn.execute("SET pgedge.event_retention = '1d'")
        assert conn.execute("SELECT pgedge.purge_webhook_deliveries()").fetchone() == (0,)


def test_a_hostile_search_path_changes_nothing(net, receiver):  # noqa: F811
    with net.connect() as conn:
        hook(conn, receiver.url + "/in")
        number = enqueue(conn)
        conn.execute("CREATE SCHEMA evil; SET search_path = evil, pg_temp, public, pg_catalog")
        conn.execute("CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT 'x'::bytea $$; CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '-infinity' $$")
        conn.execute("CREATE TEMP TABLE claude_events (id int, status text); CREATE TEMP TABLE webhooks (id int)")
        for _ in range(200):
            dispatch(conn), reconcile(conn)
            if conn.execute("SELECT status FROM public.claude_events WHERE id = %s", (number,)).fetchone() == ("processed",):
                break
            time.sleep(0.02)
        else:
            pytest.fail("not delivered")
    assert len(receiver.at("/in")) == 1


# health() and dumps -------------------------------------------------------------------------------------------------------------------------

def test_health(box, receiver):  # noqa: F811
    line = lambda: health(box)["webhooks"]  # noqa: E731
    with box.connect() as conn:
        assert line() == ("ok", "none", None)
        which = hook(conn, receiver.url + "/in", max_attempts=1)
        status, detail, hint = line()
        assert status == "critical" and "worker does not run" in detail and "pg_net.database_name" in hint
        # From here on as where it runs.
        source = conn.execute("SELECT pg_get_functiondef('pgedge._health_16_webhooks()'::regprocedure)").fetchone()[0]
        start = source.index("EXISTS (SELECT FROM pg_stat_activity")
        conn.execute(source[:start] + "true;" + source[source.index(";", start) + 1:])
        status, detail, hint = line()
        assert status == "warning" and "every role may read and change" in detail and hint.startswith(PROTECT)
        conn.execute("UPDATE pgedge.webhooks SET headers = '{\"A\": \"b\"}'")
        assert line()[0] == "critical" and "are not sent" in line()[1]
        conn.execute(PROTECT)
        assert line()[:2] == ("ok", "1 enabled; 0 requests at pg_net, 0 to be sent, 0 given up")
        enqueue(conn)
        dispatch(conn)
        assert line()[:2] == ("ok", "1 enabled; 1 requests at pg_net, 0 to be sent, 0 given up")
        conn.execute("UPDATE pgedge._webhook_deliveries SET deadline = now() - interval '6 minutes'")
        assert line()[0] == "critical" and "overdue by" in line()[1]
        receiver.answers["/in"] = 500
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: event(conn, 1) == "dead")
        status, detail, hint = line()
        assert status == "warning" and "1 given up" in detail and "redrive_events" in hint
        conn.execute("UPDATE pgedge.webhooks SET enabled = false, disabled_reason = 'gone'")
        assert line()[0] == "warning" and f"webhook {which}" in line()[1]
        monitor = role(box, "monitor", "GRANT pg_monitor TO {role}")
        assert health(box, monitor)["webhooks"] == line()
        drop_role(box, monitor)


def test_a_dump_takes_webhooks_and_deliveries_along(box, receiver, tmp_path):  # noqa: F811
    with box.connect() as conn:
        which = hook(conn, receiver.url + "/in", description="kept")
        receiver.answers["/in"] = lambda n: 200 if n == 0 else 500
        done, failed = enqueue(conn), enqueue(conn)
        conn.execute("SET pgedge.retry_base = '1 h'")
        with Sender(box.cluster.dsn(box.name)):
            work(conn, lambda: len(receiver.requests) == 2 and not any(s[1] == "sent" for s in states(conn)) and len(states(conn)) == 2)
        sent = enqueue(conn)
        assert dispatch(conn) == 1
        before = conn.execute("SELECT * FROM pgedge.webhooks").fetchall(), conn.execute("SELECT * FROM pgedge.webhook_deliveries ORDER BY event_id").fetchall()
    file = tmp_path / "dump"
    box.cluster.tool("pg_dump", "-Fc", "-f", str(file), box.name)
    target = create_database(box.cluster, extension=False)
    box.cluster.tool("pg_restore", "--exit-on-error", "--single-transaction", "-d", target.name, str(file))
    with target.connect() as conn:
        after = conn.execute("SELECT * FROM pgedge.webhooks").fetchall(), conn.execute("SELECT * FROM pgedge.webhook_deliveries ORDER BY event_id").fetchall()
        assert after == before
        assert conn.execute("INSERT INTO pgedge.webhooks (url, enabled) VALUES ('http://h/', false) RETURNING id").fetchone() == (which + 1,)
        receiver.answers["/in"] = 200
        conn.execute("UPDATE claude_events SET run_at = NULL; UPDATE pgedge._webhook_deliveries SET retry_at = NULL WHERE state = 'pending'")
        with Sender(box.cluster.dsn(target.name)):
            work(conn, lambda: all(event(conn, e) == "processed" for e in (done, failed, sent)))
        # What had arrived was not sent again; what was at pg_net of the other database was.
        keys = [r[2]["Idempotency-Key"] for r in receiver.at("/in")]
        assert len(keys) == 4 and len(set(keys)) == 3
    box.cluster.psql(f'DROP DATABASE "{target.name}" WITH (FORCE)')
