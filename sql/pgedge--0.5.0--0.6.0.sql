-- From 0.5.0 to 0.6.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables; and the types of pgvector, wherever that is.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, ' || pg_catalog.quote_ident(n.nspname) || ', pg_temp', true)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace WHERE e.extname OPERATOR(pg_catalog.=) 'vector';

-- Similarity -----------------------------------------------------------------------------------------------------------------------------

COMMENT ON FUNCTION pgedge.batch_search(vector[], integer, text, real, text, regclass, name, name) IS
'The k best rows of a relation (the table vectors unless one is named) for each of many queries: exact, in parallel where that is faster, in the snapshot and with the privileges and row-level security of the caller. Queries are taken in blocks that fit in work_mem. NULL queries and NULL embeddings find nothing. Errors: 22023 k, metric or min_similarity; 22000 different dimensions; 22004 a NULL id or argument; 42P01, 42809, 42703, 42804, 42883 relation or columns; 42501 no permission.';
