\set SHOW_CONTEXT never
-- Operations: what a machine shows differs, so this looks at names, forms and refusals. What health() finds is in tests/sessions/test_ops.py.
SET client_min_messages = warning;
CREATE EXTENSION pgedge CASCADE;
SET client_min_messages = warning;
-- ── views: the columns that the specification's monitoring queries use come first ──
SELECT c.relname, string_agg(a.attname, ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'pgedge'::regnamespace AND c.relkind = 'v' AND c.relname IN ('database_size', 'table_sizes', 'index_usage', 'connections', 'blocking', 'slow_queries')
GROUP BY 1 ORDER BY 1;
SELECT database = current_database() AS here, size_bytes > 1000000 AS large FROM pgedge.database_size;
SELECT tablename, total_bytes > 0 AS has_bytes FROM pgedge.table_sizes WHERE schemaname = 'public' ORDER BY 1;
SELECT tablename, indexname, idx_scan, method, is_valid FROM pgedge.index_usage WHERE tablename = 'vectors' ORDER BY 2;
SELECT active_connections >= 1 AS me FROM pgedge.connections WHERE state = 'active';
SELECT count(*) FROM pgedge.blocking;
-- pg_stat_statements is not preloaded here: nothing to show, and no error
SELECT count(*) FROM pgedge.slow_queries;
-- ── health ──
SELECT check_name, status FROM pgedge.health() WHERE check_name IN ('tables', 'sequences', 'dead_events', 'expired_leases', 'invalid_indexes', 'ivfflat_training') ORDER BY 1;
SELECT DISTINCT status FROM pgedge.health() WHERE status NOT IN ('ok', 'warning', 'critical');
DROP INDEX idx_logs_level;
SELECT check_name, status, detail, hint FROM pgedge.health() WHERE check_name = 'tables';
SELECT pgedge.create_tables();
SELECT pgedge.record_backup('dump', '/backup/today.sql.gz');
SELECT kind, location FROM pgedge.backups;
SELECT pgedge.record_backup('photograph');
SELECT pgedge.record_backup(NULL);
-- ── recommended settings: the specification's values are those of a 2 GB share on an SSD ──
SELECT name, recommended FROM pgedge.recommended_settings('2GB', 4, 'ssd') WHERE name <> 'shared_preload_libraries' ORDER BY name;
SELECT name, recommended FROM pgedge.recommended_settings('512MB', 4, 'sd') WHERE name IN ('shared_buffers', 'work_mem', 'random_page_cost', 'effective_io_concurrency') ORDER BY name;
SELECT pgedge.recommended_settings('plenty');
SELECT pgedge.recommended_settings('-1GB');
SELECT pgedge.recommended_settings('2GB', 0);
SELECT pgedge.recommended_settings('2GB', 4, 'tape');
-- ── temperature ──
SELECT count(*) >= 0 AS reads FROM pgedge.device_temperature();
-- ── roles ──
CREATE ROLE regress_reader;
CREATE ROLE regress_service;
SELECT replace(g, current_database(), 'DATABASE') FROM pgedge.grant_reader('regress_reader') g;
SELECT replace(g, current_database(), 'DATABASE') FROM pgedge.grant_service('regress_service', 'vectors') g;
SELECT count(*) >= 0 AS lines FROM pgedge.grant_service('regress_service', 'event_producer', 'log_writer');
SET ROLE regress_service;
SELECT message_pattern, occurrences FROM pgedge.aggregate_logs(ARRAY['User 1 logged in']);
SELECT pgedge.enqueue_event('metrics', '{}') IS NOT NULL AS enqueued;
SELECT pgedge.claim_events();
DELETE FROM vectors;
SET ROLE regress_reader;
SELECT count(*) FROM vectors;
SELECT pgedge.enqueue_event('metrics', '{}');
SELECT pgedge.grant_service('regress_reader', 'vectors');
RESET ROLE;
SELECT pgedge.grant_reader(NULL);
SELECT pgedge.grant_reader('nobody_of_that_name');
SELECT pgedge.grant_service('regress_service', 'coffee');
DROP OWNED BY regress_reader, regress_service;
DROP ROLE regress_reader, regress_service;
