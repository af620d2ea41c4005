-- From 0.3.0 to 0.4.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Log patterns: secrets
COMMENT ON FUNCTION pgedge.log_parameters(text, text) IS 'What the placeholders of a pattern stand for in a line, in order, *** for each secret; NULL when the line is not one of that pattern.';
