-- Exact batch similarity. The functions are C symbols of src/similarity; what they share is said there.
--
-- metric is 'cosine' (similarity, 1 best), 'l2' (distance, 0 best) or 'ip' (inner product, larger best). min_similarity is the least
-- similarity to accept, for l2 the largest distance. Equal values are ordered by id, NaN (a zero vector under cosine) comes last, as in
-- ORDER BY embedding <=> query, id.

-- The types vector and halfvec, wherever pgvector is; the declarations here have no expressions that an operator could creep into.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, ' || pg_catalog.quote_ident(n.nspname) || ', pg_temp', true)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';

CREATE FUNCTION pgedge.simd_level() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgedge_simd_level';
COMMENT ON FUNCTION pgedge.simd_level() IS
'The instructions that similarity search uses on this machine: avx512+vnni, avx512, avx2+fma, neon+dotprod+fp16, neon+dotprod, neon or scalar. Results do not depend on it.';

-- ── vectors given as arguments ──

CREATE FUNCTION pgedge.batch_similarity(query vector, candidates vector[], metric text DEFAULT 'cosine') RETURNS real[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'pgedge_batch_similarity';
COMMENT ON FUNCTION pgedge.batch_similarity(vector, vector[], text) IS
'The similarity of one vector to each of many, in their order; NULL for a NULL element, NaN for a zero vector under cosine. Errors: 22023 unknown metric, 22000 different dimensions.';

CREATE FUNCTION pgedge.batch_similarity(query halfvec, candidates halfvec[], metric text DEFAULT 'cosine') RETURNS real[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'pgedge_batch_similarity_half';
COMMENT ON FUNCTION pgedge.batch_similarity(halfvec, halfvec[], text) IS
'The similarity of one vector to each of many, in their order; NULL for a NULL element, NaN for a zero vector under cosine. Errors: 22023 unknown metric, 22000 different dimensions.';

CREATE FUNCTION pgedge.similarity_matrix(a vector[], b vector[] DEFAULT NULL, metric text DEFAULT 'cosine') RETURNS real[]
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 10000 AS 'MODULE_PATHNAME', 'pgedge_similarity_matrix';
COMMENT ON FUNCTION pgedge.similarity_matrix(vector[], vector[], text) IS
'All similarities of a to b (to a itself when b is NULL): a two-dimensional array with a row for each of a. Rows and columns of NULL vectors are NULL; an empty array gives an empty array; NULL a or metric gives NULL. Errors: 22023 unknown metric, 22000 different dimensions, 54000 more than 134,217,727 cells.';

CREATE FUNCTION pgedge.similarity_matrix(a halfvec[], b halfvec[] DEFAULT NULL, metric text DEFAULT 'cosine') RETURNS real[]
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 10000 AS 'MODULE_PATHNAME', 'pgedge_similarity_matrix_half';
COMMENT ON FUNCTION pgedge.similarity_matrix(halfvec[], halfvec[], text) IS
'All similarities of a to b (to a itself when b is NULL): a two-dimensional array with a row for each of a. Rows and columns of NULL vectors are NULL; an empty array gives an empty array; NULL a or metric gives NULL. Errors: 22023 unknown metric, 22000 different dimensions, 54000 more than 134,217,727 cells.';

-- ── the aggregate ──

CREATE TYPE pgedge.hit AS (query_no integer, rank integer, id text, similarity real);
COMMENT ON TYPE pgedge.hit IS
'A row found by a similarity search: the number of the query and the rank, both from 1, the id as text, and the similarity (for l2 the distance).';

CREATE FUNCTION pgedge._top_k_trans(internal, anyelement, vector, vector[], integer, text) RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 200 AS 'MODULE_PATHNAME', 'pgedge_top_k_trans';
CREATE FUNCTION pgedge._top_k_trans(internal, anyelement, vector, vector[], integer, text, real) RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 200 AS 'MODULE_PATHNAME', 'pgedge_top_k_trans';
CREATE FUNCTION pgedge._top_k_trans(internal, anyelement, halfvec, vector[], integer, text) RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 200 AS 'MODULE_PATHNAME', 'pgedge_top_k_trans_half';
CREATE FUNCTION pgedge._top_k_trans(internal, anyelement, halfvec, vector[], integer, text, real) RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE COST 200 AS 'MODULE_PATHNAME', 'pgedge_top_k_trans_half';
CREATE FUNCTION pgedge._top_k_combine(internal, internal) RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgedge_top_k_combine';
CREATE FUNCTION pgedge._top_k_serial(internal) RETURNS bytea
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgedge_top_k_bytes';
CREATE FUNCTION pgedge._top_k_deserial(bytea, internal) RETURNS internal
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgedge_top_k_deserial';
CREATE FUNCTION pgedge._top_k_final(internal) RETURNS pgedge.hit[]
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgedge_top_k_final';
COMMENT ON FUNCTION pgedge._top_k_trans(internal, anyelement, vector, vector[], integer, text) IS 'internal: a step of top_k';
COMMENT ON FUNCTION pgedge._top_k_trans(internal, anyelement, vector, vector[], integer, text, real) IS 'internal: a step of top_k';
COMMENT ON FUNCTION pgedge._top_k_trans(internal, anyelement, halfvec, vector[], integer, text) IS 'internal: a step of top_k';
COMMENT ON FUNCTION pgedge._top_k_trans(internal, anyelement, halfvec, vector[], integer, text, real) IS 'internal: a step of top_k';
COMMENT ON FUNCTION pgedge._top_k_combine(internal, internal) IS 'internal: combines what workers found for top_k';
COMMENT ON FUNCTION pgedge._top_k_serial(internal) IS 'internal: the state of top_k in bytes, of this version alone';
COMMENT ON FUNCTION pgedge._top_k_deserial(bytea, internal) IS 'internal: the state of top_k from bytes';
COMMENT ON FUNCTION pgedge._top_k_final(internal) IS 'internal: the result of top_k';

-- A state takes about 300 kB before it holds rows; SSPACE says so to the planner, so that many groups are sorted rather than hashed.
-- READ_WRITE since the result is taken out of the state: no window function, no sharing.
CREATE AGGREGATE pgedge.top_k(id anyelement, embedding vector, queries vector[], k integer, metric text) (
    SFUNC = pgedge._top_k_trans, STYPE = internal, SSPACE = 300000, FINALFUNC = pgedge._top_k_final, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = pgedge._top_k_combine, SERIALFUNC = pgedge._top_k_serial, DESERIALFUNC = pgedge._top_k_deserial, PARALLEL = SAFE);
CREATE AGGREGATE pgedge.top_k(id anyelement, embedding vector, queries vector[], k integer, metric text, min_similarity real) (
    SFUNC = pgedge._top_k_trans, STYPE = internal, SSPACE = 300000, FINALFUNC = pgedge._top_k_final, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = pgedge._top_k_combine, SERIALFUNC = pgedge._top_k_serial, DESERIALFUNC = pgedge._top_k_deserial, PARALLEL = SAFE);
CREATE AGGREGATE pgedge.top_k(id anyelement, embedding halfvec, queries vector[], k integer, metric text) (
    SFUNC = pgedge._top_k_trans, STYPE = internal, SSPACE = 300000, FINALFUNC = pgedge._top_k_final, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = pgedge._top_k_combine, SERIALFUNC = pgedge._top_k_serial, DESERIALFUNC = pgedge._top_k_deserial, PARALLEL = SAFE);
CREATE AGGREGATE pgedge.top_k(id anyelement, embedding halfvec, queries vector[], k integer, metric text, min_similarity real) (
    SFUNC = pgedge._top_k_trans, STYPE = internal, SSPACE = 300000, FINALFUNC = pgedge._top_k_final, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = pgedge._top_k_combine, SERIALFUNC = pgedge._top_k_serial, DESERIALFUNC = pgedge._top_k_deserial, PARALLEL = SAFE);
COMMENT ON AGGREGATE pgedge.top_k(anyelement, vector, vector[], integer, text) IS
'The k best rows for each of many queries, in one scan, exact, in parallel: SELECT h.* FROM unnest((SELECT pgedge.top_k(id, embedding, $1, 10, ''cosine'') FROM …)) h. Rows whose embedding is NULL and NULL queries are left out; no row gives an empty array. queries, k, metric and min_similarity must be the same for all rows of a group. Errors: 22023 k, metric or min_similarity; 22000 different dimensions; 22004 a NULL id; 42883 ids without an order; 54000 rows found beyond work_mem × hash_mem_multiplier, or a result beyond 1 GB.';
COMMENT ON AGGREGATE pgedge.top_k(anyelement, vector, vector[], integer, text, real) IS
'As top_k, with the least similarity (for l2 the largest distance) to accept.';
COMMENT ON AGGREGATE pgedge.top_k(anyelement, halfvec, vector[], integer, text) IS 'As top_k over vector, for halfvec.';
COMMENT ON AGGREGATE pgedge.top_k(anyelement, halfvec, vector[], integer, text, real) IS
'As top_k over halfvec, with the least similarity (for l2 the largest distance) to accept.';

CREATE AGGREGATE pgedge._top_k(id anyelement, embedding vector, queries vector[], k integer, metric text, min_similarity real) (
    SFUNC = pgedge._top_k_trans, STYPE = internal, SSPACE = 300000, FINALFUNC = pgedge._top_k_serial, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = pgedge._top_k_combine, SERIALFUNC = pgedge._top_k_serial, DESERIALFUNC = pgedge._top_k_deserial, PARALLEL = SAFE);
CREATE AGGREGATE pgedge._top_k(id anyelement, embedding halfvec, queries vector[], k integer, metric text, min_similarity real) (
    SFUNC = pgedge._top_k_trans, STYPE = internal, SSPACE = 300000, FINALFUNC = pgedge._top_k_serial, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = pgedge._top_k_combine, SERIALFUNC = pgedge._top_k_serial, DESERIALFUNC = pgedge._top_k_deserial, PARALLEL = SAFE);
COMMENT ON AGGREGATE pgedge._top_k(anyelement, vector, vector[], integer, text, real) IS 'internal: top_k for batch_search, whose result is the state';
COMMENT ON AGGREGATE pgedge._top_k(anyelement, halfvec, vector[], integer, text, real) IS 'internal: top_k for batch_search, whose result is the state';

-- ── searches that run the aggregate ──

-- PARALLEL UNSAFE, since it starts a plan of its own, itself parallel, over a relation about which the outer plan knows nothing.
CREATE FUNCTION pgedge.batch_search(queries vector[], k integer DEFAULT 10, metric text DEFAULT 'cosine', min_similarity real DEFAULT NULL, source text DEFAULT NULL,
    relation regclass DEFAULT NULL, embedding_column name DEFAULT 'embedding', id_column name DEFAULT 'id')
RETURNS TABLE (query_no integer, rank integer, id text, similarity real)
LANGUAGE c STABLE PARALLEL UNSAFE COST 100000 ROWS 1000 AS 'MODULE_PATHNAME', 'pgedge_batch_search';
COMMENT ON FUNCTION pgedge.batch_search(vector[], integer, text, real, text, regclass, name, name) IS
'The k best rows of a relation (the table vectors unless one is named) for each of many queries: exact, in parallel where that is faster, in the snapshot and with the privileges and row-level security of the caller. Queries are taken in blocks that fit in work_mem. NULL queries and NULL embeddings find nothing. Errors: 22023 k, metric or min_similarity; 22000 different dimensions; 22004 a NULL id or argument; 42P01, 42809, 42703, 42804, 42883 relation or columns; 42501 no permission.';

CREATE FUNCTION pgedge.similar_pairs(min_similarity real DEFAULT 0.95, source text DEFAULT NULL, max_pairs bigint DEFAULT NULL,
    relation regclass DEFAULT NULL, embedding_column name DEFAULT 'embedding', id_column name DEFAULT 'id', metric text DEFAULT 'cosine')
RETURNS TABLE (id_a text, id_b text, similarity real)
LANGUAGE c STABLE PARALLEL UNSAFE COST 1000000 ROWS 1000 AS 'MODULE_PATHNAME', 'pgedge_similar_pairs';
COMMENT ON FUNCTION pgedge.similar_pairs(real, text, bigint, regclass, name, name, text) IS
'All pairs of rows of a relation (the table vectors unless one is named) that are at least so similar (for l2 at most so far apart), each once with the smaller id first, best first and then by ids; max_pairs keeps the best. Exact. Memory stays within a few times work_mem, what is beyond it goes to temporary files. In views and foreign tables rows are told apart by their ids. Errors as batch_search; 22023 also for a negative max_pairs.';

CREATE FUNCTION pgedge.knn_join("left" regclass, "right" regclass, k integer DEFAULT 10, metric text DEFAULT 'cosine', min_similarity real DEFAULT NULL,
    left_embedding name DEFAULT 'embedding', left_id name DEFAULT 'id', right_embedding name DEFAULT 'embedding', right_id name DEFAULT 'id')
RETURNS TABLE (left_id text, rank integer, right_id text, similarity real)
LANGUAGE c STABLE PARALLEL UNSAFE COST 1000000 ROWS 10000 AS 'MODULE_PATHNAME', 'pgedge_knn_join';
COMMENT ON FUNCTION pgedge.knn_join(regclass, regclass, integer, text, real, name, name, name, name) IS
'The k best rows of the right relation for each row of the left one that has an embedding: exact, in parallel, the right relation read once for each block of left rows that fits in work_mem. Joined to itself a relation finds each row for itself first. Errors as batch_search.';

SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
