"""Plain tables, which are read page by page, against the same rows behind a view, which the executor reads.

Random tables, rows that others write meanwhile, snapshots, cancels, small servers, and what must be left to the executor.
"""
from __future__ import annotations

import itertools
import random
import threading
import time

import psycopg
import pytest

from cluster import Cluster
from support import fails, start_standby
from test_similarity import PARALLEL

SERIAL = "SET max_parallel_workers_per_gather = 0; SET debug_parallel_query = off"
# by workers alone, where there is more than one processor
WORKERS = "SET max_parallel_workers_per_gather = 2; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_leader_participation = off"
_numbers = itertools.count(1)
ONE = "ARRAY['[1,2,3]']::vector[]"
METRICS = ("cosine", "l2", "ip")


def vector_of(dim: int, i: str = "i") -> str:
    """An expression for a vector that depends on i."""
    return f"(SELECT array_agg(sin({i} * j)::real ORDER BY j) FROM generate_series(1, {dim}) j)::vector"


def some(dim: int, numbers) -> str:
    """Queries: the vectors of these i."""
    return "ARRAY[" + ", ".join(vector_of(dim, str(n)) for n in numbers) + "]"


def search(conn, relation: str, queries: str = ONE, k: int = 5, metric: str = "l2", more: str = "") -> list[tuple]:
    return conn.execute(f"SELECT query_no, rank, id, similarity::text FROM pgedge.batch_search({queries}, {k}, '{metric}', relation => '{relation}'{more})").fetchall()


def planned(conn, relation: str, call: str) -> int:
    """How many plans that read the relation a statement makes: none when the table is read without the executor."""
    oid, = conn.execute(f"SELECT '{relation}'::regclass::oid").fetchone()
    plans = []
    conn.execute("SET debug_print_plan = on; SET debug_pretty_print = off; SET client_min_messages = log")
    listen = lambda diag: plans.append(diag.message_detail or "")  # noqa: E731
    conn.add_notice_handler(listen)
    try:
        conn.execute(call)
    finally:
        conn.remove_notice_handler(listen)
        conn.execute("RESET debug_print_plan; RESET debug_pretty_print; RESET client_min_messages")
    return sum(f":relid {oid} " in plan for plan in plans)


def complaints(server: Cluster, since: int = 0) -> list[str]:
    """What the server has logged about things that were not given back, and about crashes."""
    with open(server.log, encoding="utf-8", errors="replace") as log:
        log.seek(since)
        return [line for line in log if "leak" in line or "PANIC" in line or "terminated by signal" in line or "TRAP" in line]


class Place:
    """A schema of its own."""

    def __init__(self, server: Cluster, name: str):
        self.server, self.name = server, name

    def connect(self, user: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.server.dsn(user=user), autocommit=True, options=f"-c search_path={self.name},public")


@pytest.fixture(scope="module")
def server():
    """A server of this module's, since its last tests want small ones."""
    with Cluster({"fsync": "off", "wal_level": "replica", "max_connections": "40"}) as c:
        c.psql("CREATE EXTENSION pgedge CASCADE")
        yield c


@pytest.fixture
def db(server):
    """A fresh schema."""
    name = f"place_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE SCHEMA {name}; GRANT USAGE ON SCHEMA {name} TO public")
        yield Place(server, name)
        conn.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(autouse=True)
def nothing_leaks(server):
    since = server.log.stat().st_size
    yield
    assert complaints(server, since) == []


# What stands before and between the columns: the value of row i, some NULL, and a default that can be added without a rewrite.
FILLERS = {
    "text": ("CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN md5(i::text) WHEN 3 THEN repeat('ab', 63 + i % 3) ELSE repeat('compressible ', 250) END", "'later'"),
    "varchar(40)": ("left(repeat(md5(i::text), 2), i % 41)", "repeat('x', 40)"),
    "char(7)": ("NULLIF(i % 4, 0)::text", "'c'"),
    "boolean": ("NULLIF(i % 3, 0) = 1", "true"),
    '"char"': ("chr(65 + i % 20)::\"char\"", "'z'"),
    "smallint": ("i % 1000", "7"),
    "int": ("NULLIF(i % 6, 0)", "8"),
    "bigint": ("i::bigint << 33", "9"),
    "float8": ("sqrt(i)", "0.5"),
    "real": ("NULLIF(i % 7, 0)", "0.25"),
    "numeric": ("CASE WHEN i % 3 > 0 THEN (i / 7.0)::numeric END", "12.50"),
    "name": ("('n' || i)::name", "'n'"),
    "uuid": ("md5(i::text)::uuid", "'00000000-0000-0000-0000-000000000001'"),
    "timestamptz": ("'2024-01-01'::timestamptz + i * interval '1 hour'", "'2020-02-02'"),
    "inet": ("('10.0.0.' || i % 200)::inet", "'::1'"),
    "jsonb": ("jsonb_build_object('i', i, 't', repeat('y', i % 90))", "'[]'"),
    "int[]": ("CASE WHEN i % 2 = 0 THEN ARRAY[i, NULL, 3] END", "'{1,2}'"),
    "interval": ("i * interval '1 day'", "'1 day'"),
    "timetz": ("'12:00:00+02'::timetz", "'12:00:00+01'"),
    "tid": ("('(' || i || ',1)')::tid", "'(0,1)'"),
    "bit(9)": ("i::bit(9)", "'101010101'"),
    "cstring_like": ("md5(i::text)", "'domain'"),
}
IDS = {
    "int2": ("(i * 7 % 30011)::int2", "3"), "int4": ("i * 7 % 10007", "-3"), "int8": ("(i::int8 << 34) * (1 - 2 * (i % 2))", "3"), "oid": ("(4000000000 + i)::oid", "3"),
    "uuid": ("md5(i::text)::uuid", "'00000000-0000-0000-0000-000000000000'"), "text": ("CASE i % 4 WHEN 0 THEN 'k' || i WHEN 1 THEN repeat('long ', 40) || i WHEN 2 THEN repeat('ä', 1500) || i ELSE '' END", "'old'"),
    "numeric": ("i / 8.0", "1.50"), "name": ("('n' || i)::name", "'old'"), "date": ("'2024-01-01'::date + i", "'1999-09-09'"), "float8": ("i * 0.5 - 30", "'NaN'"),
    '"char"': ("chr(65 + i % 50)::\"char\"", "'!'"), "bool": ("i % 2 = 0", "true"), "timetz": ("'00:00+00'::timetz + i * interval '1 minute'", "'12:00+01'"), "int4range": ("int4range(i, i + 9)", "'[1,2)'"),
}
EMBEDDINGS = ("vector", "halfvec", "vector_domain")


class Undo(Exception):
    """Rolls a block back."""


def make_random_table(conn, rng: random.Random) -> tuple[str, int]:
    """A table `t` of a random definition and history; returns what was chosen, and the dimensions."""
    dim = rng.choice([1, 2, 3, 30, 64, 384, 384, 700, 1100])
    id_type, kind = rng.choice(list(IDS)), rng.choice(EMBEDDINGS)
    id_value, id_default = IDS[id_type]
    kind_value = f"CASE WHEN i % 17 = 0 THEN NULL WHEN i % 9 = 0 THEN array_fill(i % 10 + 1, ARRAY[{dim}])::real[]::vector ELSE {vector_of(dim)} END"
    main = {"id": (id_type, id_value, id_default), "embedding": (kind, f"({kind_value})::{kind}", f"array_fill(0.5, ARRAY[{dim}])::real[]::vector::{kind}")}
    later = rng.choice([(), (), (), ("id",), ("embedding",), ("id", "embedding")]) if dim <= 64 else rng.choice([(), (), ("id",)])
    columns = []
    for n in range(rng.randint(0, 7)):
        filler = rng.choice(list(FILLERS))
        columns.append((f"c{n}", filler, *FILLERS[filler]))
    for name in main:
        if name not in later:
            columns.insert(rng.randint(0, len(columns)), (name, *main[name]))
    columns = columns or [("c0", "int", *FILLERS["int"])]
    temp = rng.choice(["", "", "UNLOGGED ", "TEMP "])
    options = [f"fillfactor = {rng.choice([10, 50, 100])}"] + (["toast_tuple_target = 128"] if rng.random() < 0.5 else []) + ["autovacuum_enabled = off"]
    story = [f"CREATE {temp}TABLE t ({', '.join(f'{c[0]} {c[1]}' for c in columns)}) WITH ({', '.join(options)})"]

    def storage(name):
        if rng.random() < 0.7:
            story.append(f"ALTER TABLE t ALTER COLUMN {name} SET STORAGE {rng.choice(['PLAIN', 'MAIN', 'EXTERNAL', 'EXTENDED'] if dim <= 384 else ['EXTERNAL', 'EXTENDED', 'MAIN'])}")

    def insert(low, high, more=""):
        story.append(f"{more}INSERT INTO t ({', '.join(c[0] for c in columns)}) SELECT {', '.join(f'({c[2]})::{c[1]}' for c in columns)} FROM generate_series({low}, {high}) i")

    if "embedding" not in later:
        storage("embedding")
    insert(1, 60)
    for name in rng.sample([c[0] for c in columns if c[0] not in main], k=min(2, sum(c[0] not in main for c in columns))):
        if rng.random() < 0.7 and len(columns) > 1:
            story.append(f"ALTER TABLE t DROP COLUMN {name}")
            columns = [c for c in columns if c[0] != name]
    for n in range(rng.randint(0, 2)):
        filler = rng.choice(list(FILLERS))
        columns.append((f"d{n}", filler, *FILLERS[filler]))
        story.append(f"ALTER TABLE t ADD COLUMN d{n} {filler}" + (f" DEFAULT {FILLERS[filler][1]}" if rng.random() < 0.7 else ""))
    for name in later:
        columns.append((name, *main[name]))
        null = name == "embedding" and rng.random() < 0.3
        story.append(f"ALTER TABLE t ADD COLUMN {name} {main[name][0]}" + ("" if null else f" DEFAULT {main[name][2]}"))
        if name == "embedding":
            storage(name)
    insert(61, 120)
    story.append("BEGIN")
    insert(121, 150)
    story.append("ROLLBACK")
    for _ in range(rng.randint(0, 3)):
        column = rng.choice([c for c in columns if c[0] != "id"])
        story.append(f"UPDATE t SET {column[0]} = (SELECT ({column[2]})::{column[1]} FROM (VALUES ({rng.randint(1, 40)})) v(i)) WHERE ctid::text LIKE '%{rng.randint(0, 9)})'")
        if rng.random() < 0.4:
            story.append("BEGIN; UPDATE t SET id = id; DELETE FROM t; ROLLBACK")
    if rng.random() < 0.6:
        story.append(f"DELETE FROM t WHERE ctid::text LIKE '%{rng.randint(0, 9)})'")
    if rng.random() < 0.6:
        story.append(rng.choice(["VACUUM t", "VACUUM (FREEZE) t", "VACUUM (FULL) t", "VACUUM (FREEZE, TRUNCATE off) t"]))
        if rng.random() < 0.5:
            insert(151, 170)
    for statement in story:
        for part in statement.split("; "):
            conn.execute(part)
    return "; ".join(s[:300] for s in story), dim


@pytest.mark.parametrize("seed", range(4))
def test_tables_of_any_definition_and_history(db, seed):
    """Columns of all lengths and alignments, dropped and added ones, updates, deletes, aborted inserts, out of line or compressed: as the executor reads them."""
    with db.connect() as conn:
        conn.execute("CREATE DOMAIN vector_domain AS vector; CREATE DOMAIN cstring_like AS text")
        conn.execute(SERIAL)
        for n in range(12):
            rng = random.Random(seed * 100 + n)
            story, dim = make_random_table(conn, rng)
            conn.execute("CREATE VIEW v AS SELECT * FROM t")
            count, = conn.execute("SELECT count(embedding) FROM t").fetchone()
            for memory in ("4MB", "64kB"):
                conn.execute(f"SET work_mem = '{memory}'")
                metric, k = rng.choice(METRICS), rng.choice([1, 7, 500])
                queries = some(dim, rng.sample(range(1, 200), rng.choice([1, 3, 20])))
                limit = rng.choice(["", "", ", min_similarity => 0.3"])
                got, want = (search(conn, r, queries, k, metric, limit) for r in "tv")
                assert got == want, (seed, n, metric, k, story)
                conn.execute(WORKERS)
                assert search(conn, "t", queries, k, metric, limit) == want, (seed, n, metric, k, story)
                conn.execute(SERIAL)
                if k == 500 and not limit:
                    assert len(got) == count * (queries.count("generate_series")), (seed, n, story)
            join = "SELECT left_id, rank, right_id, similarity::text FROM pgedge.knn_join('{0}', '{0}', 3, 'l2') ORDER BY 1, 2, 3, 4"
            assert conn.execute(join.format("t")).fetchall() == conn.execute(join.format("v")).fetchall(), (seed, n, story)
            assert planned(conn, "t", f"SELECT * FROM pgedge.batch_search({some(dim, [1])}, relation => 't')") == 0
            conn.execute("RESET work_mem; DROP VIEW v; DROP TABLE t")


@pytest.fixture
def small(db):
    """t(id, embedding, note) of 900 rows in about 20 pages, and a view v of it."""
    with db.connect() as conn:
        conn.execute("CREATE TABLE t (id int, embedding vector(3), note text) WITH (autovacuum_enabled = off)")
        conn.execute("INSERT INTO t SELECT i, ARRAY[i % 30, i % 7, i % 11]::vector, repeat('n', 100) FROM generate_series(1, 900) i")
        conn.execute("CREATE VIEW v AS SELECT * FROM t")
    return db


def same(conn, relation: str = "t", view: str = "v", **more) -> list[tuple]:
    """The rows of a search, which are those of the search of the view."""
    got, want = (search(conn, r, **more) for r in (relation, view))
    assert got == want
    return got


def test_ids_are_any_columns_that_a_query_could_name(small):
    """Those that the server has in every table, and the embedding itself."""
    with small.connect() as conn:
        for relation in ("t", "v"):
            assert search(conn, relation, "ARRAY['[1,1,1]']::vector[]", 2, more=", id_column => 'embedding'")[0][2:] == ("[1,1,1]", "0")
        conn.execute("CREATE VIEW places AS SELECT ctid AS id, tableoid, embedding FROM t")
        assert search(conn, "t", k=1000, more=", id_column => 'ctid'") == search(conn, "places", k=1000)
        assert search(conn, "t", k=1000, more=", id_column => 'tableoid'") == search(conn, "places", k=1000, more=", id_column => 'tableoid'")
        join = "SELECT left_id, right_id FROM pgedge.knn_join('t', '{}', 2, right_id => '{}') ORDER BY 1, 2"
        assert conn.execute(join.format("t", "ctid")).fetchall() == conn.execute(join.format("places", "id")).fetchall()
        assert search(conn, "t", k=3, more=", id_column => 'note'") == search(conn, "v", k=3, more=", id_column => 'note'")
        fails(conn, "42883", f"SELECT * FROM pgedge.batch_search({ONE}, relation => 't', id_column => 'xmin')")


def test_relations_of_every_kind(small):
    with small.connect() as conn:
        conn.execute(SERIAL + "; SET temp_buffers = 100")
        want = search(conn, "v", k=50)
        for create, reads in [
            ("CREATE TABLE x AS TABLE t", True),
            ("CREATE UNLOGGED TABLE x AS TABLE t", True),
            ("CREATE TEMP TABLE x AS TABLE t", True),
            ("CREATE MATERIALIZED VIEW x AS TABLE t", True),
            ("CREATE TABLE x () INHERITS (t); WITH gone AS (DELETE FROM ONLY t RETURNING *) INSERT INTO x SELECT * FROM gone", True),
            ("CREATE TABLE x (LIKE t); CREATE TABLE x1 () INHERITS (x); INSERT INTO x SELECT * FROM t WHERE id % 2 = 0; INSERT INTO x1 SELECT * FROM t WHERE id % 2 = 1", False),
            ("CREATE TABLE x (LIKE t) PARTITION BY LIST ((id % 2)); CREATE TABLE x0 PARTITION OF x FOR VALUES IN (0); CREATE TABLE x1 PARTITION OF x FOR VALUES IN (1); INSERT INTO x SELECT * FROM t", False),
        ]:
            conn.execute("BEGIN; " + create)
            assert search(conn, "x", k=50) == want, create
            assert (planned(conn, "x", f"SELECT * FROM pgedge.batch_search({ONE}, relation => 'x')") == 0) == reads, create
            if "INHERITS (t)" in create:
                assert search(conn, "t", k=50) == want
            conn.execute("ROLLBACK")
        # a partition by itself
        conn.execute("CREATE TABLE parts (LIKE t) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (500); INSERT INTO parts SELECT * FROM t WHERE id < 500; CREATE VIEW vpart AS TABLE part")
        assert len(same(conn, "part", "vpart", k=1000)) == 499
        # more than temp_buffers hold
        conn.execute("CREATE TEMP TABLE large AS SELECT i AS id, ARRAY[i, i % 7, 1]::vector AS embedding, repeat('n', 500) AS note FROM generate_series(1, 6000) i; CREATE TEMP VIEW vlarge AS TABLE large")
        assert conn.execute("SELECT pg_relation_size('large') > 3000000").fetchone() == (True,)
        assert len(same(conn, "large", "vlarge", k=7000)) == 6000
        # a temporary table of another session is as far away as for any query
        with small.connect() as other:
            other.execute("CREATE TEMP TABLE theirs AS TABLE t")
            oid, = other.execute("SELECT 'theirs'::regclass::oid").fetchone()
            fails_without_hint(conn, "0A000", f"SELECT * FROM pgedge.batch_search({ONE}, relation => {oid})")
        conn.execute("CREATE MATERIALIZED VIEW m AS TABLE t WITH NO DATA")
        with pytest.raises(psycopg.Error) as caught:
            search(conn, "m")
        assert caught.value.sqlstate == "55000"
        conn.execute("REFRESH MATERIALIZED VIEW m")
        assert search(conn, "m", k=50) == want


def fails_without_hint(conn, sqlstate: str, query: str) -> None:
    """An error of the server's own."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(query)
    assert caught.value.sqlstate == sqlstate, caught.value


def test_tables_with_nothing_to_see(db):
    with db.connect() as conn:
        conn.execute("CREATE TABLE t (note text, embedding vector, id int) WITH (autovacuum_enabled = off, fillfactor = 10); CREATE VIEW v AS TABLE t")
        assert same(conn) == []
        assert conn.execute("SELECT * FROM pgedge.knn_join('t', 't')").fetchall() == []
        conn.execute("INSERT INTO t SELECT repeat('x', 700), NULL, NULL FROM generate_series(1, 300)")
        assert same(conn) == []
        conn.execute("DELETE FROM t")
        assert same(conn) == []
        # the first pages empty, then one row
        conn.execute("INSERT INTO t VALUES ('', '[1,2,3]', 5)")
        assert same(conn) == [(1, 1, "5", "0")]
        conn.execute("VACUUM t")
        assert same(conn) == [(1, 1, "5", "0")]
        # a table rewritten, emptied and filled by this very transaction
        with conn.transaction():
            conn.execute("ALTER TABLE t ADD COLUMN big bigserial")
            assert same(conn) == [(1, 1, "5", "0")]
            conn.execute("TRUNCATE t")
            assert same(conn) == []
            conn.execute("INSERT INTO t VALUES ('', '[1,2,3]', 6)")
            conn.execute("CREATE INDEX ON t (id); CLUSTER t USING t_id_idx")
            assert same(conn) == [(1, 1, "6", "0")]
            conn.execute("DROP VIEW v; ALTER TABLE t ALTER COLUMN id TYPE text USING 'was ' || id, ALTER COLUMN embedding TYPE halfvec(3); CREATE VIEW v AS TABLE t")
            assert same(conn) == [(1, 1, "was 6", "0")]
        assert same(conn) == [(1, 1, "was 6", "0")]


def test_what_the_executor_is_asked_for(small):
    """Workers, serializable transactions and row-level security; and settings that say so or the contrary, however absurd, change no row."""
    call = f"SELECT * FROM pgedge.batch_search({ONE}, relation => 't')"
    with small.connect() as conn:
        want = same(conn, k=900)
        conn.execute(PARALLEL)
        assert planned(conn, "t", call) == 1
        assert search(conn, "t", k=900) == want
        conn.execute(SERIAL)
        assert planned(conn, "t", call) == 0
        conn.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        assert planned(conn, "t", call) == 1
        assert search(conn, "t", k=900) == want
        conn.execute("COMMIT; RESET ALL")
        for settings in ("min_parallel_table_scan_size = 0", "min_parallel_table_scan_size = '715827882'", "min_parallel_table_scan_size = '8kB'; SET parallel_setup_cost = 0",
                         "parallel_setup_cost = 1e308", "parallel_setup_cost = 0", "max_parallel_workers = 0", "max_parallel_workers = 1024; SET max_parallel_workers_per_gather = 1024"):
            conn.execute("SET " + settings)
            for workers in (-1, 0, 1, 1024):
                conn.execute(f"ALTER TABLE t SET (parallel_workers = {workers})" if workers >= 0 else "ALTER TABLE t RESET (parallel_workers)")
                for force in ("off", "on", "regress"):
                    conn.execute(f"SET debug_parallel_query = {force}")
                    assert search(conn, "t", k=900) == want, (settings, workers, force)
            conn.execute("RESET ALL")
        # so many queries that workers are worth it
        conn.execute("CREATE TABLE many AS SELECT i AS id, ARRAY[i, i % 7, i % 11]::vector AS embedding FROM generate_series(1, 20000) i; CREATE VIEW vmany AS TABLE many")
        conn.execute("SET parallel_setup_cost = 1; SET min_parallel_table_scan_size = 0")
        batch = "(SELECT array_agg(ARRAY[i, i % 5, 3]::vector) FROM generate_series(1, 300) i)"
        assert len(same(conn, "many", "vmany", queries=batch, k=3)) == 900


def test_row_level_security(small):
    owner, reader, free = (f"{name}_{small.name}" for name in ("owner", "reader", "free"))
    with small.connect() as conn:
        conn.execute(f"CREATE ROLE {owner} LOGIN; CREATE ROLE {reader} LOGIN; CREATE ROLE {free} LOGIN BYPASSRLS; GRANT SELECT ON t TO {reader}, {free}")
        try:
            conn.execute(f"ALTER TABLE t OWNER TO {owner}; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY even ON t USING (id % 2 = 0)")
            call = f"SELECT count(*) FROM pgedge.batch_search({ONE}, 1000, relation => 't')"
            count = lambda session: session.execute(call).fetchone()[0]  # noqa: E731
            with small.connect(owner) as mine, small.connect(reader) as theirs, small.connect(free) as all_rows:
                assert [count(s) for s in (conn, mine, theirs, all_rows)] == [900, 900, 450, 900]
                conn.execute("ALTER TABLE t FORCE ROW LEVEL SECURITY")
                assert [count(s) for s in (conn, mine, theirs, all_rows)] == [900, 450, 450, 900]
                for session in (mine, theirs):
                    session.execute("SET row_security = off")
                    fails_without_hint(session, "42501", call)
                all_rows.execute("SET row_security = off")
                assert count(all_rows) == 900
                conn.execute("ALTER TABLE t DISABLE ROW LEVEL SECURITY")
                assert [count(s) for s in (mine, theirs)] == [900, 900]
                # as another, within the session
                conn.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
                conn.execute(f"SET ROLE {reader}")
                assert count(conn) == 450
                conn.execute("RESET ROLE")
                assert count(conn) == 900
        finally:
            conn.execute("RESET ROLE")
            conn.execute(f"DROP OWNED BY {owner}, {reader}, {free} CASCADE; DROP ROLE {owner}, {reader}, {free}")


def test_privileges(small):
    role = f"reader_{small.name}"
    with small.connect() as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN; CREATE SCHEMA closed; CREATE TABLE closed.t AS TABLE t; GRANT SELECT ON closed.t TO {role}")
        try:
            call = "SELECT count(*) FROM pgedge.batch_search(" + ONE + ", 1000, relation => {})"
            oid, = conn.execute("SELECT 'closed.t'::regclass::oid").fetchone()
            with small.connect(role) as reader:
                for columns in ("(id)", "(embedding)", "(note, id)"):
                    conn.execute(f"GRANT SELECT {columns} ON t TO {role}")
                    fails(reader, "42501", call.format("'t'"))
                    conn.execute(f"REVOKE ALL ON t FROM {role}")
                conn.execute(f"GRANT SELECT (id, embedding) ON t TO {role}")
                assert reader.execute(call.format("'t'")).fetchone() == (900,)
                # a table in a schema that may not be used, by its number: as with a query that names it
                for setting in (SERIAL, PARALLEL):
                    reader.execute(setting)
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        reader.execute(call.format(oid))
                conn.execute(f"GRANT USAGE ON SCHEMA closed TO {role}")
                reader.execute(SERIAL)
                assert reader.execute(call.format(oid)).fetchone() == (900,)
        finally:
            conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_own_changes_are_seen_and_those_of_others_are_not(small):
    near = "ARRAY['[1000,0,0]']::vector[]"
    with small.connect() as conn, small.connect() as other:
        other.execute("BEGIN; INSERT INTO t VALUES (5000, '[1000,0,0]'); UPDATE t SET embedding = '[1001,0,0]' WHERE id = 1; DELETE FROM t WHERE id = 2")
        conn.execute("BEGIN; INSERT INTO t VALUES (6000, '[1002,0,0]')")
        seen = same(conn, queries=near, k=1000)
        assert len(seen) == 901 and seen[0][2] == "6000"
        conn.execute("SAVEPOINT a; UPDATE t SET embedding = '[1000,0,0]' WHERE id = 6000; DELETE FROM t WHERE id BETWEEN 10 AND 19")
        seen = same(conn, queries=near, k=1000)
        assert len(seen) == 891 and seen[0] == (1, 1, "6000", "0")
        conn.execute("SAVEPOINT b; INSERT INTO t VALUES (6001, '[1000,0,0]'); RELEASE SAVEPOINT b")
        assert len(same(conn, queries=near, k=1000)) == 892
        conn.execute("ROLLBACK TO SAVEPOINT a")
        seen = same(conn, queries=near, k=1000)
        assert len(seen) == 901 and seen[0] == (1, 1, "6000", "2")
        other.execute("COMMIT")
        seen = same(conn, queries=near, k=1000)
        assert [r[2] for r in seen[:3]] == ["5000", "1", "6000"] and len(seen) == 901
        # locked and half-locked rows are rows
        other.execute("BEGIN; SELECT * FROM t WHERE id < 100 FOR SHARE")
        conn.execute("SELECT * FROM t WHERE id < 50 FOR KEY SHARE")
        assert same(conn, queries=near, k=1000) == seen
        other.execute("ROLLBACK")
        conn.execute("ROLLBACK")
        assert len(same(conn, queries=near, k=1000)) == 900


def test_a_snapshot_stays_while_others_write_and_vacuum(small):
    with small.connect() as conn, small.connect() as other, small.connect() as third:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        want = same(conn, k=1000)
        third.execute("BEGIN")
        third.execute(f"DECLARE c CURSOR FOR SELECT query_no, rank, id, similarity::text FROM pgedge.batch_search({ONE}, 1000, 'l2', relation => 't')")
        for n in range(4):
            other.execute(f"UPDATE t SET embedding = '[1,2,3]', note = 'n{n}' WHERE id % 3 = {n % 3}; DELETE FROM t WHERE id % 10 = {n}; INSERT INTO t SELECT 5000 + i, '[1,2,3]' FROM generate_series(1, 20) i")
            other.execute("VACUUM t" if n % 2 else "VACUUM (FREEZE) t")
            assert same(conn, k=1000) == want
        assert third.execute("FETCH ALL FROM c").fetchall() == want
        third.execute("COMMIT")
        conn.execute("COMMIT")
        now = same(conn, k=1000)
        assert [(len(now), now[0][3])] == conn.execute("SELECT count(*), '0' FROM t").fetchall() and now != want
        # nobody needs the old rows any more
        other.execute("VACUUM (FREEZE) t")
        assert same(conn, k=1000) == now


def test_snapshots_of_functions_triggers_and_blocks(small):
    """A STABLE function sees what its caller's statement sees, a VOLATILE one what was done since; a trigger and a block that commits, what a query there sees."""
    with small.connect() as conn:
        conn.execute("""
            CREATE TABLE log (place text, direct bigint, through_view bigint);
            CREATE FUNCTION near(r regclass) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN (SELECT count(*) FROM pgedge.batch_search(ARRAY['[500,0,0]']::vector[], 2000, 'l2', 1.0, relation => r)); END $$;
            CREATE FUNCTION stable_near(r regclass) RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*) FROM pgedge.batch_search(ARRAY['[500,0,0]']::vector[], 2000, 'l2', 1.0, relation => r)); END $$;
            CREATE FUNCTION constant_near(r regclass) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN (SELECT count(*) FROM pgedge.batch_search(ARRAY['[500,0,0]']::vector[], 2000, 'l2', 1.0, relation => r)); END $$;
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (TG_WHEN || ' ' || TG_LEVEL, near('t'), near('v')), ('stable ' || TG_WHEN || ' ' || TG_LEVEL, stable_near('t'), stable_near('v')); RETURN NEW; END $$;
            CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
            CREATE TRIGGER b AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
            CREATE TRIGGER c AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION note();
            CREATE CONSTRAINT TRIGGER d AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()""")
        conn.execute("INSERT INTO t SELECT 7000 + i, '[500,0,0]' FROM generate_series(1, 2) i")
        rows = conn.execute("SELECT place, direct, through_view FROM log").fetchall()
        assert all(a == b for _, a, b in rows), rows
        assert {("BEFORE ROW", 0, 0), ("BEFORE ROW", 1, 1), ("AFTER ROW", 2, 2), ("AFTER STATEMENT", 2, 2), ("stable BEFORE ROW", 0, 0)} <= set(rows)
        conn.execute("DROP TRIGGER a ON t; DROP TRIGGER b ON t; DROP TRIGGER c ON t; DROP TRIGGER d ON t")
        # within a statement that writes
        got = conn.execute("WITH w AS (INSERT INTO t SELECT 7100 + i, '[500,0,0]' FROM generate_series(1, 3) i RETURNING near('t') AS a, near('v') AS b, stable_near('t') AS c, stable_near('v') AS d, constant_near('t') AS e, constant_near('v') AS f)"
                           " SELECT * FROM w").fetchall()
        assert all(a == b and c == d and e == f for a, b, c, d, e, f in got) and [r[2] for r in got] == [2, 2, 2] and [r[0] for r in got] == [3, 4, 5], got
        conn.execute("""
            CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$
            DECLARE a bigint; b bigint;
            BEGIN
                FOR i IN 1..5 LOOP
                    INSERT INTO t VALUES (7200 + i, '[500,0,0]');
                    a := near('t'); b := stable_near('v');
                    IF a <> b OR a <> 5 + i THEN RAISE 'direct %, through the view %', a, b; END IF;
                    IF i % 2 = 0 THEN COMMIT; END IF;
                    BEGIN
                        DELETE FROM t WHERE embedding = '[500,0,0]';
                        IF near('t') <> 0 THEN RAISE 'deleted rows'; END IF;
                        PERFORM pgedge.batch_search(ARRAY['[1,2]']::vector[], relation => 't');
                    EXCEPTION WHEN data_exception THEN NULL;
                    END;
                    IF near('t') <> 5 + i THEN RAISE 'rows of a subtransaction that was rolled back'; END IF;
                END LOOP;
            END $$""")
        conn.execute("CALL steps()")
        # a cursor within a function, over rows that the loop changes
        conn.execute("""
            CREATE FUNCTION walk(r regclass) RETURNS text LANGUAGE plpgsql AS $$
            DECLARE h record; met text := '';
            BEGIN
                FOR h IN SELECT id FROM pgedge.batch_search(ARRAY['[500,0,0]']::vector[], 20, 'l2', 1.0, relation => r) LOOP
                    met := met || ' ' || h.id; DELETE FROM t WHERE t.id > 7200;
                END LOOP;
                RETURN met || ' then ' || near(r);
            END $$""")
        walks = []
        for relation in ("t", "v"):
            conn.execute("BEGIN")
            walks.append(conn.execute("SELECT walk(%s)", (relation,)).fetchone()[0])
            conn.execute("ROLLBACK")
        assert walks[0] == walks[1] and walks[0].endswith("7205 then 5")


def test_write_skew_is_detected(small):
    """Two serializable transactions that each search and then insert what the other's search would have found."""
    call = "SELECT count(*) FROM pgedge.batch_search(ARRAY['[500,0,0]']::vector[], 10, 'l2', 1.0, relation => 't')"
    with small.connect() as one, small.connect() as two:
        for session in (one, two):
            session.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            assert session.execute(call).fetchone() == (0,)
        with pytest.raises(psycopg.errors.SerializationFailure):
            for session, number in ((one, 1), (two, 2)):
                session.execute(f"INSERT INTO t VALUES (8000 + {number}, '[500,0,0]')")
                session.execute("COMMIT")
        one.execute("ROLLBACK")
        two.execute("ROLLBACK")
        assert one.execute(call).fetchone() == (1,)


def test_what_always_holds_is_seen_to_hold_while_others_write(db):
    """Writers move the mark from row to row within a transaction; every search finds it exactly as often as it is there, and every row once."""
    marked, rows = 7, 600
    with db.connect() as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, note text, embedding vector(40), filler text) WITH (fillfactor = 70)")
        conn.execute(f"INSERT INTO t SELECT i, 'n', array_fill(CASE WHEN i <= {marked} THEN 9 ELSE i % 5 END, ARRAY[40])::real[]::vector, CASE WHEN i % 3 = 0 THEN repeat(md5(i::text), 60) END FROM generate_series(1, {rows}) i")
        conn.execute("ALTER TABLE t ALTER COLUMN filler SET STORAGE EXTERNAL")
    until, faults, done = time.monotonic() + 2.5, [], {"searches": 0, "writes": 0, "vacuums": 0}
    mark = "array_fill(9, ARRAY[40])::real[]::vector"

    def loop(kind, step):
        def run():
            try:
                with db.connect() as session:
                    while time.monotonic() < until and not faults:
                        step(session)
                        done[kind] += 1
            except BaseException as error:  # noqa: BLE001
                faults.append(error)
        return threading.Thread(target=run)

    def write(session):
        rng = random.Random(done["writes"] * 31 + id(session))
        try:
            with session.transaction():
                session.execute(f"WITH old AS (SELECT id FROM t WHERE embedding = {mark} ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED),"
                                f" was AS (UPDATE t SET embedding = array_fill({rng.randint(0, 4)}, ARRAY[40])::real[]::vector, note = md5(random()::text) WHERE id IN (SELECT id FROM old) RETURNING 1)"
                                f" UPDATE t SET embedding = {mark} WHERE id IN (SELECT id FROM t WHERE embedding <> {mark} ORDER BY random() LIMIT (SELECT count(*) FROM old) FOR UPDATE SKIP LOCKED) ")
                if session.execute(f"SELECT count(*) FROM t WHERE embedding = {mark}").fetchone()[0] != marked or rng.random() < 0.2:
                    raise Undo()
                # rows that move, and come back under another number
                session.execute(f"WITH gone AS (DELETE FROM t WHERE id = {rng.randint(1, rows)} RETURNING *) INSERT INTO t SELECT id + 100000 * (1 - 2 * (id / 100000)), note, embedding, filler FROM gone")
        except (Undo, psycopg.errors.DeadlockDetected):
            pass

    def read(session):
        found = session.execute(f"SELECT id, similarity FROM pgedge.batch_search(ARRAY[{mark}], 2000, 'l2', relation => 't')").fetchall()
        near = [r for r in found if r[1] == 0]
        assert (len(near), len(found), len({int(r[0]) % 100000 for r in found})) == (marked, rows, rows)

    def vacuum(session):
        session.execute("VACUUM t" if done["vacuums"] % 3 else "VACUUM (FREEZE) t")

    threads = [loop("writes", write), loop("writes", write), loop("searches", read), loop("searches", read), loop("vacuums", vacuum)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    assert all(n > 5 for n in done.values()), done


def test_a_cancel_leaves_no_page_pinned(db):
    with db.connect() as conn, db.connect() as other:
        conn.execute(SERIAL)
        conn.execute("CREATE TABLE t (id text, embedding vector(64)) WITH (autovacuum_enabled = off)")
        conn.execute("INSERT INTO t SELECT md5(i::text), array_fill(i % 97, ARRAY[64])::real[]::vector FROM generate_series(1, 30000) i; UPDATE t SET id = id WHERE id < '4'")
        batch = "(SELECT array_agg(array_fill(i % 89, ARRAY[64])::real[]::vector) FROM generate_series(1, 600) i)"
        cancelled = 0
        for n in range(8):
            conn.execute("BEGIN; SAVEPOINT s")
            conn.execute(f"SET LOCAL statement_timeout = {12 + n * 9}")
            try:
                conn.execute(f"SELECT count(*) FROM pgedge.batch_search({batch}, 5, relation => 't')")
            except psycopg.errors.QueryCanceled:
                cancelled += 1
            # still within the transaction, whose lock does not keep a VACUUM off
            conn.execute("ROLLBACK TO s")
            other.execute("SET statement_timeout = 20000")
            other.execute("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) t")
            conn.execute("COMMIT")
        assert cancelled >= 4
        conn.execute("SET statement_timeout = 0")
        assert conn.execute("SELECT bool_and(relfrozenxid::text::bigint > 700) FROM pg_class WHERE oid = 't'::regclass").fetchone() == (True,)
        assert len(search(conn, "t", f"{batch}[1:3]", 5)) == 15


def test_errors_leave_nothing_behind(small):
    """In the middle of a table; in blocks that catch them, hundreds of times; and the session goes on."""
    with small.connect() as conn, small.connect() as other:
        conn.execute("CREATE TABLE bad_id AS TABLE t; INSERT INTO bad_id VALUES (NULL, '[1,1,1]'); INSERT INTO bad_id SELECT * FROM t; CREATE VIEW vbad_id AS TABLE bad_id")
        conn.execute("CREATE TABLE bad_dim AS SELECT id, embedding::vector AS embedding, note FROM t; INSERT INTO bad_dim VALUES (0, '[1,1]'); INSERT INTO bad_dim SELECT * FROM t; CREATE VIEW vbad_dim AS TABLE bad_dim")
        for relation, state in (("bad_id", "22004"), ("bad_dim", "22000")):
            for r in (relation, "v" + relation):
                fails(conn, state, f"SELECT * FROM pgedge.batch_search({ONE}, relation => '{r}')")
        # a NULL id is no matter where there is no embedding
        conn.execute("CREATE TABLE no_matter AS TABLE t; INSERT INTO no_matter VALUES (NULL, NULL)")
        assert search(conn, "no_matter", k=900) == search(conn, "v", k=900)
        conn.execute("""
            CREATE FUNCTION many(r regclass) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                FOR i IN 1..300 LOOP
                    BEGIN PERFORM pgedge.batch_search(ARRAY['[1,2,3]']::vector[], relation => r); RAISE 'no error';
                    EXCEPTION WHEN null_value_not_allowed OR data_exception THEN NULL; END;
                END LOOP;
            END $$""")
        conn.execute("BEGIN")
        conn.execute("SELECT many('bad_id'), many('bad_dim')")
        memory = conn.execute("SELECT sum(total_bytes) FROM pg_backend_memory_contexts").fetchone()[0]
        conn.execute("SELECT many('bad_id'), many('bad_dim')")
        assert conn.execute("SELECT sum(total_bytes) FROM pg_backend_memory_contexts").fetchone()[0] - memory < 1 << 20
        assert conn.execute("SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'pgedge%'").fetchone() == (0,)
        other.execute("SET statement_timeout = 20000")
        other.execute("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) bad_id")
        same(conn)
        conn.execute("COMMIT")
        # nothing is open in this session: it may drop what it has searched
        conn.execute("DROP TABLE bad_id, bad_dim CASCADE")


def test_ids_whose_order_is_a_function_that_searches(db):
    """Ids of a type whose comparison is written in SQL, and itself searches a table with ids of another type, fails, or empties the table."""
    with db.connect() as conn:
        conn.execute("""
            CREATE TABLE inner_t AS SELECT '2024-01-01'::date + i AS id, '[1,2,3]'::vector AS embedding FROM generate_series(1, 30) i;
            CREATE TYPE odd AS (n int);
            CREATE TABLE t (id odd, embedding vector(3)); CREATE VIEW v AS TABLE t;
            INSERT INTO t SELECT ROW(i * 37 % 101)::odd, '[1,2,3]' FROM generate_series(1, 100) i;
            CREATE FUNCTION odd_cmp(a odd, b odd) RETURNS int LANGUAGE plpgsql AS $$
            DECLARE found text;
            BEGIN
                CASE current_setting('test.what')
                WHEN 'search' THEN
                    SELECT string_agg(s.id, ',') INTO found FROM pgedge.batch_search(ARRAY['[1,2,3]']::vector[], 3, relation => 'inner_t') s;
                    IF found <> '2024-01-02,2024-01-03,2024-01-04' THEN RAISE 'found %', found; END IF;
                WHEN 'fail' THEN IF a.n = 50 THEN RAISE division_by_zero; END IF;
                WHEN 'empty' THEN TRUNCATE t;
                WHEN 'write' THEN INSERT INTO t VALUES (ROW(1000), '[1,2,3]');
                ELSE NULL;
                END CASE;
                RETURN sign(b.n - a.n);  -- the largest first, as no other type has it
            END $$;
            CREATE FUNCTION odd_lt(a odd, b odd) RETURNS boolean LANGUAGE sql AS 'SELECT a.n > b.n';
            CREATE FUNCTION odd_eq(a odd, b odd) RETURNS boolean LANGUAGE sql AS 'SELECT a.n = b.n';
            CREATE OPERATOR <<< (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_lt);
            CREATE OPERATOR === (LEFTARG = odd, RIGHTARG = odd, FUNCTION = odd_eq);
            CREATE OPERATOR CLASS odd_ops DEFAULT FOR TYPE odd USING btree AS OPERATOR 1 <<<, OPERATOR 3 ===, FUNCTION 1 odd_cmp(odd, odd)""")
        conn.execute(SERIAL)
        for what in ("nothing", "search"):
            conn.execute(f"SET test.what = '{what}'")
            assert [[r[2] for r in search(conn, relation, k=4)] for relation in "tv"] == [[f"({n})" for n in sorted((i * 37 % 101 for i in range(1, 101)), reverse=True)[:4]]] * 2, what
        conn.execute("SET test.what = 'fail'")
        for relation in ("t", "v") * 2:
            fails_without_hint(conn, "22012", f"SELECT * FROM pgedge.batch_search({ONE}, 4, relation => '{relation}')")
        conn.execute("SET test.what = 'empty'")
        for relation in ("t", "v"):
            fails_without_hint(conn, "55006", f"SELECT * FROM pgedge.batch_search({ONE}, 4, relation => '{relation}')")
        conn.execute("BEGIN; SET LOCAL test.what = 'write'")
        assert len(search(conn, "t", k=1000)) == 100
        conn.execute("ROLLBACK; SET test.what = 'nothing'")
        assert len(same(conn, k=1000)) == 100


def test_scans_are_counted(small):
    with small.connect() as conn:
        conn.execute(SERIAL + "; SET stats_fetch_consistency = none")
        counts = "SELECT seq_scan, seq_tup_read FROM pg_stat_user_tables WHERE relid = 't'::regclass"
        flush = "SELECT pg_stat_force_next_flush()"
        conn.execute(flush)
        before = conn.execute(counts).fetchone()
        search(conn, "t")
        conn.execute(flush)
        direct = conn.execute(counts).fetchone()
        search(conn, "v")
        conn.execute(flush)
        after = conn.execute(counts).fetchone()
        assert (direct[0] - before[0], direct[1] - before[1]) == (after[0] - direct[0], after[1] - direct[1]) == (1, 900)


def test_memory_does_not_grow_with_the_table(db):
    """Embeddings compressed, in line and short, and ids that are text: what reading a row takes is given back."""
    with db.connect() as conn:
        conn.execute(SERIAL)
        conn.execute("CREATE UNLOGGED TABLE t (note text, id text, embedding vector(250)); ALTER TABLE t ALTER COLUMN embedding SET STORAGE EXTENDED; ALTER TABLE t SET (toast_tuple_target = 300)")
        conn.execute("INSERT INTO t SELECT repeat('z', 1200), repeat('i', 50) || i, e FROM (SELECT array_agg(array_fill(i, ARRAY[250])::real[]::vector ORDER BY i) AS all_e FROM generate_series(0, 49) i) q, generate_series(1, 2000) g, LATERAL (SELECT g * 50 + n AS i, e FROM unnest(all_e) WITH ORDINALITY u(e, n)) x")
        size = conn.execute("SELECT pg_column_size(embedding) FROM t LIMIT 1").fetchone()[0]
        assert size < 500, "compressed"
        one = "ARRAY[array_fill(3, ARRAY[250])::real[]::vector]"
        search(conn, "t", one, 3)

        def private() -> int:
            with open(f"/proc/{conn.info.backend_pid}/status", encoding="ascii") as f:
                return next(int(line.split()[1]) for line in f if line.startswith("RssAnon"))

        before, peak, done = private(), [0], threading.Event()

        def watch():
            while not done.is_set():
                peak[0] = max(peak[0], private())
                time.sleep(0.002)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert search(conn, "t", one, 3)[0][3] == "0"
        finally:
            done.set()
            watcher.join()
        assert peak[0] - before < 4 * 1024 and private() - before < 1024, (before, peak, private())


def restart(server: Cluster, settings: str) -> psycopg.Connection:
    server.stop()
    with open(server.data / "postgresql.conf", "a", encoding="utf-8") as f:
        f.write(settings)
    server.start()
    conn = psycopg.connect(server.dsn(), autocommit=True)
    conn.execute(SERIAL + "; SET stats_fetch_consistency = none")
    return conn


@pytest.fixture(scope="module")
def tiny(server):
    """128 buffers for 40 sessions: two or three for each."""
    restart(server, "shared_buffers = 1MB\n").close()
    server.psql("CREATE TABLE t (id int, embedding vector(64)); INSERT INTO t SELECT i, " + vector_of(64) + " FROM generate_series(1, 4000) i; CREATE VIEW v AS TABLE t")
    yield server


def test_few_buffers_for_many_sessions(tiny):
    """A table larger than all buffers, so that a ring of them is used, searched by 20 sessions at a time."""
    queries = some(64, [5, 77])
    with psycopg.connect(tiny.dsn(), autocommit=True) as conn:
        conn.execute(SERIAL)
        want = same(conn, queries=queries, k=20)
        assert conn.execute("SELECT pg_relation_size('t') / 8192 > 128").fetchone() == (True,)
    faults, rounds = [], [0]

    def run():
        try:
            with psycopg.connect(tiny.dsn(), autocommit=True) as session:
                session.execute(SERIAL)
                for _ in range(12):
                    assert search(session, "t", queries, 20) == want
                    rounds[0] += 1
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and rounds[0] == 240, faults[:2]


def test_standby(tiny):
    """Pages that the primary calls all-visible, and rows that it deletes, as the standby's snapshot sees them."""
    standby = start_standby(tiny)
    try:
        with psycopg.connect(tiny.dsn(), autocommit=True) as primary, psycopg.connect(standby.dsn(), autocommit=True) as replica:
            primary.execute("CREATE TABLE s (id int, embedding vector(64)) WITH (autovacuum_enabled = off)")
            primary.execute("CREATE VIEW vs AS TABLE s")

            def caught_up():
                until, = primary.execute("SELECT pg_current_wal_lsn()").fetchone()
                deadline = time.monotonic() + 20
                while not replica.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (until,)).fetchone()[0]:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)

            for n, step in enumerate(("INSERT INTO s SELECT * FROM t WHERE id <= 500", "VACUUM (FREEZE) s", "DELETE FROM s WHERE id % 3 = 0", "UPDATE s SET embedding = embedding WHERE id % 5 = 0", "VACUUM s")):
                primary.execute(step)
                caught_up()
                got = same(replica, "s", "vs", queries=some(64, [n + 1]), k=600)
                assert got == same(primary, "s", "vs", queries=some(64, [n + 1]), k=600) and len(got) == (500 if n < 2 else 334)
            assert planned(replica, "s", f"SELECT * FROM pgedge.batch_search({some(64, [1])}, relation => 's')") == 0
            primary.execute("CREATE UNLOGGED TABLE unlogged AS TABLE s; CREATE VIEW vunlogged AS TABLE unlogged")
            caught_up()
            for relation in ("unlogged", "vunlogged"):
                fails_without_hint(replica, "0A000", f"SELECT * FROM pgedge.batch_search({some(64, [1])}, relation => '{relation}')")
            # a snapshot older than what is replayed
            primary.execute("BEGIN; DELETE FROM s WHERE id % 2 = 0; INSERT INTO s SELECT 9000 + id, embedding FROM t WHERE id <= 40")
            replica.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            before = same(replica, "s", "vs", queries=some(64, [1]), k=600)
            primary.execute("COMMIT")
            caught_up()
            assert same(replica, "s", "vs", queries=some(64, [1]), k=600) == before
            replica.execute("COMMIT")
            assert same(replica, "s", "vs", queries=some(64, [1]), k=600) == same(primary, "s", "vs", queries=some(64, [1]), k=600) != before
        assert complaints(standby) == []
    finally:
        standby.destroy()


def pages(conn, table: str, column: str) -> int:
    """A column of pg_statio_user_tables."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    return conn.execute(f"SELECT {column} FROM pg_statio_user_tables WHERE relid = %s::regclass", (table,)).fetchone()[0]


def test_what_is_searched_often_stays_cached(tiny):
    """As with sequential scans: pages that are used again and again are the last to go, and where they were found is counted."""
    with restart(tiny, "shared_buffers = 16MB\nmax_connections = 10\n") as conn:
        conn.execute("CREATE TABLE hot AS SELECT i AS id, array_fill(i % 10 + 1, ARRAY[300])::real[]::vector AS embedding FROM generate_series(1, 2400) i; CREATE VIEW vhot AS TABLE hot")
        for n in range(6):
            conn.execute(f"CREATE TABLE other{n} AS SELECT i, repeat('x', 1900) FROM generate_series(1, 1800) i")
            conn.execute(f"VACUUM other{n}")
        conn.execute("VACUUM hot")
        counted = {}
        for relation in ("vhot", "hot"):
            for n in (*range(6), *range(6)):
                conn.execute(f"SELECT count(*) FROM other{n}")
            search(conn, relation, "ARRAY[array_fill(3, ARRAY[300])::real[]::vector]", 3)
            hits = pages(conn, "hot", "heap_blks_hit")
            for _ in range(30):
                search(conn, relation, "ARRAY[array_fill(3, ARRAY[300])::real[]::vector]", 3)
            counted[relation] = pages(conn, "hot", "heap_blks_hit") - hits
            for n in range(4):
                conn.execute(f"SELECT count(*) FROM other{n}")
            hits = pages(conn, "hot", "heap_blks_read")
            conn.execute("SELECT count(*) FROM hot")
            assert pages(conn, "hot", "heap_blks_read") - hits < 100, relation
        assert counted["hot"] == counted["vhot"]


def test_a_large_table_displaces_nothing(tiny):
    """One larger than a quarter of the cache goes through a ring of 32 buffers, however many pages of it are pinned ahead."""
    many = "(SELECT array_agg(array_fill(3 + i, ARRAY[1900])::real[]::vector) FROM generate_series(1, 64) i)"
    with restart(tiny, "shared_buffers = 16MB\nmax_connections = 10\n") as conn:
        conn.execute("CREATE TABLE kept AS SELECT i, repeat('x', 1900) FROM generate_series(1, 1800) i")
        conn.execute("CREATE TABLE large (id int, embedding vector(1900)); ALTER TABLE large ALTER COLUMN embedding SET STORAGE plain;"
                     " INSERT INTO large SELECT i, array_fill(i % 10 + 1, ARRAY[1900])::real[]::vector FROM generate_series(1, 4000) i; CREATE VIEW vlarge AS TABLE large")
        conn.execute("VACUUM kept")
        conn.execute("VACUUM large")
    for relation in ("vlarge", "large"):
        with restart(tiny, "") as conn:
            conn.execute("SELECT count(*) FROM kept")
            search(conn, relation, many, 3)
            before = pages(conn, "kept", "heap_blks_read")
            conn.execute("SELECT count(*) FROM kept")
            assert pages(conn, "kept", "heap_blks_read") - before < 100, relation


def test_old_snapshot_threshold(tiny):
    """With it a row may be gone that a snapshot should see: an error of the server's, which looks at it in every page that its scans read."""
    with restart(tiny, "old_snapshot_threshold = 1h\n") as conn:
        assert len(same(conn, queries=some(64, [1]))) == 5
        assert planned(conn, "t", f"SELECT * FROM pgedge.batch_search({some(64, [1])}, relation => 't')") == 1
    with restart(tiny, "old_snapshot_threshold = -1\n") as conn:
        assert planned(conn, "t", f"SELECT * FROM pgedge.batch_search({some(64, [1])}, relation => 't')") == 0


def test_pages_of_zeros_and_broken_pages(tiny):
    """What a crash leaves at the end of a table is passed over; a page that is no page is the server's error, and the session goes on."""
    with psycopg.connect(tiny.dsn(), autocommit=True) as conn:
        conn.execute("CREATE TABLE z AS SELECT * FROM t WHERE id <= 300; CREATE VIEW vz AS TABLE z; CREATE TABLE broken AS SELECT * FROM t WHERE id <= 300; CREATE VIEW vbroken AS TABLE broken")
        places = {name: tiny.data / conn.execute(f"SELECT pg_relation_filepath('{name}')").fetchone()[0] for name in ("z", "broken")}
    tiny.stop()
    with open(places["z"], "r+b") as f:
        f.seek(8192)
        second = f.read(8192)
        f.seek(8192)
        f.write(bytes(8192))
        f.seek(0, 2)
        f.write(bytes(8192) + second + bytes(3 * 8192))
    with open(places["broken"], "r+b") as f:
        f.seek(3 * 8192 + 12)
        f.write(b"\xff" * 6)
    tiny.start()
    with psycopg.connect(tiny.dsn(), autocommit=True) as conn:
        conn.execute(SERIAL)
        assert len(same(conn, "z", "vz", queries=some(64, [1]), k=500)) == 300
        for relation in ("broken", "vbroken") * 3:
            fails_without_hint(conn, "XX001", f"SELECT * FROM pgedge.batch_search({some(64, [1])}, relation => '{relation}')")
        conn.execute("INSERT INTO z SELECT id + 1000, embedding FROM t WHERE id <= 100")
        assert len(same(conn, "z", "vz", queries=some(64, [1]), k=500)) == 400
        conn.execute("DROP TABLE broken CASCADE")
