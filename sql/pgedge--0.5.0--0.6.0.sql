-- From 0.5.0 to 0.6.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
