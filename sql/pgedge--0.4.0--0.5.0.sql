-- From 0.4.0 to 0.5.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
