-- From 0.3.0 to 0.4.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- ── similarity ──

CREATE OR REPLACE FUNCTION pgedge._health_06_toast() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- When the heap has fewer bytes a row than a vector takes, the vectors cannot be in it.
    SELECT 'toasted_vectors', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce(pgedge._listed(array_agg(format('%s.%I: %s bytes a row in the table, but %s a vector: most vectors are out of line, and each distance fetches them', relation, attname, per_row, vector_bytes)
                                             ORDER BY relation::text, attname), '; '), 'vectors stand in their rows'),
           pgedge._listed(array_agg(format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE MAIN; VACUUM FULL %s; (locks the table)', relation, attname, relation) ORDER BY relation::text, attname), ' ')
    FROM (SELECT c.oid::regclass AS relation, a.attname, pg_relation_size(c.oid) / c.reltuples::bigint AS per_row,
                 8 + a.atttypmod * CASE t.typname WHEN 'vector' THEN 4 ELSE 2 END AS vector_bytes
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'm') AND c.reltuples >= 1000 AND c.reltoastrelid <> 0
          JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
          WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypmod > 0) s
    WHERE per_row < vector_bytes AND vector_bytes < 8000
$$;
