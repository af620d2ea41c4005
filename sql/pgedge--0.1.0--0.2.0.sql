-- From 0.1.0 to 0.2.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- Operations ---------------------------------------------------------------------------------------------------------------------

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- create_tables(): looks at an existing table's columns more closely, and says where to run it when nothing may be written.
CREATE OR REPLACE FUNCTION pgedge._existing_table(wanted name) RETURNS regclass
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema name := pgedge._schema();
    vector_schema oid := (SELECT e.extnamespace FROM pg_extension e WHERE e.extname = 'vector');
    relation regclass := to_regclass(format('%I.%I', schema, wanted));
    wrong record;
BEGIN
    IF relation IS NULL THEN RETURN NULL; END IF;
    IF (SELECT relkind NOT IN ('r', 'p') FROM pg_class WHERE oid = relation) THEN
        RAISE EXCEPTION 'relation "%.%" is not a table', schema, wanted
            USING ERRCODE = 'wrong_object_type',
                  HINT = format('Rename it, or create the extension in another schema: CREATE EXTENSION pgedge SCHEMA …');
    END IF;
    -- What pgedge writes must fit in: a varchar may be wider, not narrower. And a type of the same name in another schema is another type.
    SELECT k.*, CASE WHEN k.missing THEN format('table "%s.%s" has no column "%s"', schema, wanted, k.column_name)
                     WHEN k.other THEN format('column "%s" of table "%s.%s" has type %s, not %s', k.column_name, schema, wanted, k.found, k.expected)
                     ELSE format('column "%s" of table "%s.%s" is %s', k.column_name, schema, wanted, CASE WHEN k.generated THEN 'generated' ELSE 'not generated' END) END AS message INTO wrong
    FROM (SELECT c.n, c.column_name, coalesce('varchar(' || l.chars || ')', c.accepted[1]) AS expected, format_type(a.atttypid, a.atttypmod) AS found, a.attgenerated <> '' AS generated,
                 a.attname IS NULL AND c.specified AND c.ddl ~ 'NOT NULL|PRIMARY KEY' AS missing,
                 t.typname <> ALL (c.accepted) OR t.typnamespace <> CASE WHEN t.typname IN ('vector', 'halfvec') THEN vector_schema ELSE 'pg_catalog'::regnamespace END
                 OR t.typname = 'varchar' AND a.atttypmod BETWEEN 0 AND l.chars + 3 AS other,
                 (a.attgenerated <> '') <> (c.ddl ~ 'GENERATED ALWAYS AS [(]') AS other_origin
          FROM pgedge._columns() WITH ORDINALITY c(table_name, column_name, ddl, accepted, specified, n)
          CROSS JOIN LATERAL (SELECT substring(c.ddl FROM '^varchar[(]([0-9]+)[)]')::integer) l(chars)
          LEFT JOIN pg_attribute a ON a.attrelid = relation AND a.attname = c.column_name AND NOT a.attisdropped
          LEFT JOIN pg_type t ON t.oid = a.atttypid
          WHERE c.table_name = wanted) k
    WHERE k.missing OR k.other OR k.other_origin
    ORDER BY k.n LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%', wrong.message
            USING ERRCODE = 'invalid_table_definition',
                  DETAIL = 'A table of that name is there, but it is not the one that pgedge works with.',
                  HINT = 'Rename the table or mend the column, or create the extension in another schema: CREATE EXTENSION pgedge SCHEMA …';
    END IF;
    RETURN relation;
END $$;

CREATE OR REPLACE FUNCTION pgedge._create_tables(alter_existing boolean) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    schema text := quote_ident(pgedge._schema());
    vector_schema text := (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
    messages text := current_setting('client_min_messages');
    kept name[] := '{}';
    relation regclass;
    t name; c record; i record;
BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'cannot create tables in a read-only transaction'
            USING ERRCODE = 'read_only_sql_transaction',
                  HINT = 'Run it in a transaction that may write (SET TRANSACTION READ WRITE), on the primary server.';
    END IF;
    FOREACH t IN ARRAY '{vectors,analytics_results,aggregated_logs,claude_events}'::name[] LOOP
        relation := pgedge._existing_table(t);
        IF relation IS NULL THEN
            EXECUTE format('CREATE TABLE %s.%I (%s)', schema, t,
                (SELECT string_agg(format('%I ', s.column_name) || format(s.ddl, vector_schema), ', ' ORDER BY s.n)
                 FROM pgedge._columns() WITH ORDINALITY s(table_name, column_name, ddl, accepted, specified, n) WHERE s.table_name = t));
            RETURN NEXT format('table %s.%I', schema, t);
        ELSIF NOT alter_existing THEN
            kept := kept || t;
        ELSE
            FOR c IN SELECT s.* FROM pgedge._columns() s WHERE s.table_name = t
                AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = s.column_name AND NOT a.attisdropped)
            LOOP
                EXECUTE format('ALTER TABLE %s.%I ADD COLUMN %I ', schema, t, c.column_name) || format(c.ddl, vector_schema);
                RETURN NEXT format('column %s.%I.%I', schema, t, c.column_name);
            END LOOP;
        END IF;
    END LOOP;
    FOR i IN SELECT * FROM pgedge._indexes() s WHERE s.table_name <> ALL (kept) LOOP
        relation := format('%s.%I', schema, i.table_name)::regclass;
        CONTINUE WHEN pgedge._has_index(relation, i.method, i.columns, i.opclass, i.is_unique, i.predicate IS NOT NULL);
        -- pgvector warns of an IVFFlat index over little data; the specification wants it from the start, and health() says when to rebuild it.
        PERFORM set_config('client_min_messages', 'warning', true);
        EXECUTE format('CREATE %s INDEX %s ON %s ', CASE WHEN i.is_unique THEN 'UNIQUE' ELSE '' END, CASE WHEN to_regclass(schema || '.' || quote_ident(i.index_name)) IS NULL THEN coalesce(quote_ident(i.index_name), '') ELSE '' END, relation)
            || format(i.ddl, vector_schema) || coalesce(' WHERE ' || i.predicate, '');
        PERFORM set_config('client_min_messages', messages, true);
        RETURN NEXT format('index %s on %s (%s)', coalesce(i.index_name, i.method), relation, array_to_string(i.columns, ', '));
    END LOOP;
    FOR i IN SELECT * FROM pgedge._triggers() s WHERE s.table_name <> ALL (kept) LOOP
        relation := format('%s.%I', schema, i.table_name)::regclass;
        CONTINUE WHEN EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = relation AND g.tgname = i.trigger_name);
        EXECUTE format('CREATE TRIGGER %I ', i.trigger_name) || format(i.ddl, relation);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', relation, i.trigger_name);
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION pgedge', i.trigger_name, relation);
        RETURN NEXT format('trigger %I on %s', i.trigger_name, relation);
    END LOOP;
    -- health() must know on how many rows an IVFFlat index was built.
    PERFORM pgedge._observe();
END $$;

COMMENT ON FUNCTION pgedge.create_tables() IS
'Creates whatever of the tables vectors, analytics_results, aggregated_logs and claude_events, of their columns, indexes and triggers is missing in the extension''s schema. Returns a line for each thing created; no row when all was there. Errors: 42P16 a table of that name with other columns, 42809 another relation of that name, 25006 read-only.';

-- health(): what to do about databases that take no connections, and about a slot that has lost WAL.
CREATE OR REPLACE FUNCTION pgedge._health_08_vacuum() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'dead_tuples', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce(string_agg(format('%s: %s dead beside %s live', s.relid::regclass, s.n_dead_tup, s.n_live_tup), '; '), 'no table with more dead rows than autovacuum should leave'),
           string_agg(format('VACUUM ANALYZE %s;', s.relid::regclass), ' ') || ' If they come back, look for a long transaction or raise autovacuum_vacuum_cost_limit.'
    FROM pg_stat_user_tables s WHERE s.n_dead_tup > 10000 AND s.n_dead_tup > 0.4 * s.n_live_tup
    UNION ALL
    SELECT 'statistics', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce(string_agg(format('%s: %s', s.relid::regclass, CASE WHEN coalesce(s.last_analyze, s.last_autoanalyze) IS NULL THEN 'never analyzed'
                ELSE format('%s rows changed since it was analyzed', s.n_mod_since_analyze) END), '; '), 'statistics are current'),
           string_agg(format('ANALYZE %s;', s.relid::regclass), ' ')
    FROM pg_stat_user_tables s WHERE s.n_mod_since_analyze > 10000 AND s.n_mod_since_analyze > 0.3 * s.n_live_tup
    UNION ALL
    SELECT 'transaction_ids', CASE WHEN x.age > 1500000000 THEN 'critical' WHEN x.age > 2 * x.limit THEN 'warning' ELSE 'ok' END,
           format('the oldest transaction id is %s transactions old (database %I), the oldest multixact %s; the server stops at 2 billion', x.xid_age, x.datname, x.mxid_age),
           CASE WHEN x.age > least(2 * x.limit, 1500000000) THEN format('VACUUM (FREEZE); in database %I%s, and end old transactions, prepared transactions and replication slots', x.datname,
                                                     CASE WHEN NOT x.datallowconn THEN format(' (first: ALTER DATABASE %I ALLOW_CONNECTIONS true;)', x.datname) ELSE '' END) END
    FROM (SELECT d.datname, d.datallowconn, age(d.datfrozenxid) AS xid_age, mxid_age(d.datminmxid) AS mxid_age, greatest(age(d.datfrozenxid), mxid_age(d.datminmxid)) AS age,
                 current_setting('autovacuum_freeze_max_age')::bigint AS limit
          FROM pg_database d ORDER BY age DESC LIMIT 1) x
$$;

CREATE OR REPLACE FUNCTION pgedge._health_11_wal() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH place(lsn, max_wal) AS (
        SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, pg_size_bytes(current_setting('max_wal_size'))
    ), slots AS (
        SELECT s.slot_name, s.active, s.wal_status, greatest(pg_wal_lsn_diff(place.lsn, s.restart_lsn), 0) AS held, place.max_wal FROM pg_replication_slots s, place
    ), bad AS (SELECT * FROM slots WHERE held > max_wal OR wal_status IN ('unreserved', 'lost'))
    SELECT 'replication_slots', CASE WHEN bool_or(bad.wal_status = 'lost' OR bad.held > 4 * bad.max_wal) THEN 'critical' WHEN count(bad) > 0 THEN 'warning' ELSE 'ok' END,
           coalesce(string_agg(format('slot %I (%s, %s) ', bad.slot_name, CASE WHEN bad.active THEN 'active' ELSE 'inactive' END, bad.wal_status)
                               || CASE bad.wal_status WHEN 'lost' THEN 'has lost WAL that its consumer needs' ELSE format('holds %s of WAL', pg_size_pretty(bad.held)) END, '; '),
                    format('%s slots, none holds much WAL', (SELECT count(*) FROM slots))),
           string_agg(CASE WHEN bad.wal_status = 'lost' THEN format('SELECT pg_drop_replication_slot(%L); its consumer must begin anew.', bad.slot_name)
                           WHEN bad.active THEN format('The consumer of slot %I falls behind.', bad.slot_name)
                           ELSE format('SELECT pg_drop_replication_slot(%L); if nobody needs it.', bad.slot_name) END, ' ')
    FROM bad
    UNION ALL
    SELECT 'wal_archiving',
           CASE WHEN current_setting('archive_mode') = 'off' THEN 'ok' WHEN failing THEN 'critical' ELSE 'ok' END,
           CASE WHEN current_setting('archive_mode') = 'off' THEN 'off: recovery to a point in time is not possible, dumps are the only backup'
                WHEN failing THEN format('%s failed %s, %s failures in all; pg_wal grows until it works again', a.last_failed_wal, date_trunc('second', a.last_failed_time), a.failed_count)
                WHEN a.last_archived_time IS NULL THEN 'on; no segment archived yet'
                ELSE format('%s archived %s', a.last_archived_wal, date_trunc('second', a.last_archived_time)) END,
           CASE WHEN current_setting('archive_mode') <> 'off' AND failing THEN 'The server log has the output of archive_command: see that its target is mounted, writable and not full.' END
    FROM pg_stat_archiver a
    CROSS JOIN LATERAL (SELECT coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false)) f(failing)
$$;
-- Log patterns: intervals are checked, a missing column is named, comments say what NULL does.
CREATE FUNCTION pgedge._log_began(since interval) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF since <= '0'::interval THEN
        RAISE EXCEPTION 'since must be positive: %', since USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the time to look back, e.g. ''1 hour''.';
    END IF;
    RETURN now() - CASE WHEN since IS NOT NULL THEN least(since, '6000 years') END;
END $$;

CREATE OR REPLACE FUNCTION pgedge._log_table()
RETURNS TABLE (id bigint, message_pattern text, level text, source text, first_seen timestamptz, last_seen timestamptz, count bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation text := format('%I.aggregated_logs', pgedge._schema());
    missing text;
BEGIN
    SELECT c INTO missing FROM unnest(ARRAY['id', 'message_pattern', 'level', 'source', 'first_seen', 'last_seen', 'count']) c
    WHERE to_regclass(relation) IS NOT NULL
      AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(relation) AND a.attname = c AND NOT a.attisdropped) LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', missing, relation
            USING ERRCODE = 'undefined_column', HINT = 'Add it with: SELECT pgedge.create_tables();';
    END IF;
    PERFORM pgedge._events_as_owner(relation, false);
    RETURN QUERY EXECUTE format('
        SELECT a.id::bigint, a.message_pattern::text, a.level::text, a.source::text, a.first_seen::timestamptz, a.last_seen::timestamptz, a.count::bigint
        FROM %s a', relation);
END $$;

CREATE OR REPLACE FUNCTION pgedge.log_trends(since interval DEFAULT '24 hours')
RETURNS TABLE (id integer, message_pattern text, level text, source text, hour timestamptz, lines bigint)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1000 SET search_path = pg_catalog, pg_temp
AS $$
    SELECT h.id::integer, h.message_pattern, h.level, h.source, h.hour, h.lines
    FROM pgedge._log_hours_of(date_trunc('hour', pgedge._log_began(since), 'UTC')) h
    ORDER BY h.hour, h.id
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
        SELECT p.*, b.b[1] AS median, b.b[2] AS scale
        FROM patterns p CROSS JOIN LATERAL (SELECT pgedge._log_baseline(p.usual, p.usual_hours)) b(b)
    ), found AS (
        SELECT j.*, 'new' AS what, j.recent AS seen, 0::double precision AS awaited, j.recent::double precision AS deviation
        FROM judged j WHERE j.first_seen >= began
        UNION ALL
        SELECT j.*, 'spike', j.peak, j.median, (j.peak - j.median) / j.scale
        FROM judged j WHERE j.first_seen < began AND j.usual_hours >= 3 AND j.peak >= min_lines AND (j.peak - j.median) / j.scale >= min_score
        UNION ALL
        SELECT j.*, 'silence', 0, j.median * hours, j.median * sqrt(hours) / j.scale
        FROM judged j WHERE j.last_seen < began AND j.usual_hours >= 3 AND j.median > 0 AND j.median * sqrt(hours) / j.scale >= min_score
    )
    SELECT f.id::integer, f.message_pattern, f.level, f.source, f.what, f.seen, f.awaited, f.deviation
    FROM found f ORDER BY f.what, f.deviation DESC, f.id;
END $$;

COMMENT ON FUNCTION pgedge._log_began(interval) IS 'internal: when the time to look back began; 22023 unless it is positive';
COMMENT ON FUNCTION pgedge.log_trends(interval) IS
'Lines by pattern and hour (of UTC) as far back as given; pgedge.log_trend_hours says how long they are kept. Only hours with lines; no rows for NULL. 22023 unless the time is positive.';
COMMENT ON FUNCTION pgedge.log_anomalies(interval, double precision, bigint) IS
'Patterns that behave unusually in the time given: new (first seen in it), spike (an hour of it has at least min_lines lines and exceeds the usual by min_score standard deviations), silence (no line in it where the usual rate makes that as unlikely). observed lines, expected lines, score in standard deviations. Usual is the median of the hours of the week before, at least three; the standard deviation is 1.4826 times the median absolute deviation, at least the square root of the median: a Shewhart control chart for counts with robust estimates. No rows for a NULL time; NULL for the others is their default. 22023 unless the time is positive and min_score a number from zero on.';
COMMENT ON FUNCTION pgedge.prune_logs(interval) IS
'Deletes the rows of aggregated_logs last seen longer ago than given, whoever wrote them, and forgets their shapes, hours and lineage. Returns the number of rows. Waits for, and holds up, writers until its transaction ends. NULL deletes nothing and answers NULL; an interval longer than all of history deletes nothing and answers 0. 22023 for a negative interval.';
COMMENT ON FUNCTION pgedge.aggregate_logs(jsonb) IS
'Adds log lines to aggregated_logs: one row for each pattern, level and source, with count, times, merged metadata and up to five samples. entries is an array of {"message", "level", "source", "metadata", "timestamp"} or {"logs": […]}; only message is required, level is taken from the line when not given, timestamp is now() when not given, further keys are kept as metadata. Returns the rows that got lines, how many, and whether the row is new. Errors change nothing: 22023 wrong JSON, 22001 level or source too long, 22007 bad timestamp, 22003 count overflows, 25006 read-only, 42703 a column is missing. Several calls for different sources in one transaction, and in another the same in the opposite order, may end in 40P01: put all sources of a transaction into one call.';
REVOKE ALL ON FUNCTION pgedge._log_began(interval) FROM PUBLIC;
