-- From 0.2.0 to 0.3.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Operations: sql/health.sql and sql/ops.sql ---------------------------------------------------------------------------------

CREATE FUNCTION pgedge._listed(items text[], separator text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN pg_catalog.array_to_string(items[1:20], separator)
       || CASE WHEN pg_catalog.cardinality(items) > 20 THEN pg_catalog.format('%sand %s more', separator, pg_catalog.cardinality(items) - 20) ELSE '' END;

COMMENT ON FUNCTION pgedge._listed(text[], text) IS 'internal: the first 20 of a list, and how many more there are; NULL for NULL';

CREATE OR REPLACE FUNCTION pgedge.record_backup(kind text, location text DEFAULT NULL) RETURNS void
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

CREATE OR REPLACE FUNCTION pgedge._observe() RETURNS void
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

CREATE OR REPLACE FUNCTION pgedge._health_05_indexes() RETURNS SETOF pgedge._health_line
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

CREATE OR REPLACE FUNCTION pgedge._health_06_toast() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- When the heap has fewer bytes a row than a vector takes, the vectors cannot be in it.
    SELECT 'toasted_vectors', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce(pgedge._listed(array_agg(format('%s.%I: %s bytes a row in the table, but %s a vector: most vectors are out of line, and each distance fetches them', relation, attname, per_row, vector_bytes)
                                             ORDER BY relation::text, attname), '; '), 'vectors stand in their rows'),
           pgedge._listed(array_agg(format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE PLAIN; VACUUM FULL %s; (locks the table)', relation, attname, relation) ORDER BY relation::text, attname), ' ')
    FROM (SELECT c.oid::regclass AS relation, a.attname, pg_relation_size(c.oid) / c.reltuples::bigint AS per_row,
                 8 + a.atttypmod * CASE t.typname WHEN 'vector' THEN 4 ELSE 2 END AS vector_bytes
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'm') AND c.reltuples >= 1000 AND c.reltoastrelid <> 0
          JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
          WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypmod > 0) s
    WHERE per_row < vector_bytes AND vector_bytes < 8000
$$;

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

CREATE OR REPLACE FUNCTION pgedge._health_08_vacuum() RETURNS SETOF pgedge._health_line
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

CREATE OR REPLACE FUNCTION pgedge._health_09_sessions() RETURNS SETOF pgedge._health_line
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

CREATE OR REPLACE FUNCTION pgedge._health_11_wal() RETURNS SETOF pgedge._health_line
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

CREATE OR REPLACE FUNCTION pgedge._health_12_backup() RETURNS SETOF pgedge._health_line
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

CREATE OR REPLACE FUNCTION pgedge._health_14_settings() RETURNS SETOF pgedge._health_line
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

CREATE OR REPLACE FUNCTION pgedge.health() RETURNS TABLE (check_name text, status text, detail text, hint text)
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
        -- Twice, since a table or sequence may be dropped while it is looked at.
        FOR attempt IN 1..2 LOOP
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
                CONTINUE WHEN attempt = 1;
                RETURN QUERY SELECT label, 'warning', format('could not be %s: %s (%s)', CASE label WHEN 'observations' THEN 'written' ELSE 'checked' END, SQLERRM, SQLSTATE),
                                    'Call it as a member of pg_monitor; if it fails there as well it is a defect.';
            END;
        END LOOP;
    END LOOP;
END $$;

COMMENT ON FUNCTION pgedge.health() IS
'What is wrong or soon will be: check_name, status (ok, warning, critical), what was seen, and what to do (NULL when nothing). For members of pg_monitor, on a standby as well. On a primary it notes new index files and sequence positions for later calls. Waits for a lock at most half a second in each check';

REVOKE ALL ON FUNCTION pgedge._health_08_statistics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgedge._health_08_statistics() TO pg_monitor;

REVOKE ALL ON FUNCTION pgedge._health_90_sequences() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgedge._health_90_sequences() TO pg_monitor;

REVOKE ALL ON FUNCTION pgedge._observe_sequences() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgedge._observe_sequences() TO pg_monitor;

DROP FUNCTION pgedge._health_07_sequences();

CREATE OR REPLACE FUNCTION pgedge.grant_reader(role name) RETURNS SETOF text
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

COMMENT ON FUNCTION pgedge._disk_space() IS 'internal: room in the filesystems of the data directory, pg_wal, shared memory and the tablespaces';
-- end of operations

-- Webhooks ---------------------------------------------------------------------------------------------------------------------------
-- sql/webhooks.sql and sql/webhook_delivery.sql as they are, a line of health() and a kind of service.

-- Webhooks: who is to be told of which events, and what each of them has been told.
--
-- Webhooks are a consumer of the event queue. dispatch_webhooks() claims events of the types that some enabled webhook wants, as any worker
-- does, and hands one request for each webhook to pg_net; reconcile_webhooks() reads pg_net's answers and finishes the events: processed
-- when every webhook has it, pending with a run_at when one is to be tried again, dead when one never will take it. So priorities, delays,
-- ordering keys, limits, pauses, redrive_events() and queue_stats mean for webhooks what they mean for workers. How: webhook_delivery.sql.

CREATE FUNCTION pgedge._webhook_secret() RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN 'whsec_' || pg_catalog.encode(pg_catalog.sha256(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())), 'base64');
COMMENT ON FUNCTION pgedge._webhook_secret() IS 'internal: a new secret of 32 random bytes';

CREATE TABLE pgedge.webhooks (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    event_types text[],
    url text NOT NULL,
    headers jsonb NOT NULL DEFAULT '{}',
    secret text DEFAULT pgedge._webhook_secret(),
    timeout interval NOT NULL DEFAULT '5 seconds',
    max_attempts integer NOT NULL DEFAULT 15,
    envelope boolean NOT NULL DEFAULT false,
    enabled boolean NOT NULL DEFAULT true,
    disabled_reason text,
    description text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE pgedge.webhooks IS
'Who is told of which events, as POST requests through pg_net: event_types (NULL: all), url (http or https), headers (a JSON object of strings), secret (signs requests by the Standard Webhooks convention: whsec_ and the base64 of 24 to 64 bytes, or text of 24 bytes or more; several, separated by spaces, sign once each; generated when left out; NULL: unsigned), timeout, max_attempts, envelope (the body is {"type", "timestamp", "data"} instead of the payload alone), enabled. Plain INSERT, UPDATE and DELETE by its owner; nobody else can read it. Dumps contain the secrets. Errors: 22004 (null), 22023, 22003.';
COMMENT ON COLUMN pgedge.webhooks.event_types IS 'the types it is told of; NULL: every type';
COMMENT ON COLUMN pgedge.webhooks.headers IS 'further headers of each request, e.g. {"Authorization": "Bearer ..."}';
COMMENT ON COLUMN pgedge.webhooks.secret IS 'signs each request; several, separated by spaces, give one signature each';
COMMENT ON COLUMN pgedge.webhooks.disabled_reason IS 'why pgedge set enabled to false';

-- A row for each message to a webhook. While an event is unfinished, or dead and may be redriven, its rows are live; lease_token says that it
-- is claimed and a round of requests is open. event_created_at tells the event from an earlier one of the same id.
CREATE TABLE pgedge._webhook_deliveries (
    message_id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    event_id bigint NOT NULL,
    event_type text NOT NULL,
    event_created_at timestamp,
    webhook_id bigint NOT NULL REFERENCES pgedge.webhooks ON DELETE CASCADE,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'delivered', 'failed', 'dead', 'cancelled')),
    live boolean NOT NULL DEFAULT true,
    lease_token bigint,
    attempts integer NOT NULL DEFAULT 0,
    epoch uuid,
    request_id bigint,
    posted_at timestamptz,
    deadline timestamptz,
    retry_at timestamptz,
    check_at timestamptz,
    status_code integer,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at timestamptz
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX _webhook_deliveries_live ON pgedge._webhook_deliveries (event_id, webhook_id) WHERE live;
CREATE INDEX _webhook_deliveries_open ON pgedge._webhook_deliveries (event_id) WHERE lease_token IS NOT NULL;
CREATE INDEX _webhook_deliveries_check ON pgedge._webhook_deliveries (check_at) WHERE live AND lease_token IS NULL;
CREATE INDEX _webhook_deliveries_finished ON pgedge._webhook_deliveries (finished_at) WHERE NOT live;
CREATE INDEX _webhook_deliveries_webhook ON pgedge._webhook_deliveries (webhook_id);
COMMENT ON TABLE pgedge._webhook_deliveries IS 'internal: what the view webhook_deliveries shows, and what is known of the request at pg_net';

SELECT pg_catalog.pg_extension_config_dump('pgedge.webhooks', '');
SELECT pg_catalog.pg_extension_config_dump('pgedge.webhooks_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgedge._webhook_deliveries', '');

-- pg_net's queue and responses are UNLOGGED and its ids restart at 1. This row is UNLOGGED too, so it vanishes exactly when they do: what was
-- posted in another epoch has no answer to come, and an answer with its id is another's. transport tells that they were made anew otherwise.
CREATE UNLOGGED TABLE pgedge._webhook_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    transport text NOT NULL
);
COMMENT ON TABLE pgedge._webhook_epoch IS 'internal: one row, as old as the contents of pg_net''s UNLOGGED tables (not dumped: those are not)';

CREATE VIEW pgedge.webhook_deliveries AS
SELECT 'msg_' || pg_catalog.replace(d.message_id::text, '-', '') AS message_id, d.event_id, d.event_type, d.webhook_id, d.state, d.attempts, d.status_code,
       d.last_error, d.posted_at AS last_attempt_at, d.retry_at AS next_attempt_at, d.created_at, d.finished_at
FROM pgedge._webhook_deliveries d;
COMMENT ON VIEW pgedge.webhook_deliveries IS
'Each message to each webhook, without secrets: pending (to be sent, not before next_attempt_at), sent (at pg_net), delivered, failed (given up; other webhooks are still tried), dead (given up, and so is the event: redrive_events() sends it again), cancelled (the event or the webhook no longer wants it). message_id is the request''s webhook-id and Idempotency-Key, the same in every attempt. purge_webhook_deliveries() deletes what is finished.';

-- What can be a webhook --------------------------------------------------------------------------------------------------------------------
-- No message tells a secret, a header's value, or of a url more than its host: what is behind it may be one.

CREATE FUNCTION pgedge._webhook_check_url(url text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown text := left(substring(url FROM '^([^:]*:?/{0,2}[^/?#@[:space:]]*)'), 100);
BEGIN
    IF url IS NULL THEN
        PERFORM pgedge._events_reject('url must not be null', 'Give the address that requests go to, e.g. ''https://example.com/hook''.', '22004');
    ELSIF url !~* '^https?://' THEN
        PERFORM pgedge._events_reject(format('url is neither http nor https: "%s…"', shown), 'Give an absolute address, e.g. ''https://example.com/hook''.');
    ELSIF url ~* '^https?://[^/?#]*@' THEN
        PERFORM pgedge._events_reject('url contains a user name', 'Use a header: {"Authorization": "Basic …"}.');
    ELSIF url !~* '^https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?([/?#]|$)' OR url ~ '[^\x21-\x7e]' THEN
        PERFORM pgedge._events_reject(format('url is not well formed: "%s…"', shown), 'Give host and path in ASCII, other characters percent-encoded (host names as xn--…), without spaces.');
    ELSIF length(url) > 2000 THEN
        PERFORM pgedge._events_reject(format('url is too long (%s characters): "%s…"', length(url), shown), 'An address has at most 2000 characters.', '22001');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._webhook_check_url(text) IS 'internal: refuses an address that cannot be posted to';

CREATE FUNCTION pgedge._webhook_check_headers(headers jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    h record;
    hint text := 'Give an object of names and strings, e.g. {"Authorization": "Bearer …"}.';
    taken text[] := '{}';
BEGIN
    IF headers IS NULL THEN
        PERFORM pgedge._events_reject('headers must not be null', 'Leave them out, or give {}.', '22004');
    ELSIF jsonb_typeof(headers) <> 'object' THEN
        PERFORM pgedge._events_reject(format('headers must be a JSON object, not %s', jsonb_typeof(headers)), hint);
    END IF;
    FOR h IN SELECT e.key AS name, jsonb_typeof(e.value) AS kind, e.value #>> '{}' AS value FROM jsonb_each(headers) e LOOP
        IF h.name !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]{1,200}$' THEN
            PERFORM pgedge._events_reject(format('header has an impossible name: "%s"', left(h.name, 60)), 'A name consists of letters, digits and hyphens.');
        ELSIF h.kind <> 'string' THEN
            PERFORM pgedge._events_reject(format('header "%s" must be a string, not %s', h.name, h.kind), hint);
        ELSIF h.value ~ '[\x01-\x08\x0a-\x1f\x7f]' OR btrim(h.value, E' \t') = '' OR length(h.value) > 8000 THEN
            PERFORM pgedge._events_reject(format('header "%s" has an impossible value', h.name), 'A value is one line without control characters, not empty, of at most 8000 characters.');
        ELSIF lower(h.name) IN ('content-type', 'content-length', 'transfer-encoding', 'host', 'connection', 'expect', 'user-agent', 'idempotency-key',
                                'webhook-id', 'webhook-timestamp', 'webhook-signature', 'x-pgedge-event-type', 'x-pgedge-event-id') THEN
            PERFORM pgedge._events_reject(format('header "%s" is set by pgedge or pg_net', h.name), 'Leave it out.');
        ELSIF lower(h.name) = ANY (taken) THEN
            PERFORM pgedge._events_reject(format('header "%s" is given twice', h.name), 'The case of names does not matter: give one of them.');
        END IF;
        taken := taken || lower(h.name);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge._webhook_check_headers(jsonb) IS 'internal: refuses headers that would break the request';

-- The keys in a secret, in its order; NULL for a part that is none.
CREATE FUNCTION pgedge._webhook_keys(secret text) RETURNS SETOF bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part text; key bytea;
BEGIN
    FOREACH part IN ARRAY string_to_array(secret, ' ') LOOP
        key := NULL;
        IF part ~ '^whsec_' THEN
            IF part ~ '^whsec_([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$' THEN
                key := decode(substr(part, 7), 'base64');
                IF length(key) NOT BETWEEN 24 AND 64 THEN key := NULL; END IF;
            END IF;
        ELSIF octet_length(part) BETWEEN 24 AND 1000 AND part !~ '[[:space:][:cntrl:]]' THEN
            key := convert_to(part, 'UTF8');
        END IF;
        RETURN NEXT key;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge._webhook_keys(text) IS 'internal: the keys of a webhook''s secret';

CREATE FUNCTION pgedge._webhook_check() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    IF NEW.event_types IS NOT NULL THEN
        IF array_ndims(NEW.event_types) IS DISTINCT FROM 1 THEN
            PERFORM pgedge._events_reject(format('event_types must be a list with one type or more: %s', left(NEW.event_types::text, 60)), 'Name the types, or give NULL for every type.');
        ELSIF array_position(NEW.event_types, NULL) IS NOT NULL THEN
            PERFORM pgedge._events_reject('event_types must not contain nulls', 'Name the types, or give NULL instead of the list for every type.', '22004');
        END IF;
        SELECT t INTO wrong FROM unnest(NEW.event_types) t WHERE btrim(t) = '' OR length(t) > 50 LIMIT 1;
        IF FOUND THEN
            PERFORM pgedge._events_reject(format('no event can have the type "%s"', left(wrong, 60)), 'An event type has 1 to 50 characters.');
        END IF;
    END IF;
    PERFORM pgedge._webhook_check_url(NEW.url);
    PERFORM pgedge._webhook_check_headers(NEW.headers);
    IF NEW.secret IS NOT NULL AND (NEW.secret = '' OR EXISTS (SELECT FROM pgedge._webhook_keys(NEW.secret) k WHERE k IS NULL)) THEN
        PERFORM pgedge._events_reject('secret is not usable as a key',
            'Leave it out to have one generated, or give ''whsec_'' and the base64 of 24 to 64 bytes, or text of 24 to 1000 bytes; separate several by single spaces. NULL sends unsigned requests.');
    ELSIF cardinality(string_to_array(NEW.secret, ' ')) > 5 THEN
        PERFORM pgedge._events_reject('secret has more than 5 keys', 'Remove those that no receiver uses any more.');
    ELSIF NEW.timeout IS NULL OR NEW.max_attempts IS NULL OR NEW.envelope IS NULL OR NEW.enabled IS NULL THEN
        PERFORM pgedge._events_reject(format('%s must not be null', CASE WHEN NEW.timeout IS NULL THEN 'timeout' WHEN NEW.max_attempts IS NULL THEN 'max_attempts'
            WHEN NEW.envelope IS NULL THEN 'envelope' ELSE 'enabled' END), 'Leave the column out to get its default.', '22004');
    ELSIF NEW.timeout NOT BETWEEN interval '100 milliseconds' AND interval '10 minutes' THEN
        PERFORM pgedge._events_reject(format('timeout "%s" is out of range', NEW.timeout), 'Give a time from 100 milliseconds to 10 minutes.');
    ELSIF NEW.max_attempts NOT BETWEEN 1 AND 1000 THEN
        PERFORM pgedge._events_reject(format('max_attempts %s is out of range', NEW.max_attempts), 'Allow 1 to 1000 attempts.', '22003');
    END IF;
    IF NEW.enabled THEN NEW.disabled_reason := NULL; END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgedge._webhook_check() IS 'internal: trigger on webhooks; refuses what cannot be a webhook, before anything could show its row';
CREATE TRIGGER checked BEFORE INSERT OR UPDATE ON pgedge.webhooks FOR EACH ROW EXECUTE FUNCTION pgedge._webhook_check();
ALTER TABLE pgedge.webhooks ENABLE ALWAYS TRIGGER checked;

CREATE FUNCTION pgedge.rotate_webhook_secret(webhook_id bigint, keep_old boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    fresh text := pgedge._webhook_secret();
BEGIN
    PERFORM pgedge._webhook_check_may_write();
    UPDATE pgedge.webhooks w SET secret = fresh || CASE WHEN $2 THEN coalesce(' ' || split_part(w.secret, ' ', 1), '') ELSE '' END WHERE w.id = $1;
    IF NOT FOUND THEN
        PERFORM pgedge._events_reject(format('there is no webhook %s', coalesce($1::text, 'NULL')), 'SELECT id, url FROM pgedge.webhooks; shows them.', '02000');
    END IF;
    RETURN fresh;
END $$;
COMMENT ON FUNCTION pgedge.rotate_webhook_secret(bigint, boolean) IS
'Gives a webhook a new secret and returns it. With keep_old requests are signed with the former one as well, until the next call: change the receiver, then call it again or set the column to the new one alone. Errors: 02000 (no such webhook), 25006.';

-- Signatures -------------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge._hmac_sha256(key bytea, message bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    k bytea := CASE WHEN length(key) > 64 THEN sha256(key) ELSE key END;
    inner_pad bytea := decode(repeat('36', 64), 'hex');
    outer_pad bytea := decode(repeat('5c', 64), 'hex');
BEGIN
    FOR i IN 0 .. length(k) - 1 LOOP
        inner_pad := set_byte(inner_pad, i, get_byte(k, i) # 54);
        outer_pad := set_byte(outer_pad, i, get_byte(k, i) # 92);
    END LOOP;
    RETURN sha256(outer_pad || sha256(inner_pad || message));
END $$;
COMMENT ON FUNCTION pgedge._hmac_sha256(bytea, bytea) IS 'internal: HMAC-SHA256 (RFC 2104) with PostgreSQL''s own sha256';

CREATE FUNCTION pgedge._webhook_signature(secret text, message_id text, sent_at bigint, body text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg('v1,' || encode(pgedge._hmac_sha256(k.key, convert_to(message_id || '.' || sent_at || '.' || body, 'UTF8')), 'base64'), ' ' ORDER BY k.n)
    FROM pgedge._webhook_keys(secret) WITH ORDINALITY k(key, n)
$$;
COMMENT ON FUNCTION pgedge._webhook_signature(text, text, bigint, text) IS 'internal: the header webhook-signature of the Standard Webhooks convention';

-- How webhooks' requests go out and come back, through pg_net; the tables are in webhooks.sql.
--
-- The functions that a scheduler calls are SECURITY DEFINER and a superuser's. They touch pg_net only by the _webhook_net_… functions, which
-- go on as the owner of pg_net's tables, and only after _webhook_transport() has found that net.… belongs to the extension pg_net and that
-- nobody has put a trigger on its tables, which pg_net by default lets every role do.

CREATE FUNCTION pgedge._webhook_check_may_write() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        PERFORM pgedge._events_reject('cannot work on webhooks in a read-only transaction',
            'Run it in a transaction that may write (SET TRANSACTION READ WRITE), on the primary server.', '25006');
    END IF;
    -- A call into the library, which declares the settings that the rest reads.
    PERFORM pgedge._events_table();
END $$;
COMMENT ON FUNCTION pgedge._webhook_check_may_write() IS 'internal: error 25006 on a standby and in read-only transactions, 42P01 without the table';

-- pg_net, as it is now: locked until the transaction ends against being dropped, truncated, and against new triggers.
CREATE FUNCTION pgedge._webhook_transport() RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    net oid := (SELECT e.oid FROM pg_extension e WHERE e.extname = 'pg_net');
    post regprocedure; queue regclass; responses regclass;
    owners oid[];
    strange text;
BEGIN
    IF net IS NULL THEN
        PERFORM pgedge._events_reject('webhooks need the extension pg_net, which is not in this database',
            CASE WHEN EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = 'pg_net') THEN '' ELSE 'Install pg_net. ' END
            || 'Add pg_net to shared_preload_libraries, set pg_net.database_name to this database, restart, then: CREATE EXTENSION pg_net;', '55000');
    END IF;
    post := to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)');
    queue := to_regclass('net.http_request_queue');
    responses := to_regclass('net._http_response');
    IF post IS NULL OR queue IS NULL OR responses IS NULL
       OR 3 <> (SELECT count(*) FROM pg_depend d WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = net
                AND (d.classid = 'pg_proc'::regclass AND d.objid = post OR d.classid = 'pg_class'::regclass AND d.objid IN (queue, responses))) THEN
        PERFORM pgedge._events_reject('net.http_post, net.http_request_queue and net._http_response are not those of the extension pg_net',
            'ALTER EXTENSION pg_net UPDATE; or drop what is in schema net and does not belong to pg_net, and create pg_net anew.', '55000');
    END IF;
    LOCK TABLE net.http_request_queue, net._http_response IN ROW EXCLUSIVE MODE;
    IF to_regclass('net.http_request_queue') IS DISTINCT FROM queue OR to_regclass('net._http_response') IS DISTINCT FROM responses THEN
        PERFORM pgedge._events_reject('pg_net is being created anew', 'Try again.', '55006');
    END IF;
    SELECT string_agg(format('%s %I on %s', o.kind, o.name, o.relation), ', ' ORDER BY o.kind, o.name) INTO strange FROM (
        SELECT 'trigger', t.tgname, t.tgrelid::regclass FROM pg_trigger t WHERE t.tgrelid IN (queue, responses) AND NOT t.tgisinternal
        UNION ALL SELECT 'rule', r.rulename, r.ev_class::regclass FROM pg_rewrite r WHERE r.ev_class IN (queue, responses)
        UNION ALL SELECT 'policy', p.polname, p.polrelid::regclass FROM pg_policy p WHERE p.polrelid IN (queue, responses)) o(kind, name, relation);
    IF strange IS NOT NULL THEN
        PERFORM pgedge._events_reject(format('somebody changed what pg_net''s tables do: %s', strange),
            'Drop it, and let nobody else create more: REVOKE ALL ON net.http_request_queue, net._http_response FROM PUBLIC;', '42501');
    END IF;
    SELECT array_agg(DISTINCT o.owner) INTO owners FROM (
        SELECT c.relowner FROM pg_class c WHERE c.oid IN (queue, responses) UNION ALL SELECT p.proowner FROM pg_proc p WHERE p.oid = post) o(owner);
    IF cardinality(owners) <> 1 OR (SELECT count(*) <> 2 FROM pg_class c WHERE c.oid IN (queue, responses) AND c.relkind = 'r') THEN
        PERFORM pgedge._events_reject('net.http_post and pg_net''s tables have different owners', 'Give them back to one owner, or create pg_net anew.', '42501');
    END IF;
    RETURN format('%s/%s/%s', queue::oid, responses::oid, pg_relation_filenode(pg_get_serial_sequence('net.http_request_queue', 'id')::regclass));
END $$;
COMMENT ON FUNCTION pgedge._webhook_transport() IS 'internal: pg_net''s tables and sequence, which change when ids restart; errors 55000 (no pg_net), 42501 (not as pg_net made it)';

-- Requests hold the webhooks' headers while they wait at pg_net.
CREATE FUNCTION pgedge._webhook_net_is_public(privileges text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(bool_or(has_schema_privilege('public', c.relnamespace, 'USAGE')
                            AND (has_table_privilege('public', c.oid, privileges) OR privileges = 'SELECT' AND has_any_column_privilege('public', c.oid, 'SELECT'))), false)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'net' AND c.relname IN ('http_request_queue', '_http_response')
$$;
COMMENT ON FUNCTION pgedge._webhook_net_is_public(text) IS 'internal: whether every role has one of these rights on pg_net''s tables';

CREATE FUNCTION pgedge._webhook_net_post(url text, body jsonb, headers jsonb, timeout_milliseconds int) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    request bigint;
BEGIN
    PERFORM pgedge._events_as_owner('net.http_request_queue', true);
    EXECUTE 'SELECT net.http_post(url => $1, body => $2, headers => $3, timeout_milliseconds => $4)' INTO STRICT request USING url, body, headers, timeout_milliseconds;
    RETURN request;
END $$;
COMMENT ON FUNCTION pgedge._webhook_net_post(text, jsonb, jsonb, int) IS 'internal: hands a request to pg_net';

CREATE FUNCTION pgedge._webhook_net_backlog(OUT requests bigint, OUT slowest_ms int)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_as_owner('net.http_request_queue', true);
    EXECUTE 'SELECT count(*), coalesce(max(timeout_milliseconds), 0) FROM net.http_request_queue' INTO requests, slowest_ms;
END $$;
COMMENT ON FUNCTION pgedge._webhook_net_backlog() IS 'internal: what waits at pg_net';

-- pg_net removes a request from its queue in the transaction that writes the answer, and holds its row meanwhile: what is there and not held
-- has not been sent, and is taken back.
CREATE FUNCTION pgedge._webhook_net_take_back(ids bigint[]) RETURNS TABLE (id bigint, taken boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_as_owner('net.http_request_queue', true);
    RETURN QUERY EXECUTE
        'WITH idle AS MATERIALIZED (SELECT q.id FROM net.http_request_queue q WHERE q.id = ANY ($1) FOR UPDATE SKIP LOCKED),
              taken AS (DELETE FROM net.http_request_queue q USING idle WHERE q.id = idle.id RETURNING q.id)
         SELECT q.id::bigint, t.id IS NOT NULL FROM net.http_request_queue q LEFT JOIN taken t ON t.id = q.id WHERE q.id = ANY ($1)' USING ids;
END $$;
COMMENT ON FUNCTION pgedge._webhook_net_take_back(bigint[]) IS 'internal: which requests are in pg_net''s queue, and whether they were taken out of it';

CREATE FUNCTION pgedge._webhook_net_answers(ids bigint[], since timestamptz[]) RETURNS TABLE (id bigint, status_code int, retry_after text, error_msg text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_as_owner('net.http_request_queue', true);
    -- An answer's time is that of the batch's begin, which may be earlier than the request; one much older is another request's of that id.
    RETURN QUERY EXECUTE
        'DELETE FROM net._http_response r USING unnest($1, $2) s(id, since) WHERE r.id = s.id AND r.created >= s.since - interval ''1 minute''
         RETURNING r.id::bigint, r.status_code::int,
             CASE WHEN jsonb_typeof(r.headers) = ''object'' THEN (SELECT h.value FROM jsonb_each_text(r.headers) h WHERE lower(h.key) = ''retry-after'' LIMIT 1) END,
             coalesce(r.error_msg, CASE WHEN r.timed_out THEN ''timeout'' WHEN r.status_code IS NULL THEN ''no answer'' END)::text' USING ids, since;
END $$;
COMMENT ON FUNCTION pgedge._webhook_net_answers(bigint[], timestamptz[]) IS 'internal: takes answers out of net._http_response';

-- The row of _webhook_epoch, made or renewed as needed. Dispatchers share it; alone it is had by one reconciler at a time, NULL for others.
CREATE FUNCTION pgedge._webhook_current_epoch(transport text, alone boolean) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    current uuid;
BEGIN
    INSERT INTO pgedge._webhook_epoch (transport) SELECT $1 WHERE NOT EXISTS (SELECT FROM pgedge._webhook_epoch) ON CONFLICT DO NOTHING;
    UPDATE pgedge._webhook_epoch e SET epoch = gen_random_uuid(), transport = $1 WHERE e.transport <> $1;
    IF alone THEN
        SELECT e.epoch INTO current FROM pgedge._webhook_epoch e FOR UPDATE SKIP LOCKED;
    ELSE
        SELECT e.epoch INTO current FROM pgedge._webhook_epoch e FOR SHARE;
    END IF;
    RETURN current;
END $$;
COMMENT ON FUNCTION pgedge._webhook_current_epoch(text, boolean) IS 'internal: the epoch of pg_net''s ids; keeps reconcile_webhooks() apart from dispatch_webhooks() and from itself';

-- Sending ----------------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge._webhook_body(envelope boolean, event_type text, payload jsonb, created_at timestamp) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN envelope THEN pg_catalog.jsonb_build_object('type', event_type, 'data', payload,
    'timestamp', pg_catalog.to_char(coalesce(created_at::timestamptz, pg_catalog.now()) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) ELSE payload END;
COMMENT ON FUNCTION pgedge._webhook_body(boolean, text, jsonb, timestamp) IS 'internal: what is posted; pg_net sends its text as it is, and the signature is over that';

-- Another type with a line break in it would add headers.
CREATE FUNCTION pgedge._webhook_headers(headers jsonb, message_id text, signature text, sent_at bigint, event_id bigint, event_type text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN headers || pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('Content-Type', 'application/json', 'Idempotency-Key', message_id, 'webhook-id', message_id,
    'webhook-timestamp', sent_at::text, 'webhook-signature', signature, 'X-Pgedge-Event-Id', event_id::text,
    'X-Pgedge-Event-Type', CASE WHEN event_type ~ '^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$' THEN event_type END));
COMMENT ON FUNCTION pgedge._webhook_headers(jsonb, text, text, bigint, bigint, text) IS 'internal: all headers of a request but those of pg_net';

CREATE FUNCTION pgedge._webhook_backoff(attempts int, retry_after interval) RETURNS interval
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT make_interval(secs => least(s.cap, coalesce(extract(epoch FROM retry_after)::double precision,
                                                     least(s.cap, s.base * power(2::double precision, least(greatest(attempts, 1) - 1, 60))) * (0.5 + random() / 2))))
    FROM (SELECT extract(epoch FROM current_setting('pgedge.retry_base')::interval)::double precision, extract(epoch FROM current_setting('pgedge.retry_cap')::interval)::double precision) s(base, cap)
$$;
COMMENT ON FUNCTION pgedge._webhook_backoff(int, interval) IS 'internal: the delay before the next attempt; as fail_events() has it, or what the receiver asked for';

-- A claimed event: its rows, and a request for each webhook that is due. How many requests.
CREATE FUNCTION pgedge._webhook_send(event record, epoch uuid, patience interval) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    d record;
    message text; body jsonb; sent_at bigint; request bigint;
    posted bigint := 0;
BEGIN
    -- Another event had this id.
    UPDATE pgedge._webhook_deliveries d SET live = false, lease_token = NULL, finished_at = coalesce(d.finished_at, clock_timestamp()),
        state = CASE WHEN d.state = 'delivered' THEN d.state ELSE 'cancelled' END
    WHERE d.event_id = event.id AND d.live AND d.event_created_at IS DISTINCT FROM event.created_at;
    UPDATE pgedge._webhook_deliveries d SET state = 'cancelled', finished_at = clock_timestamp()
    WHERE d.event_id = event.id AND d.live AND d.state IN ('pending', 'dead')
      AND NOT EXISTS (SELECT FROM pgedge.webhooks w WHERE w.id = d.webhook_id AND w.enabled AND (w.event_types IS NULL OR event.event_type = ANY (w.event_types)));
    -- What is at pg_net under this epoch still has an answer to come; what was delivered, or refused for good, is not sent again. Dead ones
    -- are here since the event was redriven.
    INSERT INTO pgedge._webhook_deliveries AS d (event_id, event_type, event_created_at, webhook_id, lease_token)
    SELECT event.id, event.event_type, event.created_at, w.id, event.lease_token FROM pgedge.webhooks w
    WHERE w.enabled AND (w.event_types IS NULL OR event.event_type = ANY (w.event_types)) ORDER BY w.id FOR KEY SHARE
    ON CONFLICT (event_id, webhook_id) WHERE live DO UPDATE SET
        state = CASE WHEN d.state IN ('delivered', 'failed') OR d.state = 'sent' AND d.epoch IS NOT DISTINCT FROM $2 THEN d.state ELSE 'pending' END,
        attempts = CASE d.state WHEN 'dead' THEN 0 WHEN 'cancelled' THEN 0 WHEN 'sent' THEN d.attempts - (d.epoch IS DISTINCT FROM $2)::int ELSE d.attempts END,
        retry_at = CASE WHEN d.state = 'pending' THEN d.retry_at END,
        finished_at = CASE WHEN d.state IN ('delivered', 'failed') THEN d.finished_at END;
    UPDATE pgedge._webhook_deliveries d SET lease_token = event.lease_token
    WHERE d.event_id = event.id AND d.live AND d.lease_token IS DISTINCT FROM event.lease_token;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM pgedge._webhook_deliveries d WHERE d.event_id = event.id AND d.live) THEN
        PERFORM pgedge.release_events(ARRAY[event.id], event.lease_token);  -- the last webhook of its type has just gone
        RETURN 0;
    END IF;
    FOR d IN SELECT d.message_id, d.attempts, w.url, w.headers, w.secret, w.timeout, w.envelope
             FROM pgedge._webhook_deliveries d JOIN pgedge.webhooks w ON w.id = d.webhook_id
             WHERE d.event_id = event.id AND d.live AND d.state = 'pending' AND coalesce(d.retry_at <= clock_timestamp(), true) ORDER BY d.webhook_id LOOP
        message := 'msg_' || replace(d.message_id::text, '-', '');
        sent_at := floor(extract(epoch FROM clock_timestamp()));
        body := pgedge._webhook_body(d.envelope, event.event_type, event.payload, event.created_at);
        BEGIN
            request := pgedge._webhook_net_post(d.url, body,
                pgedge._webhook_headers(d.headers, message, pgedge._webhook_signature(d.secret, message, sent_at, body::text), sent_at, event.id, event.event_type),
                (extract(epoch FROM d.timeout) * 1000)::int);
            UPDATE pgedge._webhook_deliveries x SET state = 'sent', attempts = d.attempts + 1, epoch = $2, request_id = request, posted_at = clock_timestamp(),
                deadline = clock_timestamp() + $3 + d.timeout, retry_at = NULL WHERE x.message_id = d.message_id;
            posted := posted + 1;
        EXCEPTION WHEN data_exception OR raise_exception OR internal_error THEN
            -- pg_net's own words may hold the address.
            UPDATE pgedge._webhook_deliveries x SET state = CASE WHEN d.attempts + 1 >= w.max_attempts THEN 'failed' ELSE 'pending' END, attempts = d.attempts + 1,
                retry_at = clock_timestamp() + pgedge._webhook_backoff(d.attempts + 1, NULL), last_error = format('pg_net refused the request (SQLSTATE %s)', SQLSTATE)
            FROM pgedge.webhooks w WHERE x.message_id = d.message_id AND w.id = x.webhook_id;
        END;
    END LOOP;
    RETURN posted;
END $$;
COMMENT ON FUNCTION pgedge._webhook_send(record, uuid, interval) IS 'internal: hands a claimed event to pg_net, once for each webhook';

CREATE FUNCTION pgedge.dispatch_webhooks(max_events int DEFAULT 100, max_in_flight int DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    transport text; epoch uuid;
    hooks record; event record; backlog record;
    batch int;
    patience interval;
    room int; posted bigint := 0;
BEGIN
    IF $1 IS NULL OR $2 IS NULL THEN
        PERFORM pgedge._events_reject(format('%s must not be null', CASE WHEN $1 IS NULL THEN 'max_events' ELSE 'max_in_flight' END), 'Leave the argument out to get its default.', '22004');
    ELSIF $1 NOT BETWEEN 1 AND 10000 OR $2 NOT BETWEEN 1 AND 10000 THEN
        PERFORM pgedge._events_reject(format('%s is out of range', CASE WHEN $1 NOT BETWEEN 1 AND 10000 THEN format('max_events %s', $1) ELSE format('max_in_flight %s', $2) END),
            'Give a number from 1 to 10000.', '22003');
    END IF;
    PERFORM pgedge._webhook_check_may_write();
    transport := pgedge._webhook_transport();
    SELECT bool_or(w.event_types IS NULL) AS every_type, max(w.timeout) AS slowest, min(w.id) FILTER (WHERE w.headers <> '{}') AS confidential,
           array(SELECT DISTINCT t FROM pgedge.webhooks x, unnest(x.event_types) t WHERE x.enabled ORDER BY t) AS types
    INTO hooks FROM pgedge.webhooks w WHERE w.enabled;
    IF hooks.slowest IS NULL THEN RETURN 0; END IF;
    IF hooks.confidential IS NOT NULL AND pgedge._webhook_net_is_public('SELECT') THEN
        PERFORM pgedge._events_reject(format('webhook %s has headers, which every role could read in pg_net''s queue', hooks.confidential),
            'REVOKE ALL ON net.http_request_queue, net._http_response FROM PUBLIC; (roles that call net.http_post themselves then need these rights one by one), or remove the headers.', '42501');
    END IF;
    room := least($1, $2 - (SELECT count(*) FROM pgedge._webhook_deliveries d WHERE d.lease_token IS NOT NULL AND d.state = 'sent'));
    IF room <= 0 THEN RETURN 0; END IF;
    -- Until when an answer should be here: pg_net sends batches, a second apart, and each takes as long as its slowest request.
    SELECT * INTO backlog FROM pgedge._webhook_net_backlog();
    batch := greatest(coalesce(nullif(current_setting('pg_net.batch_size', true), '')::int, 200), 1);
    patience := interval '10 seconds' + make_interval(secs => (greatest(backlog.slowest_ms / 1000.0, extract(epoch FROM hooks.slowest)) + 1.5)::double precision
                                                              * (1 + ceil((backlog.requests + room) / batch::numeric)::int));
    FOR event IN SELECT * FROM pgedge.claim_events(room, least(patience + interval '10 minutes', interval '7 days'), CASE WHEN NOT hooks.every_type THEN hooks.types END, 'pgedge webhooks') LOOP
        epoch := coalesce(epoch, pgedge._webhook_current_epoch(transport, false));
        posted := posted + pgedge._webhook_send(event, epoch, patience);
    END LOOP;
    RETURN posted;
END $$;
COMMENT ON FUNCTION pgedge.dispatch_webhooks(int, int) IS
'Claims up to max_events (1 to 10000) events of the types that enabled webhooks want and hands a request for each webhook to pg_net, which sends them when the transaction commits; returns the number of requests. Takes no more events while max_in_flight requests await their answers. To be called by a scheduler together with reconcile_webhooks(), or by the background worker (pgedge.webhook_database). Errors: 55000 (no pg_net), 42501 (a webhook has headers and PUBLIC may read pg_net''s queue; pg_net''s tables have triggers), 22004, 22003, 25006, and those of claim_events.';

-- Answers ----------------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge._webhook_verdict(status_code int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN status_code BETWEEN 200 AND 299 THEN 'delivered'
            WHEN status_code IS NULL OR status_code IN (408, 425, 429) OR status_code BETWEEN 500 AND 599 THEN 'pending'
            ELSE 'failed' END;
COMMENT ON FUNCTION pgedge._webhook_verdict(int) IS 'internal: what an answer makes of a delivery; NULL stands for no answer';

-- Retry-After: seconds, or a date in one of the three forms of HTTP (RFC 9110, 5.6.7); NULL for anything else.
CREATE FUNCTION pgedge._webhook_retry_after(value text) RETURNS interval
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, MDY' SET timezone = 'UTC' AS $$
DECLARE
    given text := btrim(value);
    days text := '(Mon|Tue|Wed|Thu|Fri|Sat|Sun)';
BEGIN
    IF given ~ '^[0-9]{1,9}$' THEN RETURN make_interval(secs => given::double precision); END IF;
    IF given ~ '^[0-9]{10,100}$' THEN RETURN interval '30 years'; END IF;
    IF given ~ format('^%s, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$', days)
       OR given ~ format('^%s[a-z]{3,6}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$', days)
       OR given ~ format('^%s [A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{4}$', days) THEN
        BEGIN
            -- The old form has two digits of the year.
            RETURN greatest(regexp_replace(given, '^[A-Za-z]+, ([0-9]{2})-([A-Za-z]{3})-([0-9]{2}) ', '\1 \2 20\3 ')::timestamptz - clock_timestamp(), interval '0');
        EXCEPTION WHEN data_exception THEN
            RETURN NULL;
        END;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgedge._webhook_retry_after(text) IS 'internal: the delay that a header Retry-After asks for';

-- What becomes of the events of one token; outcomes are processed, pending (again, not before due) and dead. Only of events that the token holds.
CREATE FUNCTION pgedge._webhook_settle(lease_token bigint, ids bigint[], outcomes text[], due timestamptz[], errors text[]) RETURNS TABLE (id bigint, status text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    SELECT * INTO held FROM pgedge._events_hold(pgedge._events_table(), $2, $1, false);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    IF cardinality(held.ids) = 0 THEN RETURN; END IF;
    -- The webhooks' max_attempts decides, so the queue must not count this one out before.
    RETURN QUERY
    UPDATE @extschema@.claude_events e
    SET status = o.outcome,
        processed_at = CASE o.outcome WHEN 'processed' THEN now()::timestamp ELSE e.processed_at END,
        run_at = CASE o.outcome WHEN 'processed' THEN e.run_at WHEN 'pending' THEN CASE WHEN o.due > clock_timestamp() THEN o.due END END,
        qx = CASE o.outcome WHEN 'processed' THEN e.qx ELSE pg_current_xact_id() END,
        max_attempts = CASE o.outcome WHEN 'pending' THEN greatest(coalesce(e.max_attempts, 5), h.attempt + 5) ELSE e.max_attempts END,
        attempts = h.attempt, claimed_by = h.worker, claimed_at = h.claimed, last_error = left(coalesce(o.error, e.last_error), 10000),
        history = CASE o.outcome WHEN 'processed' THEN e.history ELSE pgedge._events_history(e.history, h.attempt, h.worker, h.claimed, o.error) END
    FROM unnest(held.ids, held.attempts, held.workers, held.claimed) h(id, attempt, worker, claimed)
    JOIN unnest($2, $3, $4, $5) o(id, outcome, due, error) ON o.id = h.id
    WHERE e.id = h.id AND e.status IS NOT DISTINCT FROM 'pending' RETURNING e.id::bigint, e.status::text;
END $$;
COMMENT ON FUNCTION pgedge._webhook_settle(bigint, bigint[], text[], timestamptz[], text[]) IS 'internal: finishes events that webhooks hold, or puts them back';

CREATE FUNCTION pgedge._webhook_events(ids bigint[]) RETURNS TABLE (id bigint, status text, created_at timestamp)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', false);
    RETURN QUERY SELECT e.id::bigint, e.status::text, e.created_at FROM @extschema@.claude_events e WHERE e.id = ANY ($1);
END $$;
COMMENT ON FUNCTION pgedge._webhook_events(bigint[]) IS 'internal: what the events say of themselves';

-- Brings the rows of events that are not leased by webhooks in line with the events, whoever changed those.
CREATE FUNCTION pgedge._webhook_follow(ids bigint[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    UPDATE pgedge._webhook_deliveries d SET
        lease_token = NULL,
        live = n.open,
        state = CASE WHEN d.state = 'delivered' THEN d.state WHEN n.status = 'dead' THEN 'dead' WHEN n.open THEN d.state WHEN d.state = 'dead' THEN d.state ELSE 'cancelled' END,
        finished_at = CASE WHEN n.open AND n.status <> 'dead' AND d.state NOT IN ('delivered', 'failed') THEN NULL ELSE coalesce(d.finished_at, clock_timestamp()) END,
        check_at = CASE WHEN n.open THEN clock_timestamp() + CASE n.status WHEN 'dead' THEN interval '1 hour' ELSE interval '5 minutes' END END
    FROM (SELECT x.message_id, e.status, coalesce(e.status IN ('pending', 'processing', 'dead') AND x.event_created_at IS NOT DISTINCT FROM e.created_at, false) AS open
          FROM pgedge._webhook_deliveries x LEFT JOIN pgedge._webhook_events(ids) e ON e.id = x.event_id WHERE x.event_id = ANY (ids) AND x.live) n
    WHERE d.message_id = n.message_id
$$;
COMMENT ON FUNCTION pgedge._webhook_follow(bigint[]) IS 'internal: the rows of events that were finished, dead, deleted or given back';

-- The answers that are here, and the requests that get none.
CREATE FUNCTION pgedge._webhook_read_answers(epoch uuid, OUT delivered bigint, OUT retried bigint, OUT dead bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    asked bigint[]; since timestamptz[]; late bigint[]; waiting bigint[]; taken bigint[];
    d record;
    verdict text; problem text; due timestamptz;
BEGIN
    delivered := 0; retried := 0; dead := 0;
    SELECT array_agg(d.request_id), array_agg(d.posted_at), array_agg(d.request_id) FILTER (WHERE d.deadline < clock_timestamp()) INTO asked, since, late
    FROM pgedge._webhook_deliveries d WHERE d.lease_token IS NOT NULL AND d.state = 'sent' AND d.epoch = $1;
    -- The queue first: what leaves it meanwhile has its answer in the table that is read next.
    IF late IS NOT NULL THEN
        SELECT array_agg(t.id) FILTER (WHERE t.taken), array_agg(t.id) FILTER (WHERE NOT t.taken) INTO taken, waiting FROM pgedge._webhook_net_take_back(late) t;
    END IF;
    FOR d IN SELECT d.message_id, d.event_id, d.lease_token, d.webhook_id, d.attempts, d.request_id, d.epoch IS DISTINCT FROM $1 AS lost, d.deadline < clock_timestamp() AS late,
                    w.max_attempts, w.timeout, a.id IS NOT NULL AS answered, a.status_code, a.error_msg, pgedge._webhook_retry_after(a.retry_after) AS retry_after
             FROM pgedge._webhook_deliveries d JOIN pgedge.webhooks w ON w.id = d.webhook_id
             LEFT JOIN pgedge._webhook_net_answers(asked, since) a ON a.id = d.request_id AND d.epoch = $1
             WHERE d.lease_token IS NOT NULL AND d.state = 'sent' ORDER BY d.event_id, d.webhook_id LOOP
        IF d.answered THEN
            verdict := pgedge._webhook_verdict(d.status_code);
            problem := CASE WHEN verdict = 'delivered' THEN NULL WHEN d.status_code IS NULL THEN left(d.error_msg, 500) ELSE format('HTTP %s', d.status_code) END;
            IF verdict = 'pending' AND d.attempts >= d.max_attempts THEN verdict := 'failed'; END IF;
            due := CASE verdict WHEN 'pending' THEN clock_timestamp() + pgedge._webhook_backoff(d.attempts, d.retry_after) END;
        ELSIF d.lost OR d.request_id = ANY (taken) THEN
            -- Nothing that the receiver did: tried again at once, and not counted.
            UPDATE pgedge._webhook_deliveries x SET state = 'pending', attempts = greatest(x.attempts - 1, 0), retry_at = NULL, epoch = NULL,
                last_error = CASE WHEN d.lost THEN 'the request was lost with pg_net''s queue' ELSE 'pg_net did not send the request' END WHERE x.message_id = d.message_id;
            retried := retried + 1;
            CONTINUE;
        ELSIF d.request_id = ANY (waiting) THEN
            UPDATE pgedge._webhook_deliveries x SET deadline = clock_timestamp() + interval '10 seconds' + d.timeout WHERE x.message_id = d.message_id;
            PERFORM pgedge.extend_lease(ARRAY[d.event_id], d.lease_token, interval '10 minutes' + d.timeout);
            CONTINUE;
        ELSIF d.late THEN
            verdict := CASE WHEN d.attempts >= d.max_attempts THEN 'failed' ELSE 'pending' END;
            problem := 'no answer from pg_net';
            due := clock_timestamp() + pgedge._webhook_backoff(d.attempts, NULL);
        ELSE
            CONTINUE;
        END IF;
        UPDATE pgedge._webhook_deliveries x SET state = verdict, status_code = d.status_code, last_error = problem, retry_at = due,
            finished_at = CASE WHEN verdict <> 'pending' THEN clock_timestamp() END WHERE x.message_id = d.message_id;
        delivered := delivered + (verdict = 'delivered')::int;
        retried := retried + (verdict = 'pending')::int;
        dead := dead + (verdict = 'failed')::int;
        IF d.status_code = 410 THEN
            UPDATE pgedge.webhooks w SET enabled = false, disabled_reason = format('the receiver answered 410 Gone at %s', clock_timestamp()) WHERE w.id = d.webhook_id AND w.enabled;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge._webhook_read_answers(uuid) IS 'internal: takes pg_net''s answers over into the deliveries';

-- Events whose requests have all been answered.
CREATE FUNCTION pgedge._webhook_settle_all() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
BEGIN
    FOR r IN
        SELECT e.token, array_agg(e.event_id ORDER BY e.event_id) AS ids, array_agg(e.due ORDER BY e.event_id) AS due, array_agg(e.error ORDER BY e.event_id) AS errors,
               array_agg(CASE WHEN e.pending OR NOT e.delivered AND NOT e.failed THEN 'pending' WHEN e.failed THEN 'dead' ELSE 'processed' END ORDER BY e.event_id) AS outcomes
        FROM (SELECT d.event_id, max(d.lease_token) AS token, bool_or(d.state = 'pending') AS pending, bool_or(d.state IN ('failed', 'dead')) AS failed, bool_or(d.state = 'delivered') AS delivered,
                     CASE WHEN bool_and(d.retry_at IS NOT NULL) FILTER (WHERE d.state = 'pending') THEN min(d.retry_at) FILTER (WHERE d.state = 'pending') END AS due,
                     string_agg(format('webhook %s: %s', d.webhook_id, d.last_error), '; ' ORDER BY d.webhook_id) FILTER (WHERE d.state IN ('pending', 'failed', 'dead')) AS error
              FROM pgedge._webhook_deliveries d WHERE d.lease_token IS NOT NULL GROUP BY d.event_id HAVING NOT bool_or(d.state = 'sent')) e
        GROUP BY e.token ORDER BY e.token
    LOOP
        PERFORM pgedge._webhook_settle(r.token, r.ids, r.outcomes, r.due, r.errors);
        -- Of an event that is not ours any more the rows stay as they are, for whoever claims it next.
        PERFORM pgedge._webhook_follow(r.ids);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge._webhook_settle_all() IS 'internal: finishes, puts back or buries the events whose round of requests is over';

CREATE FUNCTION pgedge.reconcile_webhooks() RETURNS TABLE (delivered bigint, retried bigint, dead bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    transport text; epoch uuid;
    idle bigint[];
BEGIN
    PERFORM pgedge._webhook_check_may_write();
    transport := pgedge._webhook_transport();
    delivered := 0; retried := 0; dead := 0;
    IF EXISTS (SELECT FROM pgedge._webhook_deliveries d WHERE d.lease_token IS NOT NULL OR d.live AND d.lease_token IS NULL AND d.check_at < clock_timestamp()) THEN
        epoch := pgedge._webhook_current_epoch(transport, true);
    END IF;
    IF epoch IS NOT NULL THEN
        SELECT * INTO delivered, retried, dead FROM pgedge._webhook_read_answers(epoch);
        PERFORM pgedge._webhook_settle_all();
        SELECT array_agg(DISTINCT x.event_id) INTO idle FROM (
            SELECT d.event_id FROM pgedge._webhook_deliveries d WHERE d.live AND d.lease_token IS NULL AND d.check_at < clock_timestamp() ORDER BY d.check_at LIMIT 500) x;
        IF idle IS NOT NULL THEN PERFORM pgedge._webhook_follow(idle); END IF;
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgedge.reconcile_webhooks() IS
'Reads pg_net''s answers and finishes events: processed once every webhook has it; pending again when a request is to be repeated (no connection, timeout, 408, 425, 429, 5xx: after Retry-After or as fail_events() has it, at most pgedge.retry_cap); dead when one was refused (other statuses) or max_attempts are used up. 410 disables the webhook. Requests that a crash took with pg_net''s queue are repeated. Returns how many requests were delivered, are to be repeated, and were given up. Does nothing while another call is at it. Call it more often than pg_net.ttl. Errors: 55000 (no pg_net), 42501, 25006.';

CREATE FUNCTION pgedge.purge_webhook_deliveries(older_than interval DEFAULT NULL, max_deliveries int DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    purged bigint;
    age interval;
BEGIN
    PERFORM pgedge._webhook_check_may_write();
    age := coalesce($1, nullif(current_setting('pgedge.event_retention'), '-1')::interval);
    IF age IS NULL THEN
        PERFORM pgedge._events_reject('older_than must not be null while pgedge.event_retention is not set',
            'Say how old a finished delivery must be to be deleted, e.g. ''7 days'', or set pgedge.event_retention.', '22004');
    ELSIF age NOT BETWEEN interval '0' AND interval '1000 years' THEN
        PERFORM pgedge._events_reject(format('older_than "%s" is out of range', age), 'Give an age from 0 to 1000 years, e.g. ''7 days''.');
    ELSIF $2 < 1 THEN
        PERFORM pgedge._events_reject(format('max_deliveries %s is out of range', $2), 'Give a positive number, or NULL for all.', '22003');
    END IF;
    WITH old AS MATERIALIZED (
        SELECT d.message_id FROM pgedge._webhook_deliveries d WHERE NOT d.live AND d.finished_at <= clock_timestamp() - age LIMIT $2 FOR UPDATE SKIP LOCKED)
    DELETE FROM pgedge._webhook_deliveries d USING old WHERE d.message_id = old.message_id;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END $$;
COMMENT ON FUNCTION pgedge.purge_webhook_deliveries(interval, int) IS
'Deletes deliveries that finished longer than older_than ago (default: pgedge.event_retention), at most max_deliveries of them; never those of an event that is unfinished, or dead and could be redriven. Returns how many. Errors: 22004, 22003, 22023, 25006.';

-- Watching ---------------------------------------------------------------------------------------------------------------------------------

-- For the background worker: whether a turn could do anything. Reads only.
CREATE FUNCTION pgedge._webhook_has_work() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_net')
       AND (EXISTS (SELECT FROM pgedge.webhooks w WHERE w.enabled) OR EXISTS (SELECT FROM pgedge._webhook_deliveries d WHERE d.lease_token IS NOT NULL))
$$;
COMMENT ON FUNCTION pgedge._webhook_has_work() IS 'internal: asked by the background worker';

CREATE FUNCTION pgedge._webhook_figures(OUT enabled bigint, OUT gone text, OUT confidential bigint, OUT in_flight bigint, OUT waiting bigint, OUT dead bigint, OUT overdue interval)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*) FROM pgedge.webhooks w WHERE w.enabled),
           (SELECT string_agg(w.id::text, ', ' ORDER BY w.id) FROM pgedge.webhooks w WHERE NOT w.enabled AND w.disabled_reason IS NOT NULL),
           (SELECT count(*) FROM pgedge.webhooks w WHERE w.enabled AND w.headers <> '{}'),
           count(*) FILTER (WHERE d.state = 'sent'), count(*) FILTER (WHERE d.state = 'pending'), count(*) FILTER (WHERE d.state IN ('dead', 'failed')),
           -- Nobody waits for what is held back on purpose.
           now() - min(CASE WHEN d.state = 'sent' THEN d.deadline
                            WHEN d.state = 'pending' AND w.enabled AND NOT EXISTS (SELECT FROM pgedge.event_limits l WHERE l.event_type = d.event_type AND (l.paused OR l.max_concurrent = 0))
                            THEN coalesce(d.retry_at, d.posted_at, d.created_at) END)
    FROM pgedge._webhook_deliveries d JOIN pgedge.webhooks w ON w.id = d.webhook_id WHERE d.live
$$;
COMMENT ON FUNCTION pgedge._webhook_figures() IS 'internal: what health() says of webhooks';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pgedge'::regnamespace
             AND p.proname ~ '^(_webhook_.*|_hmac_sha256|dispatch_webhooks|reconcile_webhooks|rotate_webhook_secret|purge_webhook_deliveries)$' LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION pgedge._webhook_secret() TO PUBLIC; -- a column's default; whoever may insert calls it
REVOKE ALL ON pgedge.webhooks, pgedge._webhook_deliveries, pgedge._webhook_epoch FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgedge._webhook_figures(), pgedge._webhook_net_is_public(text) TO pg_monitor;

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
REVOKE ALL ON FUNCTION pgedge._health_16_webhooks() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgedge._health_16_webhooks() TO pg_monitor;

CREATE OR REPLACE FUNCTION pgedge._service_kinds() RETURNS TABLE (kind text, table_name name, privileges text, functions name[])
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

CREATE OR REPLACE FUNCTION pgedge._service_grants(item text, grantee text) RETURNS SETOF text
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

-- Event queue ----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge."_events_rekey"("relation" oid, "id" bigint, "ordering_key" TEXT) RETURNS void
VOLATILE PARALLEL UNSAFE
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'rekey_wrapper';
REVOKE ALL ON FUNCTION pgedge._events_rekey(oid, bigint, text) FROM PUBLIC;

CREATE FUNCTION pgedge._events_key_is_lost(event_type text, dedup_key text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_reject(format('an event of type "%s" and dedup_key "%s" can neither be added nor found', event_type, left(dedup_key, 60)),
        'A trigger on claude_events changes its event_type or dedup_key, or drops the row: see to the triggers.', '27000');
END $$;

REVOKE ALL ON FUNCTION pgedge._events_key_is_lost(text, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgedge.enqueue_event(event_type text, payload jsonb, priority int DEFAULT 5, delay interval DEFAULT '0', max_attempts int DEFAULT 5,
                                     dedup_key text DEFAULT NULL, ordering_key text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    new_id bigint;
BEGIN
    PERFORM pgedge._events_check_new($1, $3, $4, $5);
    IF $2 IS NULL THEN
        PERFORM pgedge._events_reject('payload must not be null', 'Pass a JSON value, e.g. ''{}''.', '22004');
    END IF;
    PERFORM pgedge._events_check_keys('dedup_key', ARRAY[$6]);
    PERFORM pgedge._events_check_keys('ordering_key', ARRAY[$7]);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    IF $6 IS NULL THEN
        INSERT INTO @extschema@.claude_events (event_type, payload, priority, run_at, max_attempts, ordering_key)
        VALUES ($1, $2, $3, CASE WHEN $4 > '0' THEN clock_timestamp() + $4 END, $5, $7) RETURNING id INTO new_id;
        RETURN new_id;
    END IF;
    -- Each turn either inserts, or finds the unfinished event that was in the way, or that one was finished in between. Or a trigger of the
    -- table's owner gives the row another key, or no place: then it would never end.
    FOR turn IN 1..100 LOOP
        INSERT INTO @extschema@.claude_events (event_type, payload, priority, run_at, max_attempts, dedup_key, ordering_key)
        VALUES ($1, $2, $3, CASE WHEN $4 > '0' THEN clock_timestamp() + $4 END, $5, $6, $7)
        ON CONFLICT (event_type, dedup_key) WHERE dedup_key IS NOT NULL AND status IN ('pending', 'processing') DO NOTHING RETURNING id INTO new_id;
        IF new_id IS NULL THEN
            SELECT e.id INTO new_id FROM @extschema@.claude_events e
            WHERE e.event_type = $1 AND e.dedup_key = $6 AND e.status IN ('pending', 'processing');
        END IF;
        IF new_id IS NOT NULL THEN RETURN new_id; END IF;
    END LOOP;
    PERFORM pgedge._events_key_is_lost($1, $6);
END $$;

CREATE OR REPLACE FUNCTION pgedge.enqueue_events(event_type text, payloads jsonb[], priority int DEFAULT 5, delay interval DEFAULT '0', max_attempts int DEFAULT 5,
                                      dedup_keys text[] DEFAULT NULL, ordering_keys text[] DEFAULT NULL) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off /* arrays are joined, whose lengths the planner does not know */ AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
    ids bigint[]; open_ids bigint[];
    id_sequence regclass;
    turns int := 0;
BEGIN
    PERFORM pgedge._events_check_new($1, $3, $4, $5);
    PERFORM pgedge._events_check_keys('dedup_key', $6);
    PERFORM pgedge._events_check_keys('ordering_key', $7);
    IF array_ndims($2) > 1 THEN
        PERFORM pgedge._events_reject('payloads must be one-dimensional', 'Pass one array of JSON values, e.g. ARRAY[''{}'', ''{}'']::jsonb[].', '2202E');
    ELSIF $2 IS NULL OR array_position($2, NULL) IS NOT NULL THEN
        PERFORM pgedge._events_reject(CASE WHEN $2 IS NULL THEN 'payloads must not be null' ELSE format('payload %s is null', array_position($2, NULL)) END,
            'Pass an array of JSON values without nulls, e.g. ARRAY[''{}'']::jsonb[].', '22004');
    ELSIF cardinality($6) <> cardinality($2) OR cardinality($7) <> cardinality($2) THEN
        PERFORM pgedge._events_reject(format('%s payloads, but %s dedup_keys and %s ordering_keys', cardinality($2),
                coalesce(cardinality($6)::text, 'no'), coalesce(cardinality($7)::text, 'no')),
            'Give one key for each payload (NULL where it has none), or leave the array out.', '2202E');
    END IF;
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    due := CASE WHEN $4 > '0' THEN clock_timestamp() + $4 END;
    IF $6 IS NULL THEN
        RETURN QUERY
        INSERT INTO @extschema@.claude_events (event_type, payload, priority, run_at, max_attempts, ordering_key)
        SELECT $1, p.payload, $3, due, $5, p.ordering_key
        FROM ROWS FROM (unnest($2), unnest($7)) WITH ORDINALITY p(payload, ordering_key, n) ORDER BY p.n RETURNING id::bigint;
        RETURN;
    END IF;
    -- Keys are inserted in one order by everybody, so that two callers with the same keys cannot deadlock; ids follow the payloads all the same.
    id_sequence := pg_get_serial_sequence('@extschema@.claude_events', 'id')::regclass;
    ids := ARRAY(SELECT nextval(id_sequence) FROM generate_series(1, cardinality($2)));
    LOOP
        BEGIN
            WITH added AS MATERIALIZED (
                INSERT INTO @extschema@.claude_events (id, event_type, payload, priority, run_at, max_attempts, dedup_key, ordering_key)
                OVERRIDING SYSTEM VALUE
                SELECT p.id, $1, p.payload, $3, due, $5, p.dedup_key, p.ordering_key
                FROM ROWS FROM (unnest(ids), unnest($2), unnest($6), unnest($7)) WITH ORDINALITY p(id, payload, dedup_key, ordering_key, n) ORDER BY p.dedup_key, p.n
                ON CONFLICT (event_type, dedup_key) WHERE dedup_key IS NOT NULL AND status IN ('pending', 'processing') DO NOTHING
                RETURNING id::bigint, dedup_key
            )
            SELECT array_agg(CASE WHEN p.dedup_key IS NULL THEN p.id ELSE a.id END ORDER BY p.n)
            INTO open_ids FROM ROWS FROM (unnest(ids), unnest($6)) WITH ORDINALITY p(id, dedup_key, n) LEFT JOIN added a ON a.dedup_key = p.dedup_key;
            -- What was there already, seen by a new snapshot.
            IF array_position(open_ids, NULL) IS NOT NULL THEN
                SELECT array_agg(coalesce(p.id, (SELECT e.id FROM @extschema@.claude_events e
                        WHERE e.event_type = $1 AND e.dedup_key = p.dedup_key AND e.status IN ('pending', 'processing'))) ORDER BY p.n) INTO open_ids
                FROM ROWS FROM (unnest(open_ids), unnest($6)) WITH ORDINALITY p(id, dedup_key, n);
            END IF;
            EXIT WHEN array_position(open_ids, NULL) IS NULL;
            -- One that was there has been finished in between. Adding it now would break the order of keys, so all is done again.
            turns := turns + 1;
            IF turns >= 100 THEN
                PERFORM pgedge._events_key_is_lost($1, ($6)[array_position(open_ids, NULL)]);
            END IF;
            RAISE EXCEPTION USING ERRCODE = 'PE001';
        EXCEPTION WHEN SQLSTATE 'PE001' THEN
            NULL;
        END;
    END LOOP;
    RETURN QUERY SELECT unnest(open_ids);
END $$;

CREATE OR REPLACE FUNCTION pgedge.wait_for_events(timeout interval DEFAULT '30 seconds', event_types text[] DEFAULT NULL) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT pgedge._wait_for_events($1, $2)';

CREATE OR REPLACE FUNCTION pgedge.complete_events(ids bigint[], lease_token bigint) RETURNS SETOF bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pgedge_complete_events';

CREATE FUNCTION pgedge._events_retain(seconds bigint, first_page bigint, pages bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    purged bigint;
BEGIN
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    DELETE FROM @extschema@.claude_events e USING (
        SELECT o.ctid FROM @extschema@.claude_events o
        WHERE o.ctid >= format('(%s,0)', $2)::tid AND o.ctid < format('(%s,0)', $2 + $3)::tid
          AND o.status IN ('processed', 'cancelled') AND coalesce(o.processed_at, o.created_at) <= localtimestamp - make_interval(secs => $1)
        FOR UPDATE SKIP LOCKED) d
    WHERE e.ctid = d.ctid;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'pgedge.event_retention: old events could not be deleted: %', SQLERRM;
    RETURN -1;
END $$;

REVOKE ALL ON FUNCTION pgedge._events_retain(bigint, bigint, bigint) FROM PUBLIC;

CREATE OR REPLACE FUNCTION pgedge._events_requeue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.status = 'pending' AND OLD.id = NEW.id AND OLD.event_type = NEW.event_type AND OLD.priority IS NOT DISTINCT FROM NEW.priority
        AND OLD.run_at IS NOT DISTINCT FROM NEW.run_at AND OLD.ordering_key IS NOT DISTINCT FROM NEW.ordering_key AND OLD.qx = NEW.qx
    THEN
        RETURN NEW;
    END IF;
    NEW.qx := pg_current_xact_id();
    IF OLD.status IS DISTINCT FROM 'pending' OR OLD.id <> NEW.id THEN
        PERFORM pgedge._events_revoke(TG_RELID, ARRAY[OLD.id::bigint]);
    ELSIF OLD.ordering_key IS DISTINCT FROM NEW.ordering_key THEN
        PERFORM pgedge._events_rekey(TG_RELID, OLD.id::bigint, NEW.ordering_key);
    END IF;
    PERFORM pgedge._events_made_ready(TG_RELID);
    RETURN NEW;
END $$;

CREATE FUNCTION pgedge._events_deleted() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'pgedge_events_deleted';

REVOKE ALL ON FUNCTION pgedge._events_deleted() FROM PUBLIC;

COMMENT ON FUNCTION pgedge._events_key_is_lost(text, text) IS 'internal: refuses to go on looking for an event that triggers put elsewhere';

COMMENT ON FUNCTION pgedge.enqueue_event(text, jsonb, int, interval, int, text, text) IS
'Adds an event and returns its id; it can be claimed once this transaction commits and the delay has passed. Priority 1 is the most urgent, 10 the least. With a dedup_key there is at most one unfinished event of that type and key: a second call returns the first''s id and changes nothing. Events of one ordering_key, whatever their type, are handed out one at a time, in order of their ids. Keys have at most 2000 bytes. Errors: 22004 (null), 22023, 22001 (type or key too long), 22003 (priority, attempts), 25006 (read-only), 27000 (a trigger changes the dedup_key).';

COMMENT ON FUNCTION pgedge._events_retain(bigint, bigint, bigint) IS
'internal: deletes finished events older than so many seconds on some pages of the table; how many, or -1 after a failure';

COMMENT ON FUNCTION pgedge._events_deleted() IS 'internal: trigger on claude_events; ends the lease of a deleted event when the transaction commits';

COMMENT ON FUNCTION pgedge._events_rekey(oid, bigint, text) IS 'internal: a leased event has another ordering key when the transaction commits';

CREATE OR REPLACE FUNCTION pgedge._triggers() RETURNS TABLE (table_name name, trigger_name name, ddl text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
    ('claude_events'::name, 'pgedge_events_wake'::name, 'AFTER INSERT ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION pgedge._events_wake()'),
    -- The conditions are false for what a consumer does, which so pays for no call.
    ('claude_events', 'pgedge_events_place', 'AFTER INSERT ON %1$s FOR EACH ROW WHEN (NEW.qx IS DISTINCT FROM pg_catalog.pg_current_xact_id()) EXECUTE FUNCTION pgedge._events_place()'),
    ('claude_events', 'pgedge_events_requeue', 'BEFORE UPDATE ON %1$s FOR EACH ROW WHEN (NEW.status = ''pending'') EXECUTE FUNCTION pgedge._events_requeue()'),
    ('claude_events', 'pgedge_events_deleted', 'AFTER DELETE ON %1$s FOR EACH ROW WHEN (OLD.status = ''pending'') EXECUTE FUNCTION pgedge._events_deleted()'),
    ('claude_events', 'pgedge_events_truncated', 'AFTER TRUNCATE ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION pgedge._events_truncated()');
END;

-- The triggers of a table that has the queue's; one that never got them is left to create_tables().
DO $$
DECLARE
    t regclass := to_regclass(format('%I.claude_events', pgedge._schema()));
    i record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t AND g.tgname = 'pgedge_events_requeue') THEN RETURN; END IF;
    FOR i IN SELECT * FROM pgedge._triggers() x WHERE x.trigger_name IN ('pgedge_events_requeue', 'pgedge_events_deleted') LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', i.trigger_name, t);
        EXECUTE format('CREATE TRIGGER %I ', i.trigger_name) || format(i.ddl, t);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t, i.trigger_name);
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION pgedge', i.trigger_name, t);
    END LOOP;
END $$;

-- End of the event queue's part

-- Log patterns -----------------------------------------------------------------------------------------------------------------------
ALTER TABLE pgedge._log_rows ADD COLUMN first_hour timestamptz;
-- Hours that are still to come, of clocks that were ahead: the latest of a row becomes the current one, what is before it goes to the last full one.
WITH gone AS (DELETE FROM pgedge._log_hours WHERE hour >= date_trunc('hour', now(), 'UTC') RETURNING row_id, lines)
INSERT INTO pgedge._log_hours AS h (row_id, hour, lines) SELECT g.row_id, date_trunc('hour', now(), 'UTC') - interval '1 hour', sum(g.lines) FROM gone g GROUP BY g.row_id
ON CONFLICT (row_id, hour) DO UPDATE SET lines = h.lines + excluded.lines;
UPDATE pgedge._log_rows SET open_hour = date_trunc('hour', now(), 'UTC') WHERE open_hour > date_trunc('hour', now(), 'UTC');

CREATE TABLE pgedge._log_notices (
    source text NOT NULL,
    digest bigint NOT NULL,
    noticed_at timestamptz NOT NULL,
    PRIMARY KEY (source, digest)
);
COMMENT ON TABLE pgedge._log_notices IS 'internal: patterns and levels, as hashes, of which an event was raised in the last hour (not dumped: they are worth nothing an hour later)';

-- The columns of the table have no zone: they say what the clock of the session showed that sent the lines. The hours that are kept of its
-- rows do have one. A time that is within the hour is exact; one less than 27 hours off is that of a session in another zone (they are 26
-- hours apart at most), of which only the hour is known: it counts as its end. What is earlier was written by another client, what is later by a clock that is ahead.
CREATE FUNCTION pgedge._log_first_seen(seen timestamptz, hour timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN hour IS NULL OR seen >= hour AND seen < hour + interval '1 hour' OR seen < hour - interval '27 hours' THEN seen
            ELSE hour + interval '1 hour' END;

-- The same for the latest hour, but that a client may have seen lines later; a time that is still to come is that of a clock that is ahead.
CREATE FUNCTION pgedge._log_last_seen(seen timestamptz, hour timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN hour IS NULL OR seen < hour - interval '27 hours' OR seen >= hour AND seen < hour + interval '1 hour' THEN seen
            WHEN seen > pg_catalog.now() THEN hour + interval '1 hour'
            ELSE greatest(seen, hour + interval '1 hour') END;

CREATE OR REPLACE FUNCTION pgedge._log_hours_of(from_hour timestamptz)
RETURNS TABLE (id bigint, message_pattern text, level text, source text, first_seen timestamptz, last_seen timestamptz, lines bigint, hour timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.id, a.message_pattern, a.level, a.source, pgedge._log_first_seen(a.first_seen, r.first_hour), pgedge._log_last_seen(a.last_seen, r.open_hour), h.lines, h.hour
    FROM pgedge._log_table() a
    JOIN pgedge._log_rows r ON r.row_id = a.id
    CROSS JOIN LATERAL (
        SELECT o.lines, o.hour FROM pgedge._log_hours o WHERE o.row_id = a.id AND o.hour >= from_hour
        UNION ALL
        SELECT a.count - r.lines_before, r.open_hour WHERE r.open_hour >= from_hour
    ) h
    WHERE h.lines > 0
$$;

CREATE OR REPLACE FUNCTION pgedge.log_anomalies(since interval DEFAULT '1 hour', min_score double precision DEFAULT 3, min_lines bigint DEFAULT 10)
RETURNS TABLE (id integer, message_pattern text, level text, source text, kind text, observed bigint, expected double precision, score double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 50 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    began timestamptz := pgedge._log_began(since);
    first_hour timestamptz := date_trunc('hour', began, 'UTC');
    hours double precision := extract(epoch FROM now() - began) / 3600;
BEGIN
    min_score := coalesce(min_score, 3);
    min_lines := coalesce(min_lines, 10);
    IF min_score = 'NaN' OR min_score < 0 THEN
        RAISE EXCEPTION 'min_score must be zero or more: %', min_score USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the number of standard deviations from which a count is unusual; 3 by default.';
    END IF;
    RETURN QUERY
    WITH patterns AS (
        SELECT h.id, h.message_pattern, h.level, h.source, h.first_seen, h.last_seen,
               coalesce(max(h.lines) FILTER (WHERE h.hour >= first_hour), 0) AS peak,
               coalesce(sum(h.lines) FILTER (WHERE h.hour >= first_hour), 0)::bigint AS recent,
               coalesce(array_agg(h.lines) FILTER (WHERE h.hour < first_hour), '{}') AS usual,
               coalesce(extract(epoch FROM first_hour - min(h.hour) FILTER (WHERE h.hour < first_hour)) / 3600, 0)::bigint AS usual_hours
        FROM pgedge._log_hours_of(first_hour - interval '168 hours') h
        GROUP BY 1, 2, 3, 4, 5, 6
    ), judged AS (
        SELECT p.*, b.b[1] AS median, b.b[2] AS scale, least((p.peak - b.b[1]) / b.b[2], (p.peak - b.b[3]) / sqrt(greatest(b.b[3], 1))) AS excess
        FROM patterns p CROSS JOIN LATERAL (SELECT pgedge._log_baseline(p.usual, p.usual_hours)) b(b)
    ), found AS (
        SELECT j.*, 'new' AS what, j.recent AS seen, 0::double precision AS awaited, j.recent::double precision AS deviation
        FROM judged j WHERE j.first_seen >= began
        UNION ALL
        SELECT j.*, 'spike', j.peak, j.median, j.excess
        FROM judged j WHERE j.first_seen < began AND j.usual_hours >= 3 AND j.peak >= min_lines AND j.excess >= min_score
        UNION ALL
        SELECT j.*, 'silence', 0, j.median * hours, j.median * sqrt(hours) / j.scale
        FROM judged j WHERE j.last_seen < began AND j.usual_hours >= 3 AND j.median > 0 AND j.median * sqrt(hours) / j.scale >= min_score
    )
    SELECT f.id::integer, f.message_pattern, f.level, f.source, f.what, f.seen, f.awaited, f.deviation
    FROM found f ORDER BY f.what, f.deviation DESC, f.id;
END $$;

COMMENT ON TABLE pgedge._log_rows IS 'internal: which row of aggregated_logs belongs to a source, level and pattern; the latest hour that it has lines of, and its count before that hour; the first hour, unless others wrote lines before';
COMMENT ON FUNCTION pgedge._log_first_seen(timestamptz, timestamptz) IS 'internal: when a row was first seen, whatever the time zone of the session that wrote it, from its first hour';
COMMENT ON FUNCTION pgedge._log_last_seen(timestamptz, timestamptz) IS 'internal: when a row was last seen, whatever the time zone of the session that wrote it, from its latest hour';
COMMENT ON FUNCTION pgedge.log_anomalies(interval, double precision, bigint) IS
'Patterns that behave unusually in the time given: new (first seen in it), spike (an hour of it has at least min_lines lines and exceeds the usual by min_score standard deviations), silence (no line in it where the usual rate makes that as unlikely). observed lines, expected lines, score in standard deviations. Usual is the median of the hours of the week before, at least three; the standard deviation is 1.4826 times the median absolute deviation, at least the square root of the median: a Shewhart control chart for counts with robust estimates. A spike also exceeds the largest hour of that week, by min_score times its square root; its score is the lesser one. No rows for a NULL time; NULL for the others is their default. 22023 unless the time is positive and min_score a number from zero on.';
COMMENT ON FUNCTION pgedge._log_baseline(bigint[], bigint) IS 'internal: median, scale and largest of the lines of some hours; hours not given had no lines';
