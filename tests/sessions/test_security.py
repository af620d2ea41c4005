"""What a role without special rights may try against an extension that a superuser installed in its database: none of its code runs as superuser."""
from __future__ import annotations

import os

import pytest

from conftest import Database

TRESPASS = """BEGIN
    IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user) THEN RAISE EXCEPTION 'ran as superuser'; END IF;
    RETURN {result};
END"""


@pytest.fixture
def owned_db(cluster):
    """A database that belongs to an ordinary role, as the owner of a database owns its schema public and may drop what is in it."""
    owner = f"owner_{os.getpid()}"
    db = Database(cluster, f"owned_{os.getpid()}")
    cluster.psql(f"CREATE ROLE {owner} LOGIN")
    cluster.psql(f"CREATE DATABASE {db.name} OWNER {owner}")
    db.owner = owner
    yield db
    cluster.psql(f"DROP DATABASE {db.name} WITH (FORCE)")
    cluster.psql(f"DROP ROLE {owner}")


def hostile_operator(db, operator: str, left: str, right: str, returns: str, result: str):
    name = f"op_{left}_{right}_{returns}".replace("[]", "s")
    db.sql(f"CREATE FUNCTION public.{name}({left}, {right}) RETURNS {returns} LANGUAGE plpgsql AS $${TRESPASS.format(result=result)}$$", user=db.owner)
    db.sql(f"CREATE OPERATOR public.{operator} (leftarg = {left}, rightarg = {right}, function = public.{name})", user=db.owner)


def test_operators_in_the_schema_do_not_run_at_installation_nor_later(owned_db):
    """They fit the types of the script's expressions exactly, where PostgreSQL's own are polymorphic: those would win on the script's search path."""
    hostile_operator(owned_db, "=", "name[]", "name[]", "boolean", "false")
    hostile_operator(owned_db, "<>", "text[]", "text[]", "boolean", "true")
    hostile_operator(owned_db, "||", "text[]", "text", "text[]", "pg_catalog.array_append($1, $2)")
    hostile_operator(owned_db, "=", "oid", "regnamespace", "boolean", "true")
    hostile_operator(owned_db, "=", "oid", "regclass", "boolean", "true")
    owned_db.sql("CREATE EXTENSION pgedge CASCADE")
    assert owned_db.sql("SELECT * FROM pgedge.create_tables()") == []
    owned_db.sql("SELECT pgedge.grant_reader(%s)", (owned_db.owner,))
    assert owned_db.value("SELECT count(*) FROM pgedge.health() WHERE detail ~ 'superuser'") == 0


def test_a_view_in_place_of_aggregated_logs_runs_as_its_owner(owned_db):
    """Who owns the schema can drop the table and put a view there; the functions that read it are SECURITY DEFINER and a superuser's."""
    owned_db.sql("CREATE EXTENSION pgedge CASCADE")
    for grant in ("grant_reader(%s)", "grant_service(%s, 'log_writer')"):
        owned_db.sql(f"SELECT pgedge.{grant}", (owned_db.owner,))
    owned_db.sql(f"GRANT EXECUTE ON FUNCTION pgedge.log_trends(interval), pgedge.prune_logs(interval) TO {owned_db.owner}")
    owned_db.sql("SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['hello 1'], NULL, 's')")
    with owned_db.connect(owned_db.owner) as conn:
        conn.execute(f"CREATE FUNCTION public.trespass() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $${TRESPASS.format(result='true')}$$")
        conn.execute("DROP TABLE aggregated_logs")
        conn.execute("CREATE TABLE stash (id int, message_pattern text, level text, source text, count int, first_seen timestamp, last_seen timestamp,"
                     " metadata jsonb, sample_messages jsonb)")
        conn.execute("INSERT INTO stash VALUES (1, 'hello {NUM}', NULL, 's', 5, now(), now())")
        conn.execute("CREATE VIEW aggregated_logs AS SELECT * FROM stash WHERE trespass()")
        assert conn.execute("SELECT id, lines FROM pgedge.log_trends()").fetchall() == [(1, 5)]
        assert conn.execute("SELECT kind, observed FROM pgedge.log_anomalies()").fetchall() == [("new", 5)]
        assert conn.execute("SELECT id FROM pgedge.match_log('hello 2', 's')").fetchall() == [(1,)]
        assert conn.execute("SELECT pgedge.prune_logs('1 day')").fetchall() == [(0,)]
