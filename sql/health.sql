-- health(): one line for each thing that can go wrong on a box that nobody looks at. Each check is a function _health_<name>()
-- that returns lines; health() runs all that are there, and a check that fails says so in a line of its own.
-- A check reads statistics, catalogs and the machine, never the user's rows: it works for pg_monitor and on a standby.

CREATE TYPE pgedge._health_line AS (check_name text, status text, detail text, hint text);
COMMENT ON TYPE pgedge._health_line IS 'internal: what a check of health() returns';

-- What the catalogs do not keep: how many rows an IVFFlat index was built on, how fast a sequence runs, when a backup was made.
-- Not dumped: each of it describes this server's files, and a restore builds its indexes anew.
CREATE TABLE pgedge.index_builds (
    index_oid oid PRIMARY KEY,
    filenode oid NOT NULL,
    rows bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE pgedge.index_builds IS
'Each IVFFlat index''s file and its rows when that file was first seen: the rows it was built on, when create_tables() or health() looked soon after CREATE INDEX or REINDEX. Another file means it was rebuilt (not dumped: a restore builds its indexes anew)';

CREATE TABLE pgedge.sequence_positions (
    sequence_oid oid PRIMARY KEY,
    reached bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE pgedge.sequence_positions IS 'Where each sequence stood up to 30 days ago, to tell when it will end (not dumped: a restore starts to measure anew)';

CREATE TABLE pgedge.backups (
    finished_at timestamptz PRIMARY KEY DEFAULT pg_catalog.clock_timestamp(),
    kind text NOT NULL CHECK (kind IN ('dump', 'base')),
    location text
);
COMMENT ON TABLE pgedge.backups IS 'The last 100 backups that record_backup() was told of (not dumped: they are those of another server)';

CREATE FUNCTION pgedge._listed(items text[], separator text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.array_to_string(items[1:20], separator)
       || CASE WHEN pg_catalog.cardinality(items) > 20 THEN pg_catalog.format('%sand %s more', separator, pg_catalog.cardinality(items) - 20) ELSE '' END;
COMMENT ON FUNCTION pgedge._listed(text[], text) IS 'internal: the first 20 of a list, and how many more there are; NULL for NULL';

CREATE FUNCTION pgedge.record_backup(kind text, location text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF kind IS NULL OR kind NOT IN ('dump', 'base') THEN
        RAISE EXCEPTION 'unknown kind of backup: %', coalesce(quote_literal(kind), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use ''dump'' for pg_dump and ''base'' for pg_basebackup.';
    END IF;
    INSERT INTO pgedge.backups (kind, location) VALUES (record_backup.kind, pg_catalog.left(record_backup.location, 1000));
    -- Those that a wrong clock put into the future do not push out the others.
    DELETE FROM pgedge.backups b WHERE b.finished_at < (SELECT o.finished_at FROM pgedge.backups o WHERE o.finished_at < clock_timestamp() + interval '1 hour'
                                                        ORDER BY o.finished_at DESC OFFSET 99 LIMIT 1);
END $$;
COMMENT ON FUNCTION pgedge.record_backup(text, text) IS
'Tells health() that a backup was finished: kind dump or base, location for people. Errors: 22023 for another kind';

-- Reads positions only, which runs no user code; pg_sequences would hide them from pg_monitor.
CREATE FUNCTION pgedge._sequences() RETURNS TABLE (sequence_oid oid, name text, reached bigint, maximum bigint, table_oid oid, column_name name, column_type text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.seqrelid, s.seqrelid::regclass::text, pg_sequence_last_value(s.seqrelid),
           -- An integer column is full before a bigint sequence is.
           least(s.seqmax, CASE a.atttypid WHEN 'int4'::regtype THEN 2147483647 WHEN 'int2'::regtype THEN 32767 ELSE s.seqmax END),
           a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod)
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid AND c.relpersistence <> 't'
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE s.seqincrement > 0 AND NOT s.seqcycle AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery())
$$;
COMMENT ON FUNCTION pgedge._sequences() IS 'internal: every ascending sequence, where it stands, and the largest value it or its column can take';

CREATE FUNCTION pgedge._ivfflat_indexes() RETURNS TABLE (index_oid oid, table_oid oid, filenode oid, index_rows bigint, table_rows bigint, lists integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, i.indrelid, pg_relation_filenode(c.oid), greatest(c.reltuples, 0)::bigint,
           -- The counter is current but starts at 0 on a standby and after a crash; the estimate is as old as the last analyze.
           greatest(t.reltuples, pg_stat_get_live_tuples(t.oid), 0)::bigint,
           coalesce((SELECT o.option_value::integer FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'lists'), 100)
    FROM pg_class c JOIN pg_am am ON am.oid = c.relam AND am.amname = 'ivfflat'
    JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_class t ON t.oid = i.indrelid
    WHERE c.relkind = 'i' AND i.indisvalid
$$;
COMMENT ON FUNCTION pgedge._ivfflat_indexes() IS 'internal: every IVFFlat index, its file, and the rows in it and in its table';

CREATE FUNCTION pgedge._observe() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- One at a time, and nobody waits: what this one misses the next look sees.
    IF NOT pg_try_advisory_xact_lock('pgedge.index_builds'::regclass::oid::integer, 0) THEN RETURN; END IF;
    -- PostgreSQL sets an index's reltuples when it builds it; a later vacuum or analyze writes the rows of that time.
    INSERT INTO pgedge.index_builds AS b (index_oid, filenode, rows)
    SELECT i.index_oid, i.filenode, i.index_rows FROM pgedge._ivfflat_indexes() i
    WHERE NOT EXISTS (SELECT FROM pgedge.index_builds k WHERE k.index_oid = i.index_oid AND k.filenode = i.filenode)
    ON CONFLICT (index_oid) DO UPDATE SET filenode = excluded.filenode, rows = excluded.rows, seen_at = excluded.seen_at;
    DELETE FROM pgedge.index_builds b WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = b.index_oid);
END $$;
COMMENT ON FUNCTION pgedge._observe() IS 'internal: notes new index files; writes only what changed';

CREATE FUNCTION pgedge._observe_sequences() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock('pgedge.sequence_positions'::regclass::oid::integer, 0) THEN RETURN; END IF;
    INSERT INTO pgedge.sequence_positions AS p (sequence_oid, reached)
    SELECT s.sequence_oid, s.reached FROM pgedge._sequences() s
    WHERE s.reached IS NOT NULL
      AND NOT EXISTS (SELECT FROM pgedge.sequence_positions k WHERE k.sequence_oid = s.sequence_oid AND k.reached <= s.reached
                        AND k.seen_at > now() - interval '30 days' AND k.seen_at < now() + interval '1 hour' /* a clock that was wrong */)
    ON CONFLICT (sequence_oid) DO UPDATE SET reached = excluded.reached, seen_at = excluded.seen_at;
    DELETE FROM pgedge.sequence_positions p WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.sequence_oid);
END $$;
COMMENT ON FUNCTION pgedge._observe_sequences() IS 'internal: notes positions of sequences; writes only what changed';

-- The checks, in groups ------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge._health_01_tables() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH tables AS (
        SELECT DISTINCT c.table_name, to_regclass(format('%I.%I', pgedge._schema(), c.table_name)) AS relation FROM pgedge._columns() c
    ), missing(n, what) AS (
        SELECT 1, 'table ' || t.table_name FROM tables t WHERE t.relation IS NULL
        UNION ALL
        SELECT 2, format('column %s.%s', t.table_name, c.column_name) FROM tables t JOIN pgedge._columns() c USING (table_name)
        WHERE t.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.relation AND a.attname = c.column_name AND NOT a.attisdropped)
        UNION ALL
        SELECT 3, format('index %s on %s (%s)', coalesce(i.index_name, i.method), t.table_name, array_to_string(i.columns, ', ')) FROM tables t JOIN pgedge._indexes() i USING (table_name)
        WHERE t.relation IS NOT NULL AND NOT pgedge._has_index(t.relation, i.method, i.columns, i.opclass, i.is_unique, i.predicate IS NOT NULL)
        UNION ALL
        SELECT 4, format('trigger %s on %s', g.trigger_name, t.table_name) FROM tables t JOIN pgedge._triggers() g USING (table_name)
        WHERE t.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger x WHERE x.tgrelid = t.relation AND x.tgname = g.trigger_name)
    )
    SELECT 'tables', CASE WHEN min(n) = 1 THEN 'critical' WHEN count(*) > 0 THEN 'warning' ELSE 'ok' END,
           CASE WHEN count(*) = 0 THEN 'all tables, columns, indexes and triggers are there' ELSE 'missing: ' || string_agg(what, '; ' ORDER BY n, what) END,
           CASE WHEN count(*) > 0 THEN 'SELECT pgedge.create_tables();' END
    FROM missing
$$;
COMMENT ON FUNCTION pgedge._health_01_tables() IS 'internal: tables, columns, indexes or triggers that are missing';

CREATE FUNCTION pgedge._health_02_pgvector() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- The library decides, and it is as new as the installed files; the extension's version is that of its SQL objects.
    SELECT 'pgvector_version', CASE WHEN v.version < '{0,8,3}' OR e.extversion <> a.default_version THEN 'warning' ELSE 'ok' END,
           format('pgvector %s', a.default_version)
           || CASE WHEN v.version < '{0,8,2}' THEN ': a parallel HNSW index build can overflow a buffer (CVE-2026-3172, fixed in 0.8.2), and vacuum can damage an HNSW index (fixed in 0.8.3)'
                   WHEN v.version < '{0,8,3}' THEN ': vacuum can damage an HNSW index (fixed in 0.8.3)' ELSE '' END
           || CASE WHEN e.extversion <> a.default_version THEN format('; its objects in this database are of %s', e.extversion) ELSE '' END,
           CASE WHEN v.version < '{0,8,3}' THEN 'Install pgvector 0.8.3 or later, then: ALTER EXTENSION vector UPDATE; and REINDEX the HNSW indexes. Until then SET max_parallel_maintenance_workers = 0 for index builds.'
                WHEN e.extversion <> a.default_version THEN 'ALTER EXTENSION vector UPDATE;' END
    FROM pg_extension e
    JOIN pg_available_extensions a ON a.name = e.extname
    CROSS JOIN LATERAL (SELECT string_to_array(substring(a.default_version FROM '^[0-9]+(?:[.][0-9]+)*'), '.')::integer[]) v(version)
    WHERE e.extname = 'vector'
$$;
COMMENT ON FUNCTION pgedge._health_02_pgvector() IS 'internal: pgvector versions with known holes';

CREATE FUNCTION pgedge._health_03_ivfflat() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Ten rows a list is the least that gives k-means something to average; ten times the rows is another distribution.
    SELECT 'ivfflat_training',
           CASE WHEN NOT worth THEN 'ok' WHEN built < 10 * lists OR now_rows >= 10 * built THEN 'warning' ELSE 'ok' END,
           CASE WHEN built IS NULL THEN format('%s: about %s rows; not known how many it was built on', index_oid::regclass, now_rows)
                ELSE format('%s: built on %s rows, now about %s, lists = %s%s', index_oid::regclass, built, now_rows, lists,
                            CASE WHEN NOT worth THEN '; too few rows for the index to matter' ELSE '' END) END,
           CASE WHEN worth AND (built < 10 * lists OR now_rows >= 10 * built) THEN format('REINDEX INDEX CONCURRENTLY %s;', index_oid::regclass) END
    FROM (SELECT i.*, i.table_rows AS now_rows, b.rows AS built, i.table_rows >= 10 * i.lists AND b.rows IS NOT NULL AS worth
          FROM pgedge._ivfflat_indexes() i LEFT JOIN pgedge.index_builds b ON b.index_oid = i.index_oid AND b.filenode = i.filenode) s
    ORDER BY index_oid::regclass::text
$$;
COMMENT ON FUNCTION pgedge._health_03_ivfflat() IS 'internal: IVFFlat indexes whose centroids come from too little data';

CREATE FUNCTION pgedge._health_04_hnsw() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH t AS (
        SELECT c.oid, greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint AS table_rows, pg_stat_get_numscans(c.oid) AS seq_scans
        FROM pg_class c WHERE c.oid = to_regclass(format('%I.vectors', pgedge._schema()))
    ), h AS (
        SELECT count(*) AS n, string_agg(i.indexrelid::regclass::text, ', ') AS names, sum(pg_stat_get_numscans(i.indexrelid)) AS scans
        FROM t JOIN pg_index i ON i.indrelid = t.oid AND i.indisvalid JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam AND am.amname = 'hnsw'
    )
    SELECT 'hnsw_index', CASE WHEN h.n = 0 OR t.table_rows >= 10000 AND h.scans = 0 AND t.seq_scans > 100 THEN 'warning' ELSE 'ok' END,
           CASE WHEN h.n = 0 THEN format('%s has no HNSW index', t.oid::regclass)
                ELSE format('%s: %s scans over about %s rows; the table was read whole %s times', h.names, h.scans, t.table_rows, t.seq_scans) END,
           CASE WHEN h.n = 0 THEN 'SELECT pgedge.create_tables();'
                WHEN t.table_rows >= 10000 AND h.scans = 0 AND t.seq_scans > 100
                THEN 'Write searches as ORDER BY embedding <=> … LIMIT n, which the index serves; a condition on the similarity alone cannot use it.' END
    FROM t, h
$$;
COMMENT ON FUNCTION pgedge._health_04_hnsw() IS 'internal: a missing or unused HNSW index on vectors';

CREATE FUNCTION pgedge._health_05_indexes() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- What REINDEX CONCURRENTLY left behind is a double: the index itself is still there.
    SELECT 'invalid_indexes', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce('left behind by a build that failed: ' || pgedge._listed(array_agg(c.oid::regclass::text ORDER BY c.oid), ', '), 'none'),
           pgedge._listed(array_agg(format(CASE WHEN c.relname ~ '_cc(new|old)[0-9]*$' THEN 'DROP INDEX CONCURRENTLY %s;' ELSE 'REINDEX INDEX CONCURRENTLY %s;' END, c.oid::regclass) ORDER BY c.oid), ' ')
    -- A partitioned table's index is invalid until each partition has one, and has no build of its own.
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
    -- A build that is under way is invalid as well.
    WHERE NOT i.indisvalid AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid OR p.relid = i.indrelid)
$$;
COMMENT ON FUNCTION pgedge._health_05_indexes() IS 'internal: invalid indexes';

CREATE FUNCTION pgedge._health_06_toast() RETURNS SETOF pgedge._health_line
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
COMMENT ON FUNCTION pgedge._health_06_toast() IS 'internal: tables whose vectors were moved to TOAST';

CREATE FUNCTION pgedge._health_08_statistics() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'statistics', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce(pgedge._listed(array_agg(format('%s: %s', s.relid::regclass, CASE WHEN s.never THEN 'never analyzed' ELSE format('%s rows changed since it was analyzed', s.changed) END)
                                             ORDER BY s.changed DESC, s.relid), '; '), 'statistics are current'),
           pgedge._listed(array_agg(format('ANALYZE %s;', s.relid::regclass) ORDER BY s.changed DESC, s.relid), ' ')
    FROM (SELECT t.relid, t.n_mod_since_analyze AS changed, coalesce(t.last_analyze, t.last_autoanalyze) IS NULL AS never
          FROM pg_stat_user_tables t JOIN pg_class c ON c.oid = t.relid
          WHERE t.n_mod_since_analyze > 10000 AND t.n_mod_since_analyze > 0.3 * t.n_live_tup
             -- After pg_upgrade, and after a crash that came before the first ANALYZE, the counters know of no change.
             OR c.reltuples < 0 AND c.relkind IN ('r', 'm')
                AND CASE WHEN c.oid = ANY (ARRAY(SELECT l.relation FROM pg_locks l WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.relation IS NOT NULL)) THEN false
                         ELSE pg_relation_size(c.oid) >= 8388608 END) s
$$;
COMMENT ON FUNCTION pgedge._health_08_statistics() IS 'internal: tables that the planner knows too little of';

CREATE FUNCTION pgedge._health_08_vacuum() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'dead_tuples', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce(pgedge._listed(array_agg(format('%s: %s dead beside %s live', s.relid::regclass, s.n_dead_tup, s.n_live_tup) ORDER BY s.n_dead_tup DESC, s.relid), '; '),
                    'no table with more dead rows than autovacuum should leave'),
           pgedge._listed(array_agg(format('VACUUM ANALYZE %s;', s.relid::regclass) ORDER BY s.n_dead_tup DESC, s.relid), ' ')
               || ' If they come back, look for a long transaction or raise autovacuum_vacuum_cost_limit.'
    FROM pg_stat_user_tables s WHERE s.n_dead_tup > 10000 AND s.n_dead_tup > 0.4 * s.n_live_tup
    UNION ALL
    SELECT 'transaction_ids', CASE WHEN x.age > 1500000000 THEN 'critical' WHEN x.age > 2 * x.limit THEN 'warning' ELSE 'ok' END,
           format('the oldest transaction id is %s transactions old (database %I), the oldest multixact %s; the server stops at 2 billion', x.xid_age, x.datname, x.mxid_age),
           CASE WHEN x.age > least(2 * x.limit, 1500000000) THEN format('VACUUM (FREEZE); in database %I%s, and end old transactions, prepared transactions and replication slots', x.datname,
                                                     CASE WHEN NOT x.datallowconn THEN format(' (first: ALTER DATABASE %I ALLOW_CONNECTIONS true;)', x.datname) ELSE '' END) END
    FROM (SELECT d.datname, d.datallowconn, age(d.datfrozenxid) AS xid_age, mxid_age(d.datminmxid) AS mxid_age, greatest(age(d.datfrozenxid), mxid_age(d.datminmxid)) AS age,
                 current_setting('autovacuum_freeze_max_age')::bigint AS limit
          FROM pg_database d ORDER BY age DESC LIMIT 1) x
$$;
COMMENT ON FUNCTION pgedge._health_08_vacuum() IS 'internal: dead rows, transaction id age';

CREATE FUNCTION pgedge._health_09_sessions() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'long_transactions', CASE WHEN max(age) > interval '4 hours' THEN 'critical' WHEN count(*) > 0 THEN 'warning' ELSE 'ok' END,
           coalesce('vacuum cannot remove what changed since they began: ' || pgedge._listed(array_agg(format('%s for %s', who, date_trunc('second', age)) ORDER BY age DESC), '; '), 'none longer than 15 minutes'),
           pgedge._listed(array_agg(remedy ORDER BY age DESC), ' ')
    FROM (SELECT format('process %s (%s, %s)', a.pid, a.usename, a.state), clock_timestamp() - a.xact_start, format('SELECT pg_terminate_backend(%s);', a.pid)
          FROM pg_stat_activity a
          WHERE a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker' AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
            AND a.xact_start < clock_timestamp() - interval '15 minutes'
          UNION ALL
          SELECT format('prepared transaction %L in %I', p.gid, p.database), clock_timestamp() - p.prepared, format('ROLLBACK PREPARED %L;', p.gid)
          FROM pg_prepared_xacts p WHERE p.prepared < clock_timestamp() - interval '15 minutes') s(who, age, remedy)
    UNION ALL
    SELECT 'connections', CASE WHEN used >= 0.95 * usable THEN 'critical' WHEN used >= 0.8 * usable THEN 'warning' ELSE 'ok' END,
           format('%s of %s connections in use', used, usable),
           CASE WHEN used >= 0.8 * usable THEN 'SELECT * FROM pgedge.connections; shows whose they are. Pool in the clients, or raise max_connections.' END
    FROM (SELECT count(*) FILTER (WHERE a.backend_type = 'client backend') AS used,
                 current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
                 - coalesce(current_setting('reserved_connections', true)::integer, 0) AS usable FROM pg_stat_activity a) c
    UNION ALL
    SELECT 'blocked_sessions', CASE WHEN max(b.blocked_for) > interval '5 minutes' THEN 'warning' ELSE 'ok' END,
           CASE WHEN count(*) = 0 THEN 'none' ELSE format('%s waiting for a lock, the longest for %s', count(DISTINCT b.blocked_pid), date_trunc('second', max(b.blocked_for))) END,
           CASE WHEN max(b.blocked_for) > interval '5 minutes' THEN 'SELECT * FROM pgedge.blocking; shows by whom; SELECT pg_terminate_backend(pid) ends one.' END
    FROM pgedge.blocking b
$$;
COMMENT ON FUNCTION pgedge._health_09_sessions() IS 'internal: transactions that hold the horizon, connections near the limit, sessions that wait';

CREATE FUNCTION pgedge._health_10_events() RETURNS SETOF pgedge._health_line
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expired bigint; dead bigint; ready bigint; age interval;
BEGIN
    -- The line on tables tells of a missing one.
    IF to_regclass(format('%I.claude_events', pgedge._schema())) IS NULL THEN RETURN; END IF;
    BEGIN
        SELECT coalesce(sum(s.expired), 0), coalesce(sum(s.dead), 0), coalesce(sum(s.ready), 0), max(s.oldest_ready_age) INTO expired, dead, ready, age
        FROM pgedge.queue_stats s;
    EXCEPTION WHEN undefined_column THEN
        RETURN QUERY SELECT 'events', 'warning', 'claude_events lacks the columns of the queue', 'SELECT pgedge.create_tables();';
        RETURN;
    END;
    RETURN QUERY SELECT 'expired_leases', CASE WHEN expired > 0 THEN 'warning' ELSE 'ok' END,
        format('%s events whose consumer let its lease run out', expired), CASE WHEN expired > 0 THEN 'Consumers crash or take longer than their lease: see to them, or use extend_lease(). The next claim hands these events out again.' END;
    RETURN QUERY SELECT 'dead_events', CASE WHEN dead > 0 THEN 'warning' ELSE 'ok' END,
        format('%s events failed for good', dead), CASE WHEN dead > 0 THEN 'Mend the cause, then: SELECT pgedge.redrive_events();' END;
    RETURN QUERY SELECT 'oldest_ready_event', CASE WHEN age > interval '1 day' THEN 'critical' WHEN age > interval '1 hour' THEN 'warning' ELSE 'ok' END,
        CASE WHEN age IS NULL THEN 'no event is waiting' ELSE format('%s events are ready, the oldest for %s', ready, date_trunc('second', age)) END,
        CASE WHEN age > interval '1 hour' THEN 'No consumer takes them, or too few: SELECT * FROM pgedge.queue_stats; shows of which type.' END;
END $$;
COMMENT ON FUNCTION pgedge._health_10_events() IS 'internal: expired leases, dead events, the oldest ready event';

CREATE FUNCTION pgedge._health_11_wal() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH place(lsn, max_wal) AS (
        SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, pg_size_bytes(current_setting('max_wal_size'))
    ), slots AS (
        SELECT s.slot_name, s.active, s.wal_status, greatest(pg_wal_lsn_diff(place.lsn, s.restart_lsn), 0) AS held, place.max_wal FROM pg_replication_slots s, place
    ), bad AS (SELECT * FROM slots WHERE held > max_wal OR wal_status IN ('unreserved', 'lost'))
    SELECT 'replication_slots', CASE WHEN bool_or(bad.wal_status = 'lost' OR bad.held > 4 * bad.max_wal) THEN 'critical' WHEN count(bad) > 0 THEN 'warning' ELSE 'ok' END,
           coalesce(pgedge._listed(array_agg(format('slot %I (%s, %s) ', bad.slot_name, CASE WHEN bad.active THEN 'active' ELSE 'inactive' END, bad.wal_status)
                               || CASE bad.wal_status WHEN 'lost' THEN 'has lost WAL that its consumer needs' ELSE format('holds %s of WAL', pg_size_pretty(bad.held)) END ORDER BY bad.slot_name), '; '),
                    format('%s slots, none holds much WAL', (SELECT count(*) FROM slots))),
           pgedge._listed(array_agg(CASE WHEN bad.wal_status = 'lost' THEN format('SELECT pg_drop_replication_slot(%L); its consumer must begin anew.', bad.slot_name)
                           WHEN bad.active THEN format('The consumer of slot %I falls behind.', bad.slot_name)
                           ELSE format('SELECT pg_drop_replication_slot(%L); if nobody needs it.', bad.slot_name) END ORDER BY bad.slot_name), ' ')
    FROM bad
    UNION ALL
    SELECT 'wal_archiving',
           CASE WHEN state IN ('failing', 'unset') OR state <> 'off' AND w.bytes > 4 * place.max_wal THEN 'critical' WHEN state = 'behind' THEN 'warning' ELSE 'ok' END,
           CASE state WHEN 'off' THEN 'off: recovery to a point in time is not possible, dumps are the only backup'
                      WHEN 'failing' THEN format('%s failed %s, %s failures in all; pg_wal grows until it works again', a.last_failed_wal, date_trunc('second', a.last_failed_time), a.failed_count)
                      WHEN 'unset' THEN 'archive_mode is on, but neither archive_command nor archive_library is set: pg_wal grows without end'
                      WHEN 'behind' THEN format('%s segments (%s) wait to be archived, the oldest for %s', w.segments, pg_size_pretty(w.bytes), date_trunc('second', greatest(now() - w.since, interval '0')))
                      ELSE coalesce(format('%s archived %s', a.last_archived_wal, date_trunc('second', a.last_archived_time)), 'on; no segment archived yet') END,
           CASE state WHEN 'failing' THEN 'The server log has the output of archive_command: see that its target is mounted, writable and not full.'
                      WHEN 'unset' THEN 'ALTER SYSTEM SET archive_command = ''pgedge-backup archive /backup/wal %p %f''; SELECT pg_reload_conf();'
                      WHEN 'behind' THEN 'The archive is too slow, or archive_command hangs: see what it does and whether its target answers.' END
    FROM pg_stat_archiver a
    CROSS JOIN place
    CROSS JOIN LATERAL (SELECT count(*) AS segments, count(*) * pg_size_bytes(current_setting('wal_segment_size')) AS bytes, min(f.modification) AS since
                        FROM pg_ls_archive_statusdir() f WHERE f.name LIKE '%.ready') w
    CROSS JOIN LATERAL (SELECT CASE WHEN current_setting('archive_mode') = 'off' THEN 'off'
                                    WHEN pg_is_in_recovery() AND current_setting('archive_mode') = 'on' THEN 'standby'
                                    WHEN current_setting('archive_command') IN ('', '(disabled)') AND current_setting('archive_library') = '' THEN 'unset'
                                    WHEN a.last_failed_time > coalesce(a.last_archived_time, '-infinity') THEN 'failing'
                                    WHEN w.since < now() - interval '15 minutes' OR w.bytes > place.max_wal THEN 'behind' ELSE 'on' END) s(state)
$$;
COMMENT ON FUNCTION pgedge._health_11_wal() IS 'internal: replication slots that hold WAL, archiving that fails';

CREATE FUNCTION pgedge._health_12_backup() RETURNS SETOF pgedge._health_line
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- A clock that was wrong once must not make an old backup look new for years.
    soon timestamptz := now() + interval '1 hour';
    last timestamptz := (SELECT max(b.finished_at) FROM pgedge.backups b WHERE b.finished_at < soon);
    ahead bigint := (SELECT count(*) FROM pgedge.backups b WHERE b.finished_at >= soon);
    -- With archiving that works a base backup may be older.
    allowed interval := CASE WHEN current_setting('archive_mode') <> 'off' THEN interval '8 days' ELSE interval '36 hours' END;
    late boolean;
BEGIN
    -- pg_basebackup leaves a history file in pg_wal.
    IF has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE') THEN
        last := greatest(last, (SELECT max(w.modification) FROM pg_ls_waldir() w WHERE w.name LIKE '%.backup' AND w.modification < soon));
    END IF;
    late := last IS NULL OR now() - last > allowed;
    RETURN QUERY SELECT 'backup_age', CASE WHEN now() - last > 4 * allowed THEN 'critical' WHEN late OR ahead > 0 THEN 'warning' ELSE 'ok' END,
        CASE WHEN last IS NULL THEN 'no backup known' ELSE format('the last backup known is %s old', date_trunc('minute', greatest(now() - last, interval '0'))) END
            || CASE WHEN ahead > 0 THEN format('; %s are recorded in the future, so the clock was wrong then or is now', ahead) ELSE '' END,
        nullif(concat_ws(' ', CASE WHEN late THEN 'Make one, keep it on another machine, and after each: SELECT pgedge.record_backup(''dump'');' END,
                              CASE WHEN ahead > 0 THEN 'Set the clock; if it is right: DELETE FROM pgedge.backups WHERE finished_at > CURRENT_TIMESTAMP;' END), '');
END $$;
COMMENT ON FUNCTION pgedge._health_12_backup() IS 'internal: the age of the last backup known';

CREATE FUNCTION pgedge._health_13_machine() RETURNS SETOF pgedge._health_line
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'disk_space', CASE WHEN min(part) < 0.05 THEN 'critical' WHEN min(part) < 0.15 THEN 'warning' ELSE 'ok' END,
           string_agg(format('%s: %s of %s free', places, pg_size_pretty(free_bytes), pg_size_pretty(total_bytes)), '; '),
           CASE WHEN min(part) < 0.15 THEN 'SELECT * FROM pgedge.table_sizes ORDER BY total_bytes DESC; then purge, or move the data. A full disk stops the server.' END
    FROM (SELECT string_agg(d.place, ' and ' ORDER BY d.place) AS places, d.free_bytes, d.total_bytes, d.free_bytes::numeric / nullif(d.total_bytes, 0) AS part
          FROM pgedge._disk_space() d WHERE d.place <> '/dev/shm' GROUP BY d.filesystem, d.free_bytes, d.total_bytes) s
    UNION ALL
    SELECT 'temperature', CASE WHEN max(t.celsius) >= 85 THEN 'critical' WHEN max(t.celsius) >= 75 THEN 'warning' ELSE 'ok' END,
           coalesce(string_agg(format('%s %s °C', t.zone, round(t.celsius::numeric, 1)), ', '), 'this machine shows no temperature'),
           CASE WHEN max(t.celsius) >= 75 THEN 'Cool it: a Raspberry Pi slows down from 80 °C.' END
    FROM pgedge.device_temperature() t
    UNION ALL
    SELECT 'throttling', CASE WHEN cardinality(t.now) > 0 THEN 'critical' WHEN cardinality(t.since_boot) > 0 THEN 'warning' ELSE 'ok' END,
           CASE WHEN t.now IS NULL THEN 'no Raspberry Pi firmware to ask'
                ELSE format('now: %s; since boot: %s', coalesce(nullif(array_to_string(t.now, ', '), ''), 'none'), coalesce(nullif(array_to_string(t.since_boot, ', '), ''), 'none')) END,
           CASE WHEN t.since_boot && '{undervoltage}' OR t.now && '{undervoltage}' THEN 'Use the 5 A power supply: undervoltage corrupts storage.' WHEN cardinality(t.now || t.since_boot) > 0 THEN 'Cool it.' END
    FROM (SELECT) one LEFT JOIN pgedge._throttling('/') t ON true
    UNION ALL
    SELECT 'shared_memory', CASE WHEN d.total_bytes < w.bytes AND current_setting('dynamic_shared_memory_type') = 'posix' THEN 'warning' ELSE 'ok' END,
           format('/dev/shm has %s, an index build may ask for maintenance_work_mem = %s', pg_size_pretty(d.total_bytes), current_setting('maintenance_work_mem')),
           CASE WHEN d.total_bytes < w.bytes AND current_setting('dynamic_shared_memory_type') = 'posix'
                THEN format('Start the container with --shm-size=%sm (compose: shm_size), or SET max_parallel_maintenance_workers = 0 for index builds.', w.bytes / 1048576 + 64) END
    FROM pgedge._disk_space() d, (SELECT pg_size_bytes(current_setting('maintenance_work_mem'))) w(bytes) WHERE d.place = '/dev/shm'
$$;
COMMENT ON FUNCTION pgedge._health_13_machine() IS 'internal: disk space, temperature, throttling, shared memory';

CREATE FUNCTION pgedge._health_14_settings() RETURNS SETOF pgedge._health_line
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH s AS (
        SELECT h.ram_bytes AS ram, pg_size_bytes(current_setting('shared_buffers')) AS buffers, pg_size_bytes(current_setting('work_mem')) AS work,
               pg_size_bytes(current_setting('maintenance_work_mem')) AS maintenance, current_setting('max_connections')::bigint AS connections
        FROM pgedge._host() h
    ), danger(level, what, remedy) AS (
        SELECT CASE v.name WHEN 'synchronous_commit' THEN 1 ELSE 2 END, format('%s = %s: %s', v.name, current_setting(v.name), v.why),
               format('ALTER SYSTEM SET %s = %s; SELECT pg_reload_conf();', v.name, v.good)
        FROM (VALUES ('fsync', 'on', 'a power cut can destroy the database'), ('full_page_writes', 'on', 'a power cut can destroy pages'),
                     ('synchronous_commit', 'on', 'a power cut loses the last commits; safe only where that is accepted'),
                     ('autovacuum', 'on', 'tables bloat and transaction ids run out'), ('track_counts', 'on', 'autovacuum does not work without'),
                     ('zero_damaged_pages', 'off', 'damaged pages are emptied without a word'),
                     ('ignore_checksum_failure', 'off', 'damaged pages are read as if they were whole')) v(name, good, why)
        WHERE current_setting(v.name) <> v.good AND NOT (v.name = 'synchronous_commit' AND current_setting(v.name) IN ('local', 'remote_write', 'remote_apply'))
        UNION ALL
        SELECT 2, format('shared_buffers = %s is more than half of the memory (%s)', pg_size_pretty(buffers), pg_size_pretty(ram)), 'SELECT * FROM pgedge.recommended_settings();' FROM s WHERE buffers > ram / 2
        UNION ALL
        SELECT 1, format('work_mem = %s with %s connections can take %s of %s', pg_size_pretty(work), connections, pg_size_pretty(work * connections), pg_size_pretty(ram)), 'SELECT * FROM pgedge.recommended_settings();'
        FROM s WHERE work * connections > 4 * ram
        UNION ALL
        SELECT 1, format('maintenance_work_mem = %s is more than a quarter of the memory (%s)', pg_size_pretty(maintenance), pg_size_pretty(ram)), 'SELECT * FROM pgedge.recommended_settings();' FROM s WHERE maintenance > ram / 4
    )
    SELECT 'settings', CASE max(level) WHEN 2 THEN 'critical' WHEN 1 THEN 'warning' ELSE 'ok' END,
           coalesce(string_agg(what, '; ' ORDER BY level DESC, what), 'none is dangerous; SELECT * FROM pgedge.recommended_settings() compares all'), string_agg(DISTINCT remedy, ' ')
    FROM danger
    UNION ALL
    SELECT 'data_checksums', CASE WHEN sum(d.checksum_failures) > 0 THEN 'critical' ELSE 'ok' END,
           CASE WHEN current_setting('data_checksums') = 'off' THEN 'off: damage by failing storage is not noticed' ELSE format('on, %s failures', coalesce(sum(d.checksum_failures), 0)) END,
           CASE WHEN sum(d.checksum_failures) > 0 THEN 'Storage fails: restore the last backup on other storage.'
                WHEN current_setting('data_checksums') = 'off' THEN 'Stop the server and run pg_checksums --enable, or create the cluster with initdb --data-checksums.' END
    FROM pg_stat_database d
$$;
COMMENT ON FUNCTION pgedge._health_14_settings() IS 'internal: dangerous settings, checksum failures';

CREATE FUNCTION pgedge._health_15_companions() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH e AS (
        SELECT n.name, EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = n.name) AS installed, EXISTS (SELECT FROM pg_extension x WHERE x.extname = n.name) AS created
        FROM (VALUES ('pg_net'), ('pg_stat_statements')) n(name)
    ), c AS (
        SELECT e.*, CASE name WHEN 'pg_net' THEN EXISTS (SELECT FROM pg_stat_activity a WHERE a.backend_type ~ '^pg_net' AND a.datname = current_database())
                              ELSE EXISTS (SELECT FROM pg_settings s WHERE s.name = 'pg_stat_statements.max') END AS running,
               CASE name WHEN 'pg_net' THEN 'webhooks need it' ELSE 'pgedge.slow_queries is empty without it' END AS use
        FROM e
    )
    SELECT name, CASE WHEN created AND running THEN 'ok' ELSE 'warning' END,
           CASE WHEN created AND running THEN 'created and running'
                WHEN created AND name = 'pg_net' THEN 'created, but its worker does not run for this database; ' || use
                WHEN created THEN 'created, but not preloaded; ' || use
                WHEN installed THEN 'installed, but not created in this database; ' || use
                ELSE 'not installed; ' || use END,
           CASE WHEN created AND running THEN NULL
                WHEN NOT installed THEN format('Install %s, add it to shared_preload_libraries, restart, then: CREATE EXTENSION %s;', name, name)
                WHEN NOT running AND name = 'pg_net' THEN 'Add pg_net to shared_preload_libraries, set pg_net.database_name to this database, restart' || CASE WHEN created THEN '.' ELSE ', then: CREATE EXTENSION pg_net;' END
                WHEN NOT running THEN format('Add %s to shared_preload_libraries and restart', name) || CASE WHEN created THEN '.' ELSE format(', then: CREATE EXTENSION %s;', name) END
                ELSE format('CREATE EXTENSION %s;', name) END
    FROM c ORDER BY name
$$;
COMMENT ON FUNCTION pgedge._health_15_companions() IS 'internal: pg_net and pg_stat_statements';

CREATE FUNCTION pgedge._health_16_webhooks() RETURNS SETOF pgedge._health_line
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f record;
    created boolean := EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_net');
    running boolean := EXISTS (SELECT FROM pg_stat_activity a WHERE a.backend_type ~ '^pg_net' AND a.datname = current_database());
    revoke_all text := 'REVOKE ALL ON net.http_request_queue, net._http_response FROM PUBLIC;';
    state text := 'ok'; detail text; hint text;
BEGIN
    SELECT * INTO f FROM pgedge._webhook_figures();
    detail := format('%s enabled; %s requests at pg_net, %s to be sent, %s given up', f.enabled, f.in_flight, f.waiting, f.dead);
    IF f.enabled = 0 AND f.in_flight = 0 AND f.gone IS NULL THEN
        detail := 'none';
    ELSIF NOT created THEN
        state := 'critical'; detail := detail || '; the extension pg_net is not in this database, so nothing is sent';
        hint := 'See the line pg_net.';
    ELSIF NOT running AND NOT pg_is_in_recovery() THEN
        state := 'critical'; detail := detail || '; pg_net''s worker does not run for this database, so nothing is sent';
        hint := 'Add pg_net to shared_preload_libraries, set pg_net.database_name to this database, restart.';
    ELSIF f.confidential > 0 AND pgedge._webhook_net_is_public('SELECT') THEN
        state := 'critical'; detail := detail || '; every role may read pg_net''s queue, so webhooks with headers are not sent';
        hint := revoke_all;
    ELSIF f.overdue > interval '5 minutes' THEN
        state := 'critical'; detail := format('%s; the oldest is overdue by %s', detail, date_trunc('second', f.overdue));
        hint := 'Call dispatch_webhooks() and reconcile_webhooks() every few seconds, by a scheduler or the background worker (docs/webhooks.md).';
    ELSIF f.gone IS NOT NULL THEN
        state := 'warning'; detail := format('%s; disabled since the receiver answered 410: webhook %s', detail, f.gone);
        hint := 'DELETE FROM pgedge.webhooks, or give it another url and set enabled.';
    ELSIF f.dead > 0 THEN
        state := 'warning'; hint := 'SELECT * FROM pgedge.webhook_deliveries WHERE state IN (''failed'', ''dead''); then SELECT pgedge.redrive_events(event_type);';
    ELSIF pgedge._webhook_net_is_public('SELECT,INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER') THEN
        state := 'warning'; detail := detail || '; every role may read and change pg_net''s requests and answers';
        hint := revoke_all || ' Roles that call net.http_post themselves then need rights on them.';
    END IF;
    RETURN NEXT ('webhooks', state, detail, hint)::pgedge._health_line;
END $$;
COMMENT ON FUNCTION pgedge._health_16_webhooks() IS 'internal: requests that are stuck, webhooks that are not served, pg_net''s tables open to all';

-- Last, since a sequence that was read stays locked until the transaction ends, against DROP and TRUNCATE: no check may wait for another lock then.
CREATE FUNCTION pgedge._health_90_sequences() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH s AS (
        SELECT s.*, coalesce(s.reached, 0)::numeric / s.maximum AS used,
               -- Rows a second since the first look; a rate from less than an hour says nothing.
               CASE WHEN now() - p.seen_at > interval '1 hour' AND s.reached > p.reached
                    THEN (s.reached - p.reached) / extract(epoch FROM now() - p.seen_at) END AS rate
        FROM pgedge._sequences() s LEFT JOIN pgedge.sequence_positions p ON p.sequence_oid = s.sequence_oid
    ), near AS (
        SELECT s.*, (s.maximum - s.reached) / s.rate AS seconds_left FROM s
    ), judged AS (
        SELECT n.*, CASE WHEN used >= 0.9 OR seconds_left < 30 * 86400 THEN 2 WHEN used >= 0.5 OR seconds_left < 365 * 86400 AND used >= 0.1 THEN 1 ELSE 0 END AS level FROM near n
    )
    SELECT 'sequences', CASE level WHEN 2 THEN 'critical' ELSE 'warning' END,
           format('%s stands at %s of %s (%s %%)%s', name, reached, maximum, round(100 * used, 1),
                  CASE WHEN seconds_left < 100 * 365 * 86400::numeric
                       THEN format(', at its present pace it ends about %s', to_char(now() + make_interval(secs => seconds_left::double precision), 'YYYY-MM-DD')) ELSE '' END),
           CASE WHEN column_type IN ('integer', 'smallint')
                THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint; ALTER SEQUENCE %s AS bigint; (rewrites the table under a lock)', table_oid::regclass, column_name, name)
                ELSE format('ALTER SEQUENCE %s AS bigint;', name) END
    FROM judged WHERE level > 0
    UNION ALL
    SELECT 'sequences', 'ok', coalesce(format('%s sequences, the furthest at %s %% of its range', count(*), round(100 * max(used), 1)), 'no sequence'), NULL
    FROM judged HAVING coalesce(max(level), 0) = 0
$$;
COMMENT ON FUNCTION pgedge._health_90_sequences() IS 'internal: sequences that run towards the end of their column''s type';

-- Sizes and counts ask for a table's lock. Who rewrites one for an hour delays each check that looks at it for half a second, no more; and since
-- that is shorter than deadlock_timeout, it is this function that gives way in a deadlock.
CREATE FUNCTION pgedge.health() RETURNS TABLE (check_name text, status text, detail text, hint text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    writable boolean := NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off';
    f name;
    label text;
BEGIN
    FOR f IN SELECT p.proname FROM pg_proc p
        WHERE p.pronamespace = 'pgedge'::regnamespace AND p.pronargs = 0 AND (p.proname ~ '^_health_' OR p.proname IN ('_observe', '_observe_sequences') AND writable)
        ORDER BY CASE p.proname WHEN '_observe' THEN '' WHEN '_observe_sequences' THEN '_health_90' ELSE p.proname END COLLATE "C"
    LOOP
        label := CASE WHEN f ~ '^_observe' THEN 'observations' ELSE regexp_replace(f, '^_health_[0-9]*_*', '') END;
        -- Up to five times, since a table or sequence may be dropped while it is looked at.
        FOR attempt IN 1..5 LOOP
            BEGIN
                IF label = 'observations' THEN
                    EXECUTE format('SELECT pgedge.%I()', f);
                ELSE
                    RETURN QUERY EXECUTE format('SELECT h.check_name, h.status, h.detail, h.hint FROM pgedge.%I() h', f);
                END IF;
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                RETURN QUERY SELECT label, 'warning', 'could not be checked: a table that it looks at is locked',
                                    'SELECT pid, relation::regclass FROM pg_locks WHERE mode = ''AccessExclusiveLock'' AND granted; shows by whom.';
                EXIT;
            WHEN OTHERS THEN
                CONTINUE WHEN attempt < 5;
                RETURN QUERY SELECT label, 'warning', format('could not be %s: %s (%s)', CASE label WHEN 'observations' THEN 'written' ELSE 'checked' END, SQLERRM, SQLSTATE),
                                    'Call it as a member of pg_monitor; if it fails there as well it is a defect.';
            END;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge.health() IS
'What is wrong or soon will be: check_name, status (ok, warning, critical), what was seen, and what to do (NULL when nothing). For members of pg_monitor, on a standby as well. On a primary it notes new index files and sequence positions for later calls. Waits for a lock at most half a second in each check';

DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'pgedge'::regnamespace AND (p.proname ~ '^_health_' OR p.proname IN ('health', '_observe', '_observe_sequences', '_sequences', '_ivfflat_indexes', '_throttling')) LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pg_monitor', f);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION pgedge.record_backup(text, text) FROM PUBLIC;
GRANT SELECT ON pgedge.index_builds, pgedge.sequence_positions, pgedge.backups, pgedge.queue_stats TO pg_monitor;
GRANT EXECUTE ON FUNCTION pgedge._queue_stats() TO pg_monitor;
