"""Roles: what grant_reader() and grant_service() give, to the last right, and everything that such a role must and must not be able to do."""
from __future__ import annotations

import psycopg
import pytest

from conftest import Database, create_database
from support import fails
from test_ops import VECTOR, VIEWS, drop_role, fails_without_hint, health, role


@pytest.fixture(scope="module")
def box(cluster):
    """One database for the tests that change nothing but roles."""
    database = create_database(cluster)
    yield database
    cluster.psql(f'DROP DATABASE "{database.name}" WITH (FORCE)')


def may(db: Database, user: str, allowed: list[str], forbidden: list[str]) -> None:
    with db.connect(user) as conn:
        for statement in allowed:
            conn.execute(statement)
        for statement in forbidden:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)


INSERT_VECTOR = f"INSERT INTO vectors (embedding, content) VALUES ({VECTOR}, 'x')"
INSERT_EVENT = "INSERT INTO claude_events (event_type, payload) VALUES ('error', '{}')"
INSERT_RESULT = "INSERT INTO analytics_results (analysis_type, results) VALUES ('t', '{}')"
INSERT_LOG = "INSERT INTO aggregated_logs (message_pattern) VALUES ('p')"
TABLES = ("vectors", "analytics_results", "aggregated_logs", "claude_events")


@pytest.fixture
def service(box):
    """A role that may nothing yet."""
    name = role(box, "service")
    yield name
    drop_role(box, name)


# What no role of an application may do, whatever it was granted. Each fails for want of rights and for no other reason.
ALWAYS_FORBIDDEN = [
    "CREATE TABLE public.own (x int)", "CREATE TABLE pgedge.own (x int)", "CREATE FUNCTION pgedge.own() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE SCHEMA own",
    *(f"TRUNCATE {t}" for t in TABLES), *(f"DROP TABLE {t}" for t in TABLES), *(f"ALTER TABLE {t} ADD COLUMN own int" for t in TABLES),
    *(f"CREATE INDEX ON {t} (id)" for t in TABLES), *(f"ALTER TABLE {t} DISABLE ROW LEVEL SECURITY" for t in TABLES), *(f"ALTER TABLE {t} OWNER TO CURRENT_USER" for t in TABLES),
    "DELETE FROM vectors", "DELETE FROM analytics_results", "DELETE FROM aggregated_logs",
    "CREATE TRIGGER own BEFORE INSERT ON claude_events FOR EACH STATEMENT EXECUTE FUNCTION pgedge._events_wake()", "DROP TRIGGER pgedge_events_wake ON claude_events",
    "CREATE RULE own AS ON INSERT TO claude_events DO INSTEAD NOTHING", "SELECT setval('claude_events_id_seq', 1)",
    "SELECT pgedge.create_tables()", "SELECT pgedge.grant_reader('postgres')", "SELECT pgedge.grant_service('postgres', 'vectors')", "SELECT pgedge.record_backup('dump')",
    "SELECT * FROM pgedge.health()", "SELECT * FROM pgedge.recommended_settings()", "SELECT * FROM pgedge._host()", "SELECT pgedge._observe()", "SELECT pgedge._device_temperature('/')",
    "SELECT * FROM pgedge.webhooks", "INSERT INTO pgedge.webhooks (url) VALUES ('http://h/')", "SELECT pgedge.rotate_webhook_secret(1)", "SELECT * FROM pgedge.backups", "UPDATE pgedge.index_builds SET rows = 0", "DELETE FROM pgedge.sequence_positions",
    "SELECT pg_read_file('/etc/hostname')", "SELECT pg_ls_waldir()", "SELECT lo_import('/etc/hostname')", "COPY vectors TO PROGRAM 'true'", "COPY pg_class TO '/tmp/own'",
    "SELECT rolpassword FROM pg_authid", "CREATE ROLE own", "ALTER ROLE CURRENT_USER SUPERUSER", "SET ROLE postgres", "SET SESSION AUTHORIZATION postgres",
    "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", "SELECT pg_switch_wal()", "CREATE DATABASE own", "DROP EXTENSION pgedge",
    "ALTER EXTENSION pgedge UPDATE", "ALTER FUNCTION pgedge.health() OWNER TO CURRENT_USER", "CREATE PUBLICATION own FOR ALL TABLES", "CREATE EVENT TRIGGER own ON sql_drop EXECUTE FUNCTION pgedge._events_wake()",
]

# The rights of a role that PUBLIC does not have: on tables, sequences, schemas, the database, and the functions of pgedge by name.
RIGHTS = """
WITH things AS (
    SELECT 'table ' || c.relname AS thing, p AS privilege, has_table_privilege(r, c.oid, p) AS has
    FROM unnest(%s::text[]) r, pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
    WHERE c.relkind IN ('r', 'v') AND c.relnamespace IN ('public'::regnamespace, 'pgedge'::regnamespace)
    UNION ALL
    SELECT 'sequence ' || c.relname, p, has_sequence_privilege(r, c.oid, p)
    FROM unnest(%s::text[]) r, pg_class c, unnest('{USAGE,SELECT,UPDATE}'::text[]) p
    WHERE c.relkind = 'S' AND c.relnamespace IN ('public'::regnamespace, 'pgedge'::regnamespace)
    UNION ALL
    SELECT 'function ' || f.proname, 'EXECUTE', has_function_privilege(r, f.oid, 'EXECUTE') FROM unnest(%s::text[]) r, pg_proc f WHERE f.pronamespace = 'pgedge'::regnamespace
    UNION ALL
    SELECT 'schema ' || s, p, has_schema_privilege(r, s, p) FROM unnest(%s::text[]) r, unnest('{public,pgedge,pg_catalog}'::text[]) s, unnest('{USAGE,CREATE}'::text[]) p
    UNION ALL
    SELECT 'database', p, has_database_privilege(r, current_database(), p) FROM unnest(%s::text[]) r, unnest('{CONNECT,CREATE,TEMPORARY}'::text[]) p
    UNION ALL
    SELECT 'attribute', a, CASE a WHEN 'super' THEN o.rolsuper WHEN 'createrole' THEN o.rolcreaterole WHEN 'createdb' THEN o.rolcreatedb WHEN 'replication' THEN o.rolreplication ELSE o.rolbypassrls END
    FROM unnest(%s::text[]) r JOIN pg_roles o ON o.rolname = r, unnest('{super,createrole,createdb,replication,bypassrls}'::text[]) a
    UNION ALL
    SELECT 'member of ' || m.roleid::regrole, '', true FROM unnest(%s::text[]) r JOIN pg_roles o ON o.rolname = r JOIN pg_auth_members m ON m.member = o.oid
)
SELECT DISTINCT trim(thing || ' ' || privilege) FROM things WHERE has
"""


def rights(db: Database, user: str) -> set[str]:
    """What a role may beyond PUBLIC."""
    of = lambda r: {row[0] for row in db.sql(RIGHTS, [[r]] * 7)}  # noqa: E731
    return of(user) - of("public")


def expected(kind: dict[str, str], functions: str) -> set[str]:
    given = {f"table {table} {right}" for table, list_ in kind.items() for right in list_.split()}
    given |= {f"sequence {table}_id_seq USAGE" for table, list_ in kind.items() if "INSERT" in list_ and table != "vectors"}
    return given | {f"function {name} EXECUTE" for name in functions.split()}


PRODUCE, CONSUME = "enqueue_event enqueue_events", "claim_events wait_for_events extend_lease complete_events fail_events release_events"
KINDS = {
    "embeddings": expected({"vectors": "INSERT SELECT"}, ""),
    "vectors": expected({"vectors": "INSERT SELECT"}, ""),
    "analytics": expected({"analytics_results": "INSERT SELECT"}, ""),
    "analytics_results": expected({"analytics_results": "INSERT SELECT"}, ""),
    "log_writer": expected({"aggregated_logs": "INSERT SELECT UPDATE"}, "aggregate_logs match_log log_trends log_anomalies"),
    "aggregated_logs": expected({"aggregated_logs": "INSERT SELECT UPDATE"}, "aggregate_logs match_log log_trends log_anomalies"),
    "event_producer": expected({"claude_events": "INSERT SELECT"}, PRODUCE),
    "event_consumer": expected({"claude_events": "SELECT UPDATE"}, CONSUME),
    "event_admin": expected({"claude_events": "SELECT UPDATE DELETE"}, "cancel_events redrive_events purge_events pause_events resume_events"),
    "webhook_dispatcher": expected({"webhook_deliveries": "SELECT"}, "dispatch_webhooks reconcile_webhooks purge_webhook_deliveries"),
    "claude_events": expected({"claude_events": "INSERT SELECT UPDATE"}, f"{PRODUCE} {CONSUME}"),
}


def test_every_kind_is_here(box):
    assert {r[0] for r in box.sql("SELECT kind FROM pgedge._service_kinds()")} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_gets_these_rights_and_no_other(box, service, kind):
    box.sql("SELECT pgedge.grant_service(%s, %s)", [service, kind])
    assert rights(box, service) == KINDS[kind]
    # Again is no harm, and DROP OWNED takes all of it back.
    box.sql("SELECT pgedge.grant_service(%s, %s)", [service, kind])
    box.sql(f'DROP OWNED BY "{service}"')
    assert rights(box, service) == set()


@pytest.mark.parametrize("kind", [*KINDS, "reader"])
def test_no_role_may_harm(box, service, kind):
    if kind == "reader":
        box.sql("SELECT pgedge.grant_reader(%s)", [service])
    else:
        box.sql("SELECT pgedge.grant_service(%s, %s)", [service, kind])
    with box.connect(service) as conn:
        for statement in ALWAYS_FORBIDDEN:
            try:
                conn.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                continue
            pytest.fail(f"a role with {kind} may: {statement}")


def test_a_reader_gets_these_rights_and_no_other(box, service):
    box.sql("SELECT pgedge.grant_reader(%s)", [service])
    views = {r[0] for r in box.sql("SELECT relname FROM pg_class WHERE relnamespace = 'pgedge'::regnamespace AND relkind = 'v'")}
    assert views >= {*VIEWS, "queue_stats"}
    views -= {"event_leases"}  # it shows lease tokens
    assert rights(box, service) == expected({name: "SELECT" for name in {*TABLES, *views}}, "match_log log_trends log_anomalies _slow_queries _queue_stats")


def test_reader(box, service):
    box.sql("REVOKE CONNECT ON DATABASE \"%s\" FROM PUBLIC" % box.name)
    with pytest.raises(psycopg.OperationalError):
        box.connect(service)
    statements = [r[0] for r in box.sql("SELECT pgedge.grant_reader(%s)", [service])]
    assert any(s.startswith("GRANT SELECT ON ALL TABLES IN SCHEMA public") for s in statements)
    may(box, service,
        [f"SELECT * FROM {t}" for t in TABLES] + [f"SELECT {', '.join(c)} FROM pgedge.{v}" for v, c in VIEWS.items()] + ["SELECT * FROM pgedge.queue_stats", "SELECT * FROM pgedge.log_trends()", "SELECT * FROM pgedge.log_pattern_lineage"],
        [INSERT_VECTOR, INSERT_EVENT, INSERT_RESULT, INSERT_LOG, *(f"UPDATE {t} SET id = id" for t in TABLES), "SELECT nextval('claude_events_id_seq')",
         "SELECT pgedge.enqueue_event('e', '{}')", "SELECT pgedge.claim_events()", "SELECT * FROM pgedge.health()"])
    box.sql("GRANT CONNECT ON DATABASE \"%s\" TO PUBLIC" % box.name)


def test_embeddings_service(box, service):
    box.sql("SELECT pgedge.grant_service(%s, 'vectors')", [service])
    may(box, service, [INSERT_VECTOR, "SELECT * FROM vectors"],
        ["UPDATE vectors SET content = ''", INSERT_EVENT, INSERT_RESULT, INSERT_LOG, "SELECT * FROM claude_events", "SELECT pgedge.enqueue_event('e', '{}')"])


def test_analytics_service(box, service):
    box.sql("SELECT pgedge.grant_service(%s, 'analytics')", [service])
    may(box, service, [INSERT_RESULT + " RETURNING id", "SELECT * FROM analytics_results"], [INSERT_VECTOR, "SELECT * FROM vectors", "UPDATE analytics_results SET vector_count = 1"])


def test_event_producer(box, service):
    box.sql("SELECT pgedge.grant_service(%s, 'event_producer')", [service])
    may(box, service, [INSERT_EVENT, "SELECT * FROM claude_events", "SELECT pgedge.enqueue_event('e', '{}')", "SELECT pgedge.enqueue_events('e', ARRAY['{}']::jsonb[])"],
        ["UPDATE claude_events SET status = 'processed'", "SELECT pgedge.claim_events()", "SELECT pgedge.purge_events('1 day')", INSERT_VECTOR])


def test_event_consumer(box, service):
    box.sql("SELECT pgedge.enqueue_event('e', '{}')")
    box.sql("SELECT pgedge.grant_service(%s, 'event_consumer')", [service])
    with box.connect(service) as conn:
        (event, token), = conn.execute("SELECT id, lease_token FROM pgedge.claim_events()").fetchall()
        assert conn.execute("SELECT pgedge.extend_lease(%s, %s, '1 minute')", [[event], token]).fetchall() == [(event,)]
        assert conn.execute("SELECT pgedge.complete_events(%s, %s)", [[event], token]).fetchall() == [(event,)]
        # Nothing is left to claim, so this only waits.
        assert conn.execute("SELECT pgedge.wait_for_events('0.1 seconds', '{nobody_sends_it}')").fetchone() == (False,)
    may(box, service, ["SELECT * FROM claude_events WHERE status = 'pending'", "UPDATE claude_events SET status = 'processed', processed_at = now() WHERE id = 1"],
        [INSERT_EVENT, "SELECT pgedge.enqueue_event('e', '{}')", "SELECT pgedge.purge_events('1 day')", "SELECT pgedge.redrive_events()", INSERT_VECTOR])


def test_event_admin(box, service):
    box.sql("SELECT pgedge.grant_service(%s, 'event_admin')", [service])
    dead = box.value("INSERT INTO claude_events (event_type, payload, status) VALUES ('d', '{}', 'dead') RETURNING id")
    with box.connect(service) as conn:
        assert conn.execute("SELECT pgedge.redrive_events('d')").fetchone() == (1,)
        assert conn.execute("SELECT pgedge.cancel_events(ARRAY[%s]::bigint[])", [dead]).fetchall() == [(dead,)]
        conn.execute("SELECT pgedge.pause_events('d')")
        assert conn.execute("SELECT pgedge.resume_events('d')").fetchone() == (True,)
        assert conn.execute("SELECT pgedge.purge_events('0 seconds')").fetchone()[0] >= 1
    may(box, service, ["SELECT * FROM claude_events", "DELETE FROM claude_events WHERE id = 0"],
        [INSERT_EVENT, "SELECT pgedge.enqueue_event('e', '{}')", "SELECT pgedge.claim_events()", "SELECT * FROM pgedge.event_leases", "DELETE FROM pgedge.event_limits"])


def test_log_writer(box, service):
    box.sql("SELECT pgedge.grant_service(%s, 'log_writer')", [service])
    may(box, service, [INSERT_LOG, "UPDATE aggregated_logs SET count = count + 1", "SELECT * FROM aggregated_logs"], [INSERT_EVENT, INSERT_VECTOR, "DELETE FROM aggregated_logs"])
    # With notices on as well: a new error pattern is an event, which the writer itself may not add.
    with box.connect(service) as conn:
        conn.execute("SET pgedge.log_events = on")
        assert conn.execute("SELECT is_new FROM pgedge.aggregate_logs(ARRAY['out of paper in tray 7'], 'ERROR', 'printer')").fetchall() == [(True,)]
        assert conn.execute("SELECT count(*) FROM pgedge.log_trends()").fetchone()[0] >= 1
    assert box.value("SELECT count(*) FROM claude_events WHERE event_type = 'log.new_pattern'") == 1


def test_own_table_and_odd_names(db):
    db.sql('CREATE SCHEMA "Own"; CREATE TABLE "Own"."T 1" (id serial, x int); CREATE TABLE "Mixed" (x int)')
    name = f'odd "quoted"; DROP TABLE vectors; -- {db.name}'
    quoted = name.replace('"', '""')
    db.sql(f'CREATE ROLE "{quoted}" LOGIN')
    db.sql("SELECT pgedge.grant_service(%s, %s, %s)", [name, '"Own"."T 1"', "Mixed"])
    db.sql("SELECT pgedge.grant_reader(%s)", [name])
    db.sql(f'GRANT USAGE ON SCHEMA "Own" TO "{quoted}"')
    with db.connect() as conn:
        conn.execute(f'SET ROLE "{quoted}"')
        conn.execute('INSERT INTO "Own"."T 1" (x) VALUES (1); SELECT * FROM "Mixed"')
    db.sql(f'DROP OWNED BY "{quoted}"')
    db.sql(f'DROP ROLE "{quoted}"')


def test_grants_refuse_nonsense_and_change_nothing(box, service):
    with box.connect() as conn:
        fails(conn, "42704", "SELECT pgedge.grant_reader('no_such_role')")
        fails(conn, "42704", "SELECT pgedge.grant_reader('public')")
        fails(conn, "22004", "SELECT pgedge.grant_reader(NULL)")
        fails(conn, "42704", "SELECT pgedge.grant_service('no_such_role', 'vectors')")
        fails(conn, "22004", "SELECT pgedge.grant_service(NULL, 'vectors')")
        fails(conn, "22023", "SELECT pgedge.grant_service(%s)", [service])
        fails(conn, "22023", "SELECT pgedge.grant_service(%s, VARIADIC NULL)", [service])
        fails(conn, "22023", "SELECT pgedge.grant_service(%s, 'vectors', NULL)", [service])
        for bad in ("nothing", "", "vectors; DROP TABLE vectors", "pg_catalog", "a.b.c", '"', "index_usage", "x" * 100):
            fails(conn, "42P01", "SELECT pgedge.grant_service(%s, 'vectors', %s)", [service, bad])
    with box.connect(service) as conn:
        fails_without_hint(conn, "SELECT * FROM vectors")
        fails_without_hint(conn, "SELECT pgedge.grant_service('postgres', 'vectors')")


def test_in_another_schema(empty_db):
    empty_db.sql("CREATE SCHEMA edge")
    empty_db.sql("CREATE EXTENSION pgedge SCHEMA edge CASCADE")
    assert health(empty_db)["tables"][0] == "ok"
    name = role(empty_db, "reader")
    empty_db.sql("SELECT pgedge.grant_reader(%s)", [name])
    with empty_db.connect(name) as conn:
        conn.execute("SELECT * FROM edge.vectors")
    drop_role(empty_db, name)
