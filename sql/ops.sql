-- Monitoring views, under the column names that the specification's monitoring queries use. All of them read the server's
-- own statistics, so what a role may see in them is what PostgreSQL shows it: everything for a member of pg_monitor.

CREATE VIEW pgedge.database_size AS
SELECT pg_catalog.pg_size_pretty(s.bytes) AS db_size, pg_catalog.current_database() AS database, s.bytes AS size_bytes
FROM (SELECT pg_catalog.pg_database_size(pg_catalog.current_database())) s(bytes);
COMMENT ON VIEW pgedge.database_size IS 'The size of the current database, for people (db_size) and in bytes';

CREATE VIEW pgedge.table_sizes AS
SELECT n.nspname AS schemaname, c.relname AS tablename, pg_catalog.pg_size_pretty(s.total) AS size, s.total AS total_bytes,
       s.heap AS table_bytes, s.indexes AS index_bytes, s.total - s.heap - s.indexes AS toast_bytes,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS estimated_rows
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT pg_catalog.pg_total_relation_size(c.oid), pg_catalog.pg_relation_size(c.oid), pg_catalog.pg_indexes_size(c.oid)) s(total, heap, indexes)
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast|^pg_temp_';
COMMENT ON VIEW pgedge.table_sizes IS
'Each table''s size on disk: whole (size, total_bytes), without indexes and TOAST (table_bytes), its indexes, its TOAST table with maps, and the planner''s row estimate (NULL when never analyzed)';

CREATE VIEW pgedge.index_usage AS
SELECT s.schemaname, s.relname AS tablename, s.indexrelname AS indexname, s.idx_scan, s.idx_tup_read, s.idx_tup_fetch,
       am.amname AS method, pg_catalog.pg_size_pretty(b.bytes) AS size, b.bytes AS size_bytes, i.indisvalid AS is_valid, s.last_idx_scan
FROM pg_catalog.pg_stat_user_indexes s
JOIN pg_catalog.pg_index i ON i.indexrelid = s.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = s.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = c.relam
CROSS JOIN LATERAL (SELECT pg_catalog.pg_relation_size(s.indexrelid)) b(bytes);
COMMENT ON VIEW pgedge.index_usage IS
'How often each index was used since the statistics were reset: pg_stat_user_indexes under the names tablename and indexname, with method, size and validity';

CREATE VIEW pgedge.connections AS
SELECT pg_catalog.count(*) AS active_connections, a.state, a.application_name,
       pg_catalog.now() - pg_catalog.min(a.xact_start) AS oldest_transaction, pg_catalog.now() - pg_catalog.min(a.state_change) AS oldest_state_change
FROM pg_catalog.pg_stat_activity a
GROUP BY a.state, a.application_name;
COMMENT ON VIEW pgedge.connections IS
'Server processes by state and application (state is NULL for the server''s own), with the age of the oldest transaction and of the longest unchanged state';

CREATE VIEW pgedge.blocking AS
SELECT b.pid, b.state, b.query, b.query_start, b.usename, b.application_name, b.xact_start,
       w.pid AS blocked_pid, w.query AS blocked_query, pg_catalog.now() - coalesce(l.waitstart, w.query_start) AS blocked_for,
       l.mode AS blocked_mode, l.relation::regclass AS blocked_relation
FROM pg_catalog.pg_stat_activity w
CROSS JOIN LATERAL (SELECT DISTINCT pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) pid) blockers
LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = blockers.pid
LEFT JOIN pg_catalog.pg_locks l ON l.pid = w.pid AND NOT l.granted
WHERE w.wait_event_type = 'Lock';
COMMENT ON VIEW pgedge.blocking IS
'Sessions that make another wait for a lock (pid, state, query, query_start) and whom (blocked_…), one row a pair; no row when nobody waits. A pid of 0 is a prepared transaction';

-- A view over a function, since pg_stat_statements may come (and move) later than pgedge.
CREATE FUNCTION pgedge._slow_queries() RETURNS TABLE (query text, calls bigint, total_time double precision, mean_time double precision, rows bigint,
    min_time double precision, max_time double precision, stddev_time double precision, shared_blks_hit bigint, shared_blks_read bigint,
    temp_blks_written bigint, wal_bytes numeric, username name, database name, queryid bigint)
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    home text := (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements');
BEGIN
    -- Created but not preloaded it raises an error at every look; its setting is there only when it was preloaded.
    IF home IS NULL OR NOT EXISTS (SELECT FROM pg_settings s WHERE s.name = 'pg_stat_statements.max') THEN RETURN; END IF;
    RETURN QUERY EXECUTE format('SELECT s.query, s.calls, s.total_exec_time, s.mean_exec_time, s.rows, s.min_exec_time, s.max_exec_time, s.stddev_exec_time,
            s.shared_blks_hit, s.shared_blks_read, s.temp_blks_written, s.wal_bytes, pg_get_userbyid(s.userid), d.datname, s.queryid
        FROM %s.pg_stat_statements s LEFT JOIN pg_database d ON d.oid = s.dbid', home);
END $$;
COMMENT ON FUNCTION pgedge._slow_queries() IS 'internal: pg_stat_statements, or nothing where it is not created or not preloaded';

CREATE VIEW pgedge.slow_queries AS SELECT * FROM pgedge._slow_queries();
COMMENT ON VIEW pgedge.slow_queries IS
'pg_stat_statements under the names total_time and mean_time (execution, milliseconds). Empty while that extension is not created or not preloaded: health() says which';

COMMENT ON FUNCTION pgedge.device_temperature() IS
'The temperature of each thermal zone of the machine in degrees Celsius, from /sys/class/thermal; no row where the kernel shows none';
COMMENT ON FUNCTION pgedge._device_temperature(text) IS 'internal: device_temperature() below another root, for tests';
COMMENT ON FUNCTION pgedge._throttling(text) IS 'internal: what a Raspberry Pi''s firmware holds back, now and since boot';
COMMENT ON FUNCTION pgedge._disk_space() IS 'internal: room in the filesystems of the data directory, pg_wal, shared memory and the tablespaces';
COMMENT ON FUNCTION pgedge._host() IS 'internal: memory, processors and storage as detected';
COMMENT ON FUNCTION pgedge._recommended_settings(text, integer, text) IS 'internal: settings that follow from memory, processors and storage';

CREATE FUNCTION pgedge.recommended_settings(ram text DEFAULT NULL, cpus integer DEFAULT NULL, storage text DEFAULT NULL)
RETURNS TABLE (name text, current text, recommended text, reason text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    -- The same value is written in the same way, although SHOW would say 1s for 1000 and pglz for on.
    SELECT r.name, CASE WHEN s.name IS NULL THEN NULL WHEN s.setting = r.recommended OR s.setting = 'pglz' AND r.recommended = 'on' THEN r.recommended
                        ELSE current_setting(s.name) END, r.recommended, r.reason
    FROM (
        SELECT l.* FROM pgedge._recommended_settings(ram, cpus, storage) WITH ORDINALITY l(name, recommended, reason, n)
        UNION ALL
        -- A library that is not installed would keep the server from starting, so only those that are; and what is loaded now stays.
        SELECT 'shared_preload_libraries', string_agg(l.library, ',' ORDER BY l.n), 'pg_net for webhooks and pg_stat_statements for slow_queries, as far as they are installed; needs a restart', 1000
        FROM (SELECT u.library, min(u.n) AS n
              FROM (SELECT trim(v, ' "'), 10 + n FROM string_to_table(current_setting('shared_preload_libraries', true), ',') WITH ORDINALITY t(v, n)
                    UNION ALL SELECT a.name, CASE a.name WHEN 'pg_net' THEN 1 ELSE 2 END FROM pg_available_extensions a WHERE a.name IN ('pg_net', 'pg_stat_statements')) u(library, n)
              WHERE u.library <> '' GROUP BY u.library) l
        HAVING count(*) > 0
    ) r LEFT JOIN pg_settings s ON s.name = r.name
    ORDER BY r.n
$$;
COMMENT ON FUNCTION pgedge.recommended_settings(text, integer, text) IS
'Settings for this machine, or for the memory (''2GB''), number of processors and storage (ssd, sd, hdd) given, beside the current ones (NULL where the caller may not see them), with reasons. Detected from the cgroup''s limits, /proc and /sys. Errors: 22023 for values that make no sense';

-- Roles ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge._check_role(role name) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION 'role must not be null' USING ERRCODE = 'null_value_not_allowed', HINT = 'Name an existing role.';
    ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object', HINT = format('Create it first: CREATE USER %I WITH PASSWORD …', role);
    END IF;
    RETURN quote_ident(role);
END $$;
COMMENT ON FUNCTION pgedge._check_role(name) IS 'internal: an existing role, quoted, or an error';

-- The functions of these names that are there; '' when none.
CREATE FUNCTION pgedge._function_list(names name[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT pg_catalog.string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text)
        FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pgedge'::regnamespace AND p.proname = ANY (names) AND p.prokind = 'f');
COMMENT ON FUNCTION pgedge._function_list(name[]) IS 'internal: the functions of pgedge of these names, as GRANT takes them';

CREATE FUNCTION pgedge.grant_reader(role name) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grantee text := pgedge._check_role(role);
    statement text;
BEGIN
    FOREACH statement IN ARRAY ARRAY[
        format('GRANT CONNECT ON DATABASE %I TO %s', current_database(), grantee),
        format('GRANT USAGE ON SCHEMA %I, pgedge TO %s', pgedge._schema(), grantee),
        format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %s', pgedge._schema(), grantee),
        (SELECT format('GRANT SELECT ON %s TO %s', string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname), grantee)
         FROM pg_class c WHERE c.relnamespace = 'pgedge'::regnamespace AND c.relkind = 'v' AND c.relname !~ '^_'
           AND c.relname <> 'event_leases' /* which shows tokens */),
        format('GRANT EXECUTE ON FUNCTION %s TO %s', pgedge._function_list('{match_log,log_trends,log_anomalies,_slow_queries,_queue_stats}'), grantee)]
    LOOP
        EXECUTE statement;
        RETURN NEXT statement;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge.grant_reader(name) IS
'Lets a role read: CONNECT to this database, SELECT on all tables of the extension''s schema (as they are now) and on the views of pgedge, nothing to write. Returns the statements it ran. Errors: 22004 for NULL, 42704 for a role that does not exist';

-- What each kind of service does, on which table and with which functions. The tables' own names stand for whoever works with them.
CREATE FUNCTION pgedge._service_kinds() RETURNS TABLE (kind text, table_name name, privileges text, functions name[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
    ('embeddings', 'vectors'::name,        'INSERT, SELECT',         '{}'::name[]),
    ('vectors', 'vectors',                 'INSERT, SELECT',         '{}'),
    ('analytics', 'analytics_results',     'INSERT, SELECT',         '{}'),
    ('analytics_results', 'analytics_results', 'INSERT, SELECT',     '{}'),
    ('log_writer', 'aggregated_logs',      'INSERT, SELECT, UPDATE', '{aggregate_logs,match_log,log_trends,log_anomalies}'),
    ('aggregated_logs', 'aggregated_logs', 'INSERT, SELECT, UPDATE', '{aggregate_logs,match_log,log_trends,log_anomalies}'),
    ('event_producer', 'claude_events',    'INSERT, SELECT',         '{enqueue_event,enqueue_events}'),
    ('event_consumer', 'claude_events',    'SELECT, UPDATE',         '{claim_events,wait_for_events,extend_lease,complete_events,fail_events,release_events}'),
    ('event_admin', 'claude_events',       'SELECT, UPDATE, DELETE', '{cancel_events,redrive_events,purge_events,pause_events,resume_events}'),
    ('webhook_dispatcher', 'webhook_deliveries', 'SELECT',           '{dispatch_webhooks,reconcile_webhooks,purge_webhook_deliveries}'),
    ('claude_events', 'claude_events',     'INSERT, SELECT, UPDATE', '{enqueue_event,enqueue_events,claim_events,wait_for_events,extend_lease,complete_events,fail_events,release_events}');
END;
COMMENT ON FUNCTION pgedge._service_kinds() IS 'internal: what grant_service() gives for each word it knows';

-- The statements for one word of grant_service(): a kind of service, a data table, or a table of the user's own.
CREATE FUNCTION pgedge._service_grants(item text, grantee text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema name := pgedge._schema();
    privileges text := 'INSERT, SELECT';
    relation regclass;
    kind record;
BEGIN
    SELECT * INTO kind FROM pgedge._service_kinds() k WHERE k.kind = item;
    IF FOUND THEN
        -- Of pgedge's own there are views only.
        relation := coalesce((SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'pgedge'::regnamespace AND c.relkind = 'v' AND c.relname = kind.table_name)::regclass,
                             to_regclass(format('%I.%I', schema, kind.table_name)));
        privileges := kind.privileges;
    ELSE
        relation := coalesce(to_regclass(format('%I.%I', schema, item)), CASE WHEN item ~ '^[^.]+[.][^.]+$' THEN to_regclass(item) END);
    END IF;
    IF relation IS NULL OR (SELECT c.relkind NOT IN ('r', 'p') AND c.relnamespace <> 'pgedge'::regnamespace FROM pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION 'table or kind of service "%" does not exist', item
            USING ERRCODE = 'undefined_table',
                  HINT = format('Known words: %s; or name a table of your own, with its schema when that is not %I. SELECT pgedge.create_tables() makes missing tables.',
                                (SELECT string_agg(k.kind, ', ') FROM pgedge._service_kinds() k), schema);
    END IF;
    RETURN NEXT format('GRANT %s ON %s TO %s', privileges, relation, grantee);
    IF privileges ~ 'INSERT' THEN
        RETURN QUERY SELECT format('GRANT USAGE ON SEQUENCE %s TO %s', d.objid::regclass, grantee)
            FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
            WHERE d.classid = 'pg_class'::regclass AND d.refobjid = relation AND d.deptype = 'a' ORDER BY 1;
    END IF;
    RETURN QUERY SELECT format('GRANT EXECUTE ON FUNCTION %s TO %s', f, grantee) FROM pgedge._function_list(kind.functions) f WHERE f IS NOT NULL;
END $$;
COMMENT ON FUNCTION pgedge._service_grants(text, text) IS 'internal: the GRANT statements for one word of grant_service()';

CREATE FUNCTION pgedge.grant_service(role name, VARIADIC tables text[] DEFAULT '{}') RETURNS SETOF text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    grantee text := pgedge._check_role(role);
    statement text;
    statements text[];
BEGIN
    IF coalesce(cardinality(tables), 0) = 0 OR array_position(tables, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'grant_service needs the names of tables or kinds of service, got %', coalesce(quote_literal(tables::text), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Known words: %s.', (SELECT string_agg(k.kind, ', ') FROM pgedge._service_kinds() k));
    END IF;
    statements := ARRAY[format('GRANT CONNECT ON DATABASE %I TO %s', current_database(), grantee),
                        format('GRANT USAGE ON SCHEMA %I, pgedge TO %s', pgedge._schema(), grantee)]
        || ARRAY(SELECT g FROM unnest(tables) WITH ORDINALITY t(item, n), pgedge._service_grants(t.item, grantee) WITH ORDINALITY g(g, m) ORDER BY t.n, g.m);
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
        RETURN NEXT statement;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge.grant_service(name, text[]) IS
'Lets a role do one service''s work: for a table''s name INSERT and SELECT on it and USAGE on its sequence, for embeddings, analytics, event_producer, event_consumer or log_writer what that service does. Returns the statements it ran. Errors: 22004 NULL role, 42704 no such role, 22023 no table named, 42P01 no such table';

REVOKE ALL ON FUNCTION pgedge._device_temperature(text), pgedge._throttling(text), pgedge._disk_space(), pgedge._host(),
    pgedge._recommended_settings(text, integer, text), pgedge.recommended_settings(text, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION pgedge._slow_queries(), pgedge._check_role(name), pgedge._function_list(name[]), pgedge._service_grants(text, text), pgedge.grant_reader(name), pgedge.grant_service(name, text[]) FROM PUBLIC;
GRANT USAGE ON SCHEMA pgedge TO pg_monitor;
GRANT SELECT ON pgedge.database_size, pgedge.table_sizes, pgedge.index_usage, pgedge.connections, pgedge.blocking, pgedge.slow_queries TO pg_monitor;
GRANT EXECUTE ON FUNCTION pgedge._slow_queries(), pgedge._disk_space(), pgedge._host(), pgedge._recommended_settings(text, integer, text),
    pgedge.recommended_settings(text, integer, text) TO pg_monitor;
