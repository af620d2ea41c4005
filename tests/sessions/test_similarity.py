"""Similarity search against pgvector's own exact scan, in parallel, under row-level security, over partitions and foreign tables, within work_mem."""
from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

import numpy as np
import psycopg
import pytest

from cluster import Cluster
from conftest import ROOT, create_database
from support import fails, start_standby

OPERATOR = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}
# Without debug_parallel_query so small a table would be read without a plan, and so without workers.
PARALLEL = ("SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET max_parallel_workers_per_gather = 4;"
            " SET debug_parallel_query = on")
SERIAL = "SET max_parallel_workers_per_gather = 0"
K = 12
# A cancel may take so long, in seconds. 60 ms at most were seen on an idle machine; where others use the processors the backend, its workers and this
# client each wait for their turns, of some milliseconds each. What runs uninterrupted in the tested statements took 0.8 s and more where it was found.
AT_ONCE = 0.3


def copy_vectors(conn: psycopg.Connection, table: str, ids: np.ndarray, vectors: np.ndarray) -> None:
    """Binary COPY of (int4, vector) in pgvector's wire format."""
    head = struct.pack(">HH", vectors.shape[1], 0)
    with conn.cursor() as cur, cur.copy(f"COPY {table} (id, embedding) FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
        for number, vector in zip(ids, vectors.astype(">f4")):
            body = head + vector.tobytes()
            copy.write(struct.pack(">hiii", 2, 4, int(number), len(body)) + body)
        copy.write(struct.pack(">h", -1))


def real_vectors() -> np.ndarray:
    """Embeddings of the demo, each three times exactly and once with a little noise: ties and near ties everywhere."""
    base = np.load(ROOT / "examples" / "embeddings.npy").astype(np.float32)
    noise = np.random.default_rng(7).normal(0, 0.01, base.shape).astype(np.float32)
    return np.concatenate([base, base, base, base + noise])


@pytest.fixture(scope="module")
def data(cluster):
    """items (vector) and halves (halfvec): 6,000 rows with ids in no order, and 60 queries among them."""
    db = create_database(cluster)
    vectors = real_vectors()
    ids = np.random.default_rng(3).permutation(len(vectors)) + 1
    with db.connect() as conn:
        conn.execute("CREATE TABLE items (id int PRIMARY KEY, embedding vector(384))")
        copy_vectors(conn, "items", ids, vectors)
        conn.execute("CREATE TABLE halves AS SELECT id, embedding::halfvec(384) FROM items")
        conn.execute("CREATE TABLE queries AS SELECT row_number() OVER (ORDER BY md5(id::text))::int AS n, embedding AS e FROM items ORDER BY 1 LIMIT 60")
        conn.execute("CREATE FUNCTION batch(n int DEFAULT 60) RETURNS vector[] LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT array_agg(e ORDER BY q.n) FROM queries q WHERE q.n <= batch.n'")
        conn.execute("VACUUM ANALYZE")
    db.by_id = dict(zip(ids.tolist(), vectors))
    yield db
    cluster.psql(f'DROP DATABASE "{db.name}" WITH (FORCE)')


def score(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "l2":
        return float(np.linalg.norm(a - b))
    dot = float(a @ b)
    return dot if metric == "ip" else dot / float(np.linalg.norm(a) * np.linalg.norm(b))


def search(conn, metric="cosine", k=K, queries="batch()", more="relation => 'items'"):
    return conn.execute(f"SELECT query_no, rank, id, similarity FROM pgedge.batch_search({queries}, {k}, '{metric}', {more})").fetchall()


@pytest.mark.parametrize("table", ["items", "halves"])
@pytest.mark.parametrize("metric", OPERATOR)
def test_the_same_rows_in_the_same_order_as_pgvector(data, metric, table):
    with data.connect() as conn:
        ours = search(conn, metric, more=f"relation => '{table}'")
        cast = "::halfvec" if table == "halves" else ""
        theirs = conn.execute(
            f"SELECT q.n, t.rank, t.id FROM queries q, LATERAL (SELECT id, row_number() OVER () AS rank FROM (SELECT id FROM {table}"
            f" ORDER BY embedding {OPERATOR[metric]} q.e{cast}, id LIMIT {K}) s) t ORDER BY 1, 2").fetchall()
        queries = [np.array([float(x) for x in r[0].strip("[]").split(",")], dtype=np.float32)
                   for r in conn.execute("SELECT e::text FROM queries ORDER BY n")]
    assert [r[:2] for r in ours] == [r[:2] for r in theirs] and len(ours) == 60 * K
    row = {i: v.astype(np.float16).astype(np.float32) for i, v in data.by_id.items()} if table == "halves" else data.by_id
    other = 0
    for (n, _, mine, value), (_, _, his) in zip(ours, theirs):
        query = queries[n - 1]
        true = score(metric, query, row[int(mine)])
        assert value == pytest.approx(true, rel=1e-5, abs=1e-6)
        if int(mine) != his:
            # pgvector sums in single precision (and rounds a halfvec's query), so it may swap what is equal to within that
            other += 1
            assert true == pytest.approx(score(metric, query, row[his]), abs=2e-3 if table == "halves" else 1e-6)
    assert table == "halves" or other < len(ours) // 50, f"{other} of {len(ours)} rows differ"
    # ties come in the order of ids
    for a, b in zip(ours, ours[1:]):
        assert a[0] != b[0] or a[3] != b[3] or int(a[2]) < int(b[2])


def test_workers_blocks_and_order_change_nothing(data):
    with data.connect() as conn:
        conn.execute(SERIAL)
        want = search(conn)
        conn.execute("SET work_mem = '64kB'")  # a block for every few queries
        assert search(conn) == want
        conn.execute(PARALLEL)
        assert search(conn) == want
        conn.execute("RESET work_mem")
        assert search(conn) == want
        conn.execute("CREATE TEMP TABLE shuffled AS SELECT id, embedding FROM items ORDER BY md5(embedding::text)")
        assert search(conn, more="relation => 'shuffled'") == want
        # the aggregate itself, as SQL writes it
        conn.execute("SELECT 1")
        assert conn.execute(f"SELECT h.* FROM unnest((SELECT pgedge.top_k(id, embedding, batch(), {K}, 'cosine') FROM items)) h").fetchall() == want
        assert conn.execute(f"SELECT h.* FROM unnest((SELECT pgedge.top_k(id::numeric, embedding, (SELECT batch()), {K}, 'cosine') FROM items)) h").fetchall() == want
        # few queries take another path than many
        few = [r for n in (1, 2, 3) for r in [(n, *x[1:]) for x in search(conn, queries=f"ARRAY[(SELECT e FROM queries WHERE n = {n})]")]]
        assert few == [r for r in want if r[0] <= 3]


def test_workers_do_the_scan(data):
    with data.connect() as conn:
        conn.execute(PARALLEL)
        plan = "\n".join(r[0] for r in conn.execute("EXPLAIN SELECT pgedge.top_k(id, embedding, batch(5), 3, 'cosine') FROM items"))
        assert "Partial Aggregate" in plan and "Parallel Seq Scan" in plan, plan
        # and inside batch_search: a view whose condition says who evaluates it
        conn.execute("CREATE OR REPLACE FUNCTION report(id int) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS"
                     " $$ BEGIN IF id % 10 = 0 THEN RAISE NOTICE '%', pg_backend_pid(); END IF; RETURN true; END $$")
        conn.execute("CREATE OR REPLACE VIEW reported AS SELECT * FROM items WHERE report(id)")
        pids = set()
        conn.add_notice_handler(lambda diag: pids.add(int(diag.message_primary)))
        # a leader that scans as well may be through before the worker has started
        conn.execute("SET parallel_leader_participation = off")
        found = search(conn, more="relation => 'reported'")
        assert pids and conn.info.backend_pid not in pids, "the leader scanned"
        conn.execute(SERIAL)
        pids.clear()
        assert search(conn, more="relation => 'reported'") == found
        assert pids == {conn.info.backend_pid}


def test_workers_get_the_queries_as_a_parameter(data):
    """As a constant of the plan a batch would be written as text, four bytes for each, and read again by each worker."""
    with data.connect() as conn:
        conn.execute(PARALLEL + "; SET debug_print_plan = on; SET debug_pretty_print = off; SET client_min_messages = log")
        plans = []
        conn.add_notice_handler(lambda diag: plans.append(diag.message_detail or ""))
        assert len(search(conn)) == 60 * K
        assert any(":parallelModeNeeded true" in plan for plan in plans)
        # the queries take 92 kB
        assert max(map(len, plans)) < 50_000


def test_groups(data):
    with data.connect() as conn:
        query = "SELECT g, (h).* FROM (SELECT id % 40 AS g, unnest(pgedge.top_k(id, embedding, batch(5), 3, 'l2')) AS h FROM items GROUP BY 1) x ORDER BY 1, 2, 3"
        want = conn.execute("SELECT g, n, r, id::text, d FROM (SELECT id % 40 AS g, n, id, (embedding <-> e)::real AS d, row_number() OVER (PARTITION BY id % 40, n ORDER BY (embedding <-> e)::real, id) AS r"
                            " FROM items, queries WHERE n <= 5) x WHERE r <= 3 ORDER BY 1, 2, 3").fetchall()
        for setting in (SERIAL, PARALLEL, "SET enable_hashagg = off", "SET enable_hashagg = on; SET enable_sort = off"):
            conn.execute(setting)
            got = conn.execute(query).fetchall()
            assert [r[:4] for r in got] == [r[:4] for r in want]
            assert [r[4] for r in got] == pytest.approx([r[4] for r in want], abs=1e-5)


def test_pairs_and_joins_are_what_sql_says(data):
    with data.connect() as conn:
        conn.execute("CREATE TEMP TABLE a_few AS SELECT id, embedding FROM items WHERE id <= 1200")
        want = conn.execute("SELECT a.id::text, b.id::text, 1 - (a.embedding <=> b.embedding) FROM a_few a JOIN a_few b ON a.id < b.id"
                            " WHERE 1 - (a.embedding <=> b.embedding) >= 0.9").fetchall()
        want_ids = {r[:2] for r in want}
        assert len(want) > 300
        for relation in ("a_few", "some_view", "some_parts", "some_children"):
            if relation == "some_view":
                conn.execute("CREATE TEMP VIEW some_view AS SELECT * FROM a_few")
            elif relation == "some_parts":
                conn.execute("CREATE TEMP TABLE some_parts (id int, embedding vector(384)) PARTITION BY HASH (id)")
                for part in range(3):
                    conn.execute(f"CREATE TEMP TABLE some_part{part} PARTITION OF some_parts FOR VALUES WITH (MODULUS 3, REMAINDER {part})")
                conn.execute("INSERT INTO some_parts SELECT * FROM a_few")
            elif relation == "some_children":
                conn.execute("CREATE TEMP TABLE some_children AS SELECT * FROM a_few WHERE id % 2 = 0")
                conn.execute("CREATE TEMP TABLE some_child () INHERITS (some_children)")
                conn.execute("INSERT INTO some_child SELECT * FROM a_few WHERE id % 2 = 1")
            for memory in ("64kB", "4MB"):
                conn.execute(f"SET work_mem = '{memory}'")
                got = conn.execute(f"SELECT * FROM pgedge.similar_pairs(0.9, relation => '{relation}')").fetchall()
                assert {r[:2] for r in got} == want_ids and len(got) == len(want), (relation, memory)
                order = [(-r[2], int(r[0]), int(r[1])) for r in got]
                assert order == sorted(order)
                assert conn.execute(f"SELECT * FROM pgedge.similar_pairs(0.9, max_pairs => 100, relation => '{relation}')").fetchall() == got[:100]
        # a row is a row, whatever its id says
        conn.execute("CREATE TEMP TABLE same_ids AS SELECT 1 AS id, embedding FROM items WHERE id IN (1, 2, 3) UNION ALL SELECT 1, embedding FROM items WHERE id = 1")
        assert conn.execute("SELECT id_a, id_b FROM pgedge.similar_pairs(0.9999, relation => 'same_ids')").fetchall() == [("1", "1")]
        conn.execute("CREATE TEMP TABLE lefts AS SELECT 'q' || n AS id, e AS embedding FROM queries UNION ALL SELECT 'nothing', NULL")
        want = search(conn)
        for memory in ("64kB", "4MB"):
            conn.execute(f"SET work_mem = '{memory}'")
            got = conn.execute(f"SELECT substr(left_id, 2)::int, rank, right_id, similarity FROM pgedge.knn_join('lefts', 'items', {K}) ORDER BY 1, 2").fetchall()
            assert got == want


def test_memory_stays_within_work_mem(data):
    """3,000 queries with k = 500 find 48 MB; with 2 MB of work_mem they are taken in blocks."""
    with data.connect() as conn:
        conn.execute(SERIAL)
        conn.execute("CREATE TEMP TABLE many AS SELECT array_agg(embedding) AS q FROM (SELECT embedding FROM items ORDER BY id LIMIT 3000) t")
        conn.execute("SET work_mem = '2MB'")

        def anonymous() -> int:
            status = Path(f"/proc/{conn.info.backend_pid}/status").read_text()
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))

        conn.execute("SELECT count(*) FROM many, pgedge.batch_search(q[1:10], 500, relation => 'items')")
        before, peak, done = anonymous(), [0], threading.Event()

        def watch():
            while not done.wait(0.01):
                peak[0] = max(peak[0], anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert conn.execute("SELECT count(*) FROM many, pgedge.batch_search(q, 500, relation => 'items')").fetchone()[0] == 1_500_000
        finally:
            done.set()
            watcher.join()
        # the queries themselves are 4.6 MB; they are detoasted, read and passed on
        assert peak[0] - before < 24 * 1024, f"{(peak[0] - before) / 1024:.0f} MB"
        error = fails(conn, "54000", "SELECT pgedge.top_k(id, embedding, q, 500, 'cosine') FROM items, many")
        assert "work_mem" in error.diag.message_hint
        conn.execute("SET work_mem = '64kB'")
        assert conn.execute("SELECT count(*), min(rank), max(rank) FROM many, pgedge.batch_search(q[1:2], 10000, relation => 'items')").fetchone() == (12000, 1, 6000)


def test_long_ids_and_large_k_never_need_more_work_mem(data):
    """Neither batch_search nor knn_join raises 54000: what does not fit is asked for again, in smaller blocks."""
    with data.connect() as conn:
        conn.execute("CREATE TEMP TABLE urls AS SELECT 'https://example.org/' || repeat('p', 190) || id AS id, id AS number, embedding FROM items")
        conn.execute("CREATE TEMP TABLE twenty AS SELECT id, embedding FROM items WHERE id <= 20")
        few, many = "(SELECT array_agg(embedding ORDER BY id) FROM twenty)", "(SELECT array_agg(embedding ORDER BY id) FROM items WHERE id <= 300)"
        conn.execute("SET work_mem = '256MB'")
        conn.execute("CREATE TEMP TABLE want AS"
                     f" SELECT query_no, rank, id, similarity, 100 AS k FROM pgedge.batch_search({many}, 100, relation => 'urls')"
                     f" UNION ALL SELECT *, 10000 FROM pgedge.batch_search({few}, 10000, relation => 'urls')")
        for memory in ("64kB", "1MB", "4MB"):
            conn.execute(f"SET work_mem = '{memory}'")
            for setting in (SERIAL, PARALLEL):
                conn.execute(setting)
                for k, queries in ((100, many), (10000, few)):
                    for call in (f"SELECT query_no, rank, id, similarity FROM pgedge.batch_search({queries}, {k}, relation => 'urls')",
                                 f"SELECT left_id::int, rank, right_id, similarity FROM pgedge.knn_join('twenty', 'urls', {k})"):
                        got = conn.execute(f"WITH got AS MATERIALIZED ({call}), expected AS (SELECT w.query_no, rank, id, similarity FROM want w WHERE k = {k} AND query_no <= (SELECT max(n) FROM got g(n)))"
                                           " SELECT (SELECT count(*) FROM got), (SELECT count(*) FROM expected), (SELECT count(*) FROM (SELECT * FROM got EXCEPT SELECT * FROM expected) d)").fetchone()
                        assert got[0] == got[1] > 0 and got[2] == 0, (memory, call[:60], got)


@pytest.mark.parametrize("kind, value", [("char(10)", "a"), ("inet", "10.0.0.1"), ("boolean", "t"), ("varchar(9)", "v "), ("name", "n"), ("numeric", "1.50"), ("date", "2024-02-03"), ("text", " t")])
def test_ids_are_what_a_cast_to_text_gives(data, kind, value):
    with data.connect() as conn:
        conn.execute(f"CREATE TEMP TABLE typed (id {kind}, embedding vector(2))")
        conn.execute(f"INSERT INTO typed VALUES ('{value}', '[1,0]'), (NULL, NULL)")
        for call in ("pgedge.batch_search(ARRAY['[1,0]']::vector[], relation => 'typed')",
                     "unnest((SELECT pgedge.top_k(id, embedding, ARRAY['[1,0]']::vector[], 1, 'l2') FROM typed))",
                     "(SELECT right_id AS id FROM pgedge.knn_join('typed', 'typed'))"):
            assert conn.execute(f"SELECT count(*) FROM {call} s JOIN typed t ON t.id::text = s.id").fetchone() == (1,), call


def test_queries_of_unknown_type_are_vectors(data):
    with data.connect() as conn:
        one = conn.execute("SELECT embedding::text FROM items ORDER BY id LIMIT 1").fetchone()[0]
        assert len(conn.execute("SELECT * FROM pgedge.batch_search($1, 3, relation => 'items')".replace("$1", "%s"), ('{"' + one + '"}',)).fetchall()) == 3
        assert len(conn.execute(f"SELECT * FROM pgedge.batch_search(ARRAY['{one}']::vector[], 3, relation => 'items')").fetchall()) == 3
        assert conn.execute("SELECT * FROM pgedge.batch_search(NULL, relation => 'items')").fetchall() == []


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_every_dimension(data, kind):
    with data.connect() as conn:
        for dim in (1, 2, 7, 64, 385, 2000, 16000):
            conn.execute("DROP TABLE IF EXISTS wide")
            conn.execute(f"CREATE TEMP TABLE wide AS SELECT i AS id, (SELECT array_agg(i * sin(i * j) ORDER BY j) FROM generate_series(1, {dim}) j)::{kind} AS embedding FROM generate_series(1, 30) i")
            # one query, a tile, int8
            for queries in (1, 8, 30):
                batch = f"(SELECT array_agg(embedding::vector ORDER BY id) FROM wide WHERE id <= {queries})"
                ours = conn.execute(f"SELECT query_no, id FROM pgedge.batch_search({batch}, 4, 'l2', relation => 'wide')").fetchall()
                theirs = conn.execute(f"SELECT q.id, t.id::text FROM wide q, LATERAL (SELECT id FROM wide w ORDER BY w.embedding <-> q.embedding, id LIMIT 4) t WHERE q.id <= {queries}").fetchall()
                assert ours == theirs, (dim, queries)
            pairs = conn.execute("SELECT count(*) FROM pgedge.similar_pairs(1e9, relation => 'wide', metric => 'l2')").fetchone()[0]
            assert pairs == 30 * 29 // 2
            stored = conn.execute("SELECT pg_column_size(embedding) FROM wide LIMIT 1").fetchone()[0]
            assert stored >= dim * (4 if kind == "vector" else 2)


@pytest.mark.parametrize("statement", [
    "SELECT count(*) FROM pgedge.batch_search(batch(), relation => 'endless')",
    "SELECT pgedge.top_k(id, embedding, batch(), 10, 'cosine') FROM endless",
    "SELECT count(*) FROM pgedge.similar_pairs(0.99, relation => 'endless')",
    "SELECT count(*) FROM pgedge.knn_join('endless', 'items', 5)",
    "SELECT array_length(pgedge.similarity_matrix(a, a), 1) FROM (SELECT array_agg(embedding) AS a FROM (SELECT embedding FROM endless LIMIT 11000) t) t",
    "SELECT array_length(pgedge.batch_similarity(a[1], a), 1) FROM (SELECT array_agg(embedding) AS a FROM items) t, generate_series(1, 1000000)",
], ids=["batch_search", "top_k", "similar_pairs", "knn_join", "similarity_matrix", "batch_similarity"])
def test_cancelling_takes_effect_at_once(data, statement):
    with data.connect() as conn:
        conn.execute("CREATE OR REPLACE VIEW endless AS SELECT (items.id + g * 10000) AS id, embedding FROM generate_series(1, 100000) g, items")
        for setting in (SERIAL, PARALLEL):
            conn.execute(setting)
            waited = []

            def cancel():
                time.sleep(0.6)
                waited.append(time.monotonic())
                conn.cancel()

            thread = threading.Thread(target=cancel)
            thread.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                conn.execute(statement)
            took = time.monotonic() - waited[0]
            thread.join()
            print(f"cancelled after {took * 1000:.0f} ms")
            assert took < AT_ONCE
        conn.execute("SET statement_timeout = 300")
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute(statement)
        conn.execute("SET statement_timeout = 0")
        assert len(search(conn, k=1)) == 60


def test_cancelling_takes_effect_while_millions_of_hits_become_an_array(data):
    """The server's own way of making an array of composite values took 0.8 s for nine million, in one piece."""
    statement = "SELECT cardinality(pgedge.top_k(id, embedding, (SELECT array_agg(e) FROM queries, generate_series(1, 15)), 6000, 'cosine')) FROM items"
    with data.connect() as conn:
        conn.execute(SERIAL + "; SET work_mem = '1GB'")
        started = time.monotonic()
        assert conn.execute(statement).fetchone() == (900 * 6000,)
        whole = time.monotonic() - started
        # the array is made in the last part; the last cancel may find the statement done
        cancelled = 0
        for part in (0.6, 0.75, 0.9):
            waited = []

            def cancel():
                time.sleep(whole * part)
                waited.append(time.monotonic())
                conn.cancel()

            thread = threading.Thread(target=cancel)
            thread.start()
            try:
                conn.execute(statement)
            except psycopg.errors.QueryCanceled:
                took = time.monotonic() - waited[0]
                print(f"{part:.0%} of {whole:.1f} s: cancelled after {took * 1000:.0f} ms")
                assert took < AT_ONCE
                cancelled += 1
            thread.join()
        assert cancelled >= 2


def test_arrays_of_hits_are_what_the_server_would_make(data):
    """Elements of all sizes and alignments, one after the other as PostgreSQL reads, compares and copies them."""
    with data.connect() as conn:
        for k in (1, 7, 1500):
            for ids in ("id", "repeat('x', id % 41) || id", "NULLIF(id % 3, 1) || ''"):
                hits = f"(SELECT pgedge.top_k({ids}, embedding, batch(9), {k}, 'cosine') FROM items WHERE {ids} IS NOT NULL)"
                row = conn.execute(f"SELECT a = b, pg_column_size(a) = pg_column_size(b), array_dims(a) FROM (SELECT a, ARRAY(SELECT h FROM unnest(a) h) AS b FROM (SELECT {hits} AS a OFFSET 0) t OFFSET 0) t").fetchone()
                assert row == (True, True, f"[1:{9 * k}]"), (k, ids)
        assert conn.execute("SELECT cardinality(pgedge.top_k(id, embedding, batch(9), 5, 'cosine', 2.0)), cardinality(pgedge.top_k(id, embedding, '{}'::vector[], 5, 'cosine')) FROM items").fetchone() == (0, 0)


def test_row_level_security_and_privileges(data):
    role = f"reader_{data.name}"
    with data.connect() as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON queries TO {role}")
        try:
            conn.execute("CREATE TABLE secret AS SELECT id, embedding FROM items; ALTER TABLE secret ENABLE ROW LEVEL SECURITY;"
                         " CREATE POLICY even ON secret USING (id % 2 = 0)")
            conn.execute("CREATE TEMP TABLE even AS SELECT * FROM secret WHERE id % 2 = 0")
            conn.execute("CREATE VIEW open_door AS SELECT * FROM secret WHERE id < 10")
            with data.connect(role) as reader:
                for call in ("pgedge.batch_search(batch(), relation => 'secret')", "pgedge.similar_pairs(relation => 'secret')", "pgedge.knn_join('secret', 'secret')"):
                    error = fails(reader, "42501", f"SELECT * FROM {call}")
                    assert "secret" in str(error)
                fails(reader, "42501", "SELECT * FROM pgedge.batch_search(batch())")
                conn.execute(f"GRANT SELECT (id, embedding) ON secret TO {role}")
                for setting in (SERIAL, PARALLEL):
                    reader.execute(setting)
                    seen = search(reader, more="relation => 'secret'")
                    assert len(seen) == 60 * K and all(int(r[2]) % 2 == 0 for r in seen)
                pairs = reader.execute("SELECT id_a, id_b FROM pgedge.similar_pairs(0.999, relation => 'secret')").fetchall()
                assert pairs and all(int(a) % 2 == int(b) % 2 == 0 for a, b in pairs)
                assert pairs == conn.execute("SELECT id_a, id_b FROM pgedge.similar_pairs(0.999, relation => 'even')").fetchall()
                # a view reads with its owner's rights, as in any query
                conn.execute(f"GRANT SELECT ON open_door TO {role}")
                assert {int(r[2]) for r in search(reader, more="relation => 'open_door'")} == set(range(1, 10))
            assert {int(r[2]) % 2 for r in search(conn, more="relation => 'secret'")} == {0, 1}
        finally:
            conn.execute("DROP TABLE IF EXISTS secret CASCADE")
            conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_foreign_tables(data):
    with data.connect() as conn:
        if not conn.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'").fetchone()[0]:
            pytest.skip("postgres_fdw is not installed here")
        conn.execute("CREATE EXTENSION postgres_fdw")
        try:
            folder, port = data.cluster.folder, data.cluster.port
            conn.execute(f"CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{folder}', port '{port}', dbname '{data.name}')")
            conn.execute("CREATE USER MAPPING FOR postgres SERVER here OPTIONS (user 'postgres')")
            conn.execute("CREATE FOREIGN TABLE far (id int, embedding vector(384)) SERVER here OPTIONS (table_name 'items')")
            conn.execute("CREATE FOREIGN TABLE few (id int, embedding vector(384)) SERVER here OPTIONS (table_name 'queries_as_items')")
            conn.execute("CREATE VIEW queries_as_items AS SELECT n AS id, e AS embedding FROM queries")
            assert search(conn, more="relation => 'far'") == search(conn)
            # a foreign partition, or child, of something that has no ctid
            conn.execute("CREATE TABLE mixed (id int, embedding vector(384)) PARTITION BY RANGE (id)")
            conn.execute("CREATE TABLE near PARTITION OF mixed FOR VALUES FROM (1000) TO (2000); INSERT INTO near SELECT id + 1000, embedding FROM items WHERE id <= 20")
            conn.execute("CREATE FOREIGN TABLE away PARTITION OF mixed FOR VALUES FROM (1) TO (1000) SERVER here OPTIONS (table_name 'queries_as_items')")
            conn.execute("CREATE TABLE parent (id int, embedding vector(384)); CREATE TABLE child () INHERITS (parent); INSERT INTO parent SELECT * FROM near")
            conn.execute("CREATE FOREIGN TABLE grandchild () INHERITS (child) SERVER here OPTIONS (table_name 'queries_as_items')")
            conn.execute("CREATE TEMP TABLE whole AS SELECT * FROM mixed")
            pairs = conn.execute("SELECT * FROM pgedge.similar_pairs(0.8, relation => 'whole')").fetchall()
            assert pairs
            for relation in ("mixed", "parent"):
                assert conn.execute(f"SELECT * FROM pgedge.similar_pairs(0.8, relation => '{relation}')").fetchall() == pairs
            assert (conn.execute("SELECT * FROM pgedge.similar_pairs(0.8, relation => 'few')").fetchall()
                    == conn.execute("SELECT * FROM pgedge.similar_pairs(0.8, relation => 'queries_as_items')").fetchall())
        finally:
            conn.execute("DROP EXTENSION postgres_fdw CASCADE; DROP VIEW IF EXISTS queries_as_items; DROP TABLE IF EXISTS mixed, parent CASCADE")


def test_partitions_and_odd_column_names(data):
    with data.connect() as conn:
        conn.execute('CREATE SCHEMA "Odd ""Place"; CREATE TABLE "Odd ""Place"."select" ("The;Id" int, "From" vector(384)) PARTITION BY RANGE ("The;Id")')
        try:
            for low in range(0, 6001, 2000):
                conn.execute(f'CREATE TABLE "Odd ""Place".part{low} PARTITION OF "Odd ""Place"."select" FOR VALUES FROM ({low}) TO ({low + 2000})')
            conn.execute('INSERT INTO "Odd ""Place"."select" SELECT id, embedding FROM items')
            more = "relation => '\"Odd \"\"Place\".\"select\"', embedding_column => 'From', id_column => 'The;Id'"
            for setting in (SERIAL, PARALLEL):
                conn.execute(setting)
                assert search(conn, more=more) == search(conn)
        finally:
            conn.execute('DROP SCHEMA "Odd ""Place" CASCADE')


def test_one_snapshot_for_all_passes(data):
    """A row that is committed between two passes of one search is seen by none of them, even when this transaction has written something."""
    with data.connect(autocommit=False) as conn, data.connect() as other:
        other.execute("CREATE TABLE moving AS SELECT id, embedding FROM items WHERE id <= 100")
        other.execute("CREATE FUNCTION wait() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT pg_sleep(0.25) IS NOT NULL'")
        other.execute("CREATE VIEW slow AS SELECT * FROM moving WHERE (SELECT wait())")
        try:
            conn.execute("CREATE TEMP TABLE written AS SELECT 1")
            conn.execute("SET LOCAL work_mem = '64kB'")

            def insert():
                time.sleep(0.4)
                other.execute("INSERT INTO moving SELECT 100000, e FROM queries WHERE n = 1")

            thread = threading.Thread(target=insert)
            thread.start()
            rows = search(conn, k=3, queries="array_fill((SELECT e FROM queries WHERE n = 1), '{8}')", more="relation => 'slow'")
            thread.join()
            answers = {tuple(r[1:] for r in rows if r[0] == n) for n in range(1, 9)}
            assert len(answers) == 1 and "100000" not in {r[2] for r in rows}
            assert "100000" in {r[2] for r in search(conn, k=3, more="relation => 'moving'")}
        finally:
            conn.rollback()
            other.execute("DROP TABLE moving CASCADE; DROP FUNCTION wait")


def test_a_hostile_search_path_changes_nothing(data):
    with data.connect() as conn:
        conn.execute("INSERT INTO vectors (embedding, source) SELECT embedding, 'mine' FROM items WHERE id <= 50")
        try:
            want = search(conn, more="source => 'mine'")
            pairs = conn.execute("SELECT * FROM pgedge.similar_pairs(0.5)").fetchall()
            conn.execute("""
                CREATE TEMP TABLE vectors (id text, embedding public.vector(384), source text);
                CREATE SCHEMA evil;
                CREATE FUNCTION evil.boom(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
                CREATE FUNCTION evil.boom(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
                CREATE FUNCTION evil.boom(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
                CREATE FUNCTION evil.boom(tid, tid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
                CREATE FUNCTION evil.boom(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom'; END $$;
                CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.boom);
                CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.boom);
                CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.boom);
                CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.boom);
                CREATE OPERATOR evil.> (LEFTARG = tid, RIGHTARG = tid, FUNCTION = evil.boom);
                CREATE TYPE evil.vector AS (x int);
                CREATE VIEW evil.pg_extension AS SELECT 1 AS nothing;
                CREATE VIEW evil.pg_class AS SELECT 1 AS nothing""")
            queries = "(SELECT public.batch())"
            conn.execute("ALTER FUNCTION public.batch SET search_path = public")
            conn.execute("SET search_path = evil, pg_temp, public, pg_catalog")
            assert search(conn, queries=queries, more="source => 'mine'") == want
            assert conn.execute("SELECT * FROM pgedge.similar_pairs(0.5)").fetchall() == pairs
            assert conn.execute("SELECT count(*) FROM pgedge.knn_join('public.vectors', 'public.vectors', 1)").fetchone()[0] == 50
            conn.execute("RESET search_path")
        finally:
            conn.execute("RESET search_path; DROP SCHEMA IF EXISTS evil CASCADE; DELETE FROM public.vectors")


def test_calls_inside_other_statements(data):
    with data.connect() as conn:
        want = search(conn, k=2)
        # once for each row of another table; from a prepared statement under a generic plan; from PL/pgSQL, within a block that catches an error
        assert conn.execute("SELECT q.n, b.rank, b.id, b.similarity FROM queries q, LATERAL pgedge.batch_search(ARRAY[q.e], 2, relation => 'items') b ORDER BY 1, 2").fetchall() == want
        conn.execute("SET plan_cache_mode = force_generic_plan")
        conn.execute("PREPARE p (vector[], int) AS SELECT * FROM pgedge.batch_search($1, $2, relation => 'items')")
        assert conn.execute("EXECUTE p (batch(), 2)").fetchall() == want
        conn.execute("""CREATE OR REPLACE FUNCTION tries() RETURNS SETOF pgedge.hit LANGUAGE plpgsql AS $$
            BEGIN
                FOR i IN 1..3 LOOP
                    BEGIN PERFORM pgedge.batch_search(batch(), 2, relation => 'items', embedding_column => 'id'); RAISE 'no error';
                    EXCEPTION WHEN datatype_mismatch THEN NULL; END;
                    BEGIN PERFORM pgedge.batch_search(ARRAY['[1,2]'::vector], 2, relation => 'items'); RAISE 'no error';
                    EXCEPTION WHEN data_exception THEN NULL; END;
                END LOOP;
                RETURN QUERY SELECT * FROM pgedge.batch_search(batch(), 2, relation => 'items');
            END $$""")
        notices = []
        conn.add_notice_handler(lambda diag: notices.append(diag.message_primary))
        assert conn.execute("SELECT * FROM tries()").fetchall() == want
        assert notices == []
        with conn.transaction():
            conn.execute("DECLARE c CURSOR FOR SELECT query_no, rank, id, similarity FROM pgedge.batch_search(batch(), 2, relation => 'items')")
            assert conn.execute("FETCH 3 FROM c").fetchall() + conn.execute("FETCH ALL FROM c").fetchall() == want
        with conn.transaction():
            conn.execute("SET TRANSACTION READ ONLY")
            assert search(conn, k=2) == want


@pytest.mark.parametrize("sqlstate, call", [
    ("22023", "SELECT pgedge.batch_similarity('[1]', ARRAY['[1]']::vector[], 'nearest')"),
    ("22000", "SELECT pgedge.batch_similarity('[1]', ARRAY['[1,2]']::vector[])"),
    ("22000", "SELECT pgedge.similarity_matrix(ARRAY['[1]','[1,2]']::vector[])"),
    ("54000", "SELECT pgedge.similarity_matrix(array_fill(NULL::halfvec, '{30000}'))"),
    ("22023", "SELECT pgedge.top_k(id, embedding, batch(1), 0, 'cosine') FROM items"),
    ("22023", "SELECT pgedge.top_k(id, embedding, batch(1), id, 'cosine') FROM items"),
    ("22004", "SELECT pgedge.top_k(NULL::int, embedding, batch(1), 1, 'cosine') FROM items"),
    ("42883", "SELECT pgedge.top_k('{}'::json, embedding, batch(1), 1, 'cosine') FROM items"),
    ("22023", "SELECT * FROM pgedge.batch_search(batch(1), 0)"),
    ("22004", "SELECT * FROM pgedge.batch_search(batch(1), NULL)"),
    ("22023", "SELECT * FROM pgedge.batch_search(batch(1), metric => 'COSINE')"),
    ("22023", "SELECT * FROM pgedge.batch_search(batch(1), min_similarity => 'NaN')"),
    ("22000", "SELECT * FROM pgedge.batch_search(ARRAY['[1,2]'::vector], relation => 'items')"),
    ("42P01", "SELECT * FROM pgedge.batch_search(batch(1), relation => 1::regclass)"),
    ("42809", "SELECT * FROM pgedge.batch_search(batch(1), relation => 'items_pkey')"),
    ("42703", "SELECT * FROM pgedge.batch_search(batch(1), relation => 'items', embedding_column => 'vector')"),
    ("42804", "SELECT * FROM pgedge.batch_search(batch(1), relation => 'items', embedding_column => 'id')"),
    ("22023", "SELECT * FROM pgedge.similar_pairs(0.9, max_pairs => -1)"),
    ("22023", "SELECT * FROM pgedge.knn_join('items', 'items', -1)"),
    ("22004", "SELECT * FROM pgedge.knn_join('items', NULL)"),
])
def test_errors(data, sqlstate, call):
    with data.connect() as conn:
        fails(conn, sqlstate, call)


def test_standby(tmp_path_factory):
    """On a hot standby every search works, with workers as well."""
    with Cluster({"wal_level": "replica", "fsync": "off"}) as primary:
        primary.psql("CREATE EXTENSION pgedge CASCADE")
        primary.psql("CREATE TABLE items AS SELECT i AS id, (SELECT array_agg(sin(i * j)) FROM generate_series(1, 32) j)::vector AS embedding FROM generate_series(1, 3000) i; ANALYZE")
        call = PARALLEL + "; SELECT md5(string_agg(b::text, ',')) FROM pgedge.batch_search((SELECT array_agg(embedding) FROM items WHERE id < 50), relation => 'items') b"
        pairs = "SELECT md5(string_agg(p::text, ',')) FROM pgedge.similar_pairs(0.9, relation => 'items') p"
        standby = start_standby(primary)
        try:
            assert standby.psql("SELECT pg_is_in_recovery()") == "t"
            assert standby.psql(call) == primary.psql(call)
            assert standby.psql(pairs) == primary.psql(pairs)
        finally:
            standby.destroy()


@pytest.mark.parametrize("dim, kind", [(20, "vector"), (384, "vector"), (384, "halfvec"), (1100, "vector"), (1100, "halfvec"), (16000, "vector")])
def test_vectors_out_of_line(data, dim, kind):
    """Long text beside it moves a vector to the TOAST relation, in one chunk or several; rows are updated, deleted, joined twice; some stay in line."""
    rows = 60 if dim > 5000 else 1500
    with data.connect() as conn:
        conn.execute(f"CREATE TEMP TABLE plain AS SELECT i AS id, (SELECT array_agg(sin(i * j) ORDER BY j) FROM generate_series(1, {dim}) j)::{kind}({dim}) AS embedding"
                     f" FROM generate_series(1, {rows}) i")
        conn.execute("CREATE TEMP TABLE out (LIKE plain, content text, note text) WITH (toast_tuple_target = 128)")
        conn.execute("ALTER TABLE out ALTER COLUMN content SET STORAGE EXTERNAL")
        conn.execute("INSERT INTO out SELECT id, embedding, CASE WHEN id % 11 > 0 THEN repeat(md5(id::text), 20 + 200 * (id % 3)) END FROM plain ORDER BY md5(id::text)")
        conn.execute("UPDATE out SET note = 'touched' WHERE id % 7 = 0")  # keeps its value
        conn.execute("UPDATE out SET embedding = embedding WHERE id % 13 = 0; UPDATE out SET embedding = (SELECT embedding FROM plain p WHERE p.id = out.id), note = 'new' WHERE id % 17 = 0")
        conn.execute("DELETE FROM out WHERE id % 19 = 0; DELETE FROM plain WHERE id % 19 = 0")
        conn.execute("INSERT INTO plain SELECT 100000 + i, NULL FROM generate_series(1, 5) i; INSERT INTO out SELECT 100000 + i, NULL, 'nothing' FROM generate_series(1, 5) i")
        toast, = conn.execute("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'out'::regclass").fetchone()
        assert toast > rows * dim * (4 if kind == "vector" else 2) / 2
        count, = conn.execute("SELECT count(embedding) FROM out").fetchone()
        queries = "(SELECT array_agg(embedding::vector ORDER BY id) FROM plain WHERE id IN (1, 2, 500, 1001) OR id % 70 = 1)"
        for metric, batch in (("cosine", queries), ("l2", queries), ("ip", f"({queries})[1:1]")):
            want = search(conn, metric, 50, batch, "relation => 'plain'")
            assert search(conn, metric, 50, batch, "relation => 'out'") == want
        # the same value reached from two rows
        twice = conn.execute(f"SELECT h.query_no, count(*), count(DISTINCT h.id) FROM unnest((SELECT pgedge.top_k(id, embedding, {queries}, 40, 'l2') FROM out, generate_series(1, 2))) h GROUP BY 1").fetchall()
        assert all(found == 40 and distinct == 20 for _, found, distinct in twice)
        pairs = "SELECT * FROM pgedge.similar_pairs(0.5, max_pairs => 1000, relation => '{}')"
        assert conn.execute(pairs.format("out")).fetchall() == conn.execute(pairs.format("plain")).fetchall()
        joined = "SELECT * FROM pgedge.knn_join('{}', '{}', 3, 'l2') ORDER BY left_id::int, rank"
        if dim < 5000:
            conn.execute("CREATE TEMP TABLE left_out AS TABLE out LIMIT 0; ALTER TABLE left_out SET (toast_tuple_target = 128); INSERT INTO left_out SELECT * FROM out WHERE id < 100")
            conn.execute("CREATE TEMP TABLE left_plain AS SELECT * FROM plain WHERE id < 100")
            assert conn.execute(joined.format("left_out", "out")).fetchall() == conn.execute(joined.format("left_plain", "plain")).fetchall()
        # compressed, where the owner asks for that
        conn.execute("ALTER TABLE out ALTER COLUMN embedding SET STORAGE EXTENDED; "
                     f"CREATE TEMP TABLE even AS SELECT i AS id, array_fill(i % 10 + 1, ARRAY[{dim}])::real[]::vector AS embedding, repeat(md5(i::text), 40) AS content FROM generate_series(1, 50) i")
        conn.execute("CREATE TEMP TABLE packed (LIKE even) WITH (toast_tuple_target = 128); ALTER TABLE packed ALTER COLUMN embedding SET STORAGE EXTENDED; INSERT INTO packed SELECT * FROM even")
        batch = "(SELECT array_agg(embedding ORDER BY id) FROM even WHERE id < 5)"
        assert search(conn, "l2", 9, batch, "relation => 'packed'") == search(conn, "l2", 9, batch, "relation => 'even'")
        assert count == search(conn, "l2", 5000, f"({queries})[1:1]", "relation => 'out'")[-1][1]
