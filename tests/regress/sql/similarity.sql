\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION pgedge CASCADE;
RESET client_min_messages;
-- ── batch_similarity and similarity_matrix ──
SELECT pgedge.batch_similarity('[1,0]', ARRAY['[2,0]','[0,3]','[-1,0]','[1,1]']::vector[]);
SELECT pgedge.batch_similarity('[1,0]', ARRAY['[2,0]','[0,3]','[-1,0]','[1,1]']::vector[], 'l2');
SELECT pgedge.batch_similarity('[1,0]', ARRAY['[2,0]','[0,3]','[-1,0]','[1,1]']::vector[], metric => 'ip');
SELECT pgedge.batch_similarity('[1,0]'::halfvec, ARRAY['[2,0]',NULL,'[1,1]']::halfvec[]);
-- NULL elements, zero vectors, nothing
SELECT pgedge.batch_similarity('[1,0]', ARRAY['[2,0]',NULL,'[0,0]']::vector[]);
SELECT pgedge.batch_similarity('[0,0]', ARRAY['[2,0]']::vector[]), pgedge.batch_similarity('[0,0]', ARRAY['[3,4]']::vector[], 'l2');
SELECT pgedge.batch_similarity('[1,0]', '{}'::vector[]);
SELECT pgedge.batch_similarity(NULL, ARRAY['[2,0]']::vector[]) IS NULL AS "null query", pgedge.batch_similarity('[1]', NULL::vector[]) IS NULL AS "null candidates",
       pgedge.batch_similarity('[1]', ARRAY['[2]']::vector[], NULL) IS NULL AS "null metric";
-- the largest there is, tiny and huge values
SELECT pgedge.batch_similarity(v, ARRAY[v, v * v], 'ip') = ARRAY[16000, 16000]::real[] AS "16000 dimensions"
FROM (SELECT array_fill(1, '{16000}')::real[]::vector AS v) t;
SELECT pgedge.batch_similarity('[1e-30,1e-30]', ARRAY['[1e30,1e30]','[1e38,-1e38]']::vector[]), pgedge.batch_similarity('[3e38,3e38]', ARRAY['[-3e38,3e38]']::vector[], 'l2');
-- errors
SELECT pgedge.batch_similarity('[1,0]', ARRAY['[2,0]']::vector[], 'manhattan');
SELECT pgedge.batch_similarity('[1,0]', ARRAY['[2,0]','[1,2,3]']::vector[]);
SELECT pgedge.batch_similarity('[1,0]'::halfvec, ARRAY['[1,2,3]']::halfvec[]);

SELECT pgedge.similarity_matrix(ARRAY['[1,0]','[1,1]']::vector[]);
SELECT pgedge.similarity_matrix(ARRAY['[1,0]','[1,1]']::vector[], ARRAY['[0,1]','[4,4]','[1,0]']::vector[], 'l2');
SELECT m, array_dims(m) FROM (SELECT pgedge.similarity_matrix(ARRAY['[1,0]',NULL,'[0,0]']::vector[], ARRAY[NULL,'[4,4]']::vector[]) AS m) t;
SELECT pgedge.similarity_matrix(ARRAY[NULL]::vector[]), pgedge.similarity_matrix('{}'::vector[]), pgedge.similarity_matrix(ARRAY['[1]']::vector[], '{}'),
       pgedge.similarity_matrix(NULL::vector[]) IS NULL AS "null";
SELECT pgedge.similarity_matrix(ARRAY['[1,0]','[1,1]']::halfvec[], NULL, 'ip');
-- the cells agree with batch_similarity, whatever is NULL
SELECT bool_and(m[i][j] IS NOT DISTINCT FROM (pgedge.batch_similarity(a[i], b))[j]) AS agree, count(*)
FROM (SELECT a, b, pgedge.similarity_matrix(a, b) AS m FROM
       (SELECT array_agg(CASE WHEN i % 7 > 0 THEN ARRAY[i, i * i % 11, 1]::vector END ORDER BY i) AS a FROM generate_series(1, 20) i) x,
       (SELECT array_agg(CASE WHEN i % 5 > 0 THEN ARRAY[1, i % 3, i]::vector END ORDER BY i) AS b FROM generate_series(1, 30) i) y) t,
     generate_series(1, 20) i, generate_series(1, 30) j WHERE a[i] IS NOT NULL;
SELECT pgedge.similarity_matrix(ARRAY['[1,0]','[1,1,1]']::vector[]);
SELECT pgedge.similarity_matrix(ARRAY['[1,0]']::vector[], ARRAY['[1,1,1]']::vector[]);
SELECT pgedge.similarity_matrix(ARRAY['[1,0]']::vector[], NULL, 'Cosine');
SELECT pgedge.similarity_matrix(array_fill(NULL::vector, '{20000}'));

-- ── top_k ──
CREATE TABLE sim (id int PRIMARY KEY, e vector(2), kind text);
INSERT INTO sim VALUES (1, '[1,0]', 'a'), (2, '[0,1]', 'a'), (3, '[1,1]', 'b'), (4, '[2,2]', 'b'), (5, NULL, 'b'), (6, '[0,0]', 'a'), (7, '[-1,0]', 'a'), (8, '[3,3]', 'a');
SELECT h.* FROM unnest((SELECT pgedge.top_k(id, e, ARRAY['[1,1]','[0,1]']::vector[], 3, 'cosine') FROM sim)) h;
-- ties by id, NaN last
SELECT h.* FROM unnest((SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 100, 'cosine') FROM sim)) h;
SELECT h.* FROM unnest((SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 100, 'l2') FROM sim)) h;
SELECT h.* FROM unnest((SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 100, 'ip') FROM sim)) h;
-- within a limit: a similarity at least, a distance at most, never NaN
SELECT h.* FROM unnest((SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 100, 'cosine', 0.7) FROM sim)) h;
SELECT h.* FROM unnest((SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 100, 'cosine', -1) FROM sim)) h;
SELECT h.* FROM unnest((SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 100, 'l2', 1) FROM sim)) h;
-- any FROM, WHERE, FILTER and GROUP BY
SELECT kind, h.id, h.similarity FROM (SELECT kind, pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 1, 'cosine') AS found FROM sim GROUP BY kind) g, unnest(found) h ORDER BY kind;
SELECT (pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 1, 'cosine') FILTER (WHERE id > 3))[1].id FROM sim;
SELECT q.n, h.id FROM (VALUES (1, ARRAY['[1,0]']::vector[]), (2, ARRAY['[0,1]','[-1,0]']::vector[])) q(n, v), LATERAL unnest((SELECT pgedge.top_k(id, e, q.v, 1, 'cosine') FROM sim)) h ORDER BY 1, h.query_no;
-- ids of any type that can be ordered
SELECT h.id FROM unnest((SELECT pgedge.top_k(('x' || id)::text COLLATE "C", e, ARRAY['[1,1]']::vector[], 3, 'cosine') FROM sim)) h;
SELECT h.id FROM unnest((SELECT pgedge.top_k(-id::numeric / 2, e, ARRAY['[1,1]']::vector[], 3, 'cosine') FROM sim)) h;
SELECT h.id FROM unnest((SELECT pgedge.top_k(ARRAY[id, 1], e, ARRAY['[1,1]']::vector[], 3, 'cosine') FROM sim)) h;
SELECT h.id FROM unnest((SELECT pgedge.top_k(lpad(id::text, 32, '0')::uuid, e, ARRAY['[1,1]']::vector[], 3, 'cosine') FROM sim)) h;
SELECT h.id FROM unnest((SELECT pgedge.top_k('2026-01-01'::timestamp + id * '1 h'::interval, e::halfvec, ARRAY['[1,1]']::vector[], 3, 'cosine') FROM sim)) h;
SELECT h.id FROM unnest((SELECT pgedge.top_k(id > 3, e, ARRAY['[1,1]']::vector[], 3, 'cosine') FROM sim)) h;
-- NULL queries and no rows find nothing
SELECT h.query_no, h.id FROM unnest((SELECT pgedge.top_k(id, e, ARRAY[NULL,'[1,1]',NULL]::vector[], 1, 'cosine') FROM sim)) h;
SELECT pgedge.top_k(id, e, NULL, 1, 'cosine'), pgedge.top_k(id, e, '{}', 1, 'cosine'), pgedge.top_k(id, e, ARRAY[NULL]::vector[], 1, 'cosine') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 1, 'cosine') FROM sim WHERE false;
-- errors
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 0, 'cosine') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], NULL, 'cosine') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 1, 'euclid') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 1, NULL) FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 1, 'cosine', 'NaN') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1,1]']::vector[], 1, 'cosine') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]','[1,1,1]']::vector[], 1, 'cosine') FROM sim;
SELECT pgedge.top_k(nullif(id, 2), e, ARRAY['[1,1]']::vector[], 1, 'cosine') FROM sim;
SELECT pgedge.top_k(point(id, 1), e, ARRAY['[1,1]']::vector[], 1, 'cosine') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], id, 'cosine') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY[e], 1, 'cosine') FROM sim;
SELECT pgedge.top_k(id, e, ARRAY['[1,1]']::vector[], 1, 'cosine') OVER () FROM sim;

-- ── batch_search ──
INSERT INTO vectors (id, embedding, source) SELECT lpad(i::text, 32, '0')::uuid, (SELECT array_agg(((i * j) % 7)::real ORDER BY j)::vector FROM generate_series(1, 384) j), 'src' || i % 2 FROM generate_series(1, 20) i;
SELECT query_no, rank, id, round(similarity::numeric, 5) AS similarity FROM pgedge.batch_search((SELECT array_agg(embedding ORDER BY id) FROM vectors WHERE id < '00000000-0000-0000-0000-000000000003'), 4);
SELECT count(*), min(similarity) FROM pgedge.batch_search((SELECT array_agg(embedding) FROM vectors), min_similarity => 0.9999);
SELECT b.id, v.source FROM pgedge.batch_search((SELECT array_agg(embedding) FROM (SELECT embedding FROM vectors ORDER BY id LIMIT 1) t), 2, source => 'src1') b JOIN vectors v ON v.id::text = b.id ORDER BY b.rank;
SELECT * FROM pgedge.batch_search('{"[1,1]",NULL,"[-1,0]"}', 2, 'l2', relation => 'sim', embedding_column => 'e');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', 2, relation => 'sim', embedding_column => 'e', id_column => 'kind');
SELECT count(*) FROM pgedge.batch_search('{}', relation => 'sim', embedding_column => 'e');
SELECT count(*) FROM pgedge.batch_search(NULL);
-- a view, quoted names, a halfvec column, a source of another type
CREATE VIEW "Sim ""View" AS SELECT id AS "The Id", e::halfvec(2) AS "Emb", id % 2 AS source FROM sim;
SELECT * FROM pgedge.batch_search('{"[1,1]"}', 5, relation => '"Sim ""View"', embedding_column => 'Emb', id_column => 'The Id', source => '1');
-- the caller's snapshot: rows of this transaction count
BEGIN;
INSERT INTO sim VALUES (0, '[5,5]', 'new');
SELECT id FROM pgedge.batch_search('{"[1,1]"}', 1, relation => 'sim', embedding_column => 'e');
ROLLBACK;
-- errors
SELECT * FROM pgedge.batch_search('{"[1,1]"}', 0);
SELECT * FROM pgedge.batch_search('{"[1,1]"}', -5);
SELECT * FROM pgedge.batch_search('{"[1,1]"}', NULL);
SELECT * FROM pgedge.batch_search('{"[1,1]"}', metric => 'hamming');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', min_similarity => 'NaN');
SELECT * FROM pgedge.batch_search('{"[1,1]"}');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'nowhere');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 4294967295);
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim_pkey');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim', embedding_column => 'e', id_column => 'nothing');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim', embedding_column => 'kind');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim', embedding_column => 'e', source => 'a');
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim', embedding_column => 'e', id_column => NULL);
CREATE VIEW sim_points AS SELECT point(id, id) AS id, e AS embedding FROM sim;
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim_points');
CREATE ROLE regress_sim;
GRANT SELECT (id) ON sim TO regress_sim;
SET ROLE regress_sim;
SELECT * FROM pgedge.batch_search('{"[1,1]"}', relation => 'sim', embedding_column => 'e');
SELECT * FROM pgedge.batch_search('{"[1,1]"}');
SELECT * FROM pgedge.similar_pairs();
RESET ROLE;
GRANT SELECT (e) ON sim TO regress_sim;
SET ROLE regress_sim;
SELECT id FROM pgedge.batch_search('{"[1,1]"}', 1, relation => 'sim', embedding_column => 'e');
RESET ROLE;
DROP OWNED BY regress_sim;
DROP ROLE regress_sim;

-- ── similar_pairs ──
SELECT * FROM pgedge.similar_pairs(0.7, relation => 'sim', embedding_column => 'e');
SELECT * FROM pgedge.similar_pairs(0.7, relation => 'sim', embedding_column => 'e', max_pairs => 2);
SELECT * FROM pgedge.similar_pairs(1.0, metric => 'l2', relation => 'sim', embedding_column => 'e');
SELECT count(*) FROM pgedge.similar_pairs(0.7, relation => 'sim', embedding_column => 'e', max_pairs => 0);
SELECT * FROM pgedge.similar_pairs(0.9, relation => '"Sim ""View"', embedding_column => 'Emb', id_column => 'The Id');
SELECT count(*), sum((similarity > 0.99999)::int) FROM pgedge.similar_pairs(source => 'src1');
SELECT * FROM pgedge.similar_pairs('NaN');
SELECT * FROM pgedge.similar_pairs(NULL);
SELECT * FROM pgedge.similar_pairs(0.9, max_pairs => -1);
SELECT * FROM pgedge.similar_pairs(0.9, metric => 'jaccard');
SELECT * FROM pgedge.similar_pairs(0.9, relation => 'sim');

-- ── knn_join ──
SELECT * FROM pgedge.knn_join('sim', 'sim', 2, left_embedding => 'e', right_embedding => 'e') ORDER BY left_id, rank;
SELECT * FROM pgedge.knn_join('sim', '"Sim ""View"', 1, 'l2', 0.5, 'e', 'id', 'Emb', 'The Id') ORDER BY left_id, rank;
SELECT * FROM pgedge.knn_join('sim', 'vectors', left_embedding => 'e');
SELECT * FROM pgedge.knn_join('sim', 'sim', 0);
SELECT * FROM pgedge.knn_join(NULL, 'sim');
SELECT * FROM pgedge.knn_join('sim', 'sim', left_embedding => 'e', right_embedding => 'nothing');
SELECT pgedge.simd_level() ~ '^(avx512(\+vnni)?|avx2\+fma|neon(\+dotprod)?(\+fp16)?|scalar)$' AS level;
DROP VIEW "Sim ""View", sim_points;
DROP TABLE sim;
DELETE FROM vectors;
