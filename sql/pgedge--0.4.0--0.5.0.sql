-- From 0.4.0 to 0.5.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Lines without a time of their own have that of the call to the second.
COMMENT ON FUNCTION pgedge.aggregate_logs(jsonb) IS
'Adds log lines to aggregated_logs: one row for each pattern, level and source, with count, times, merged metadata and up to five samples. entries is an array of {"message", "level", "source", "metadata", "timestamp"} or {"logs": […]}; only message is required, level is taken from the line when not given, timestamp is now() to the second when not given, further keys are kept as metadata. Returns the rows that got lines, how many, and whether the row is new. Errors change nothing: 22023 wrong JSON, 22001 level or source too long, 22007 bad timestamp, 22003 count overflows, 25006 read-only, 42703 a column is missing. Several calls for different sources in one transaction, and in another the same in the opposite order, may end in 40P01: put all sources of a transaction into one call.';
