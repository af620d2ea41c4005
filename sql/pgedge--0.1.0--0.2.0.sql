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


COMMENT ON FUNCTION pgedge.create_tables() IS
'Creates whatever of the tables vectors, analytics_results, aggregated_logs and claude_events, of their columns, indexes and triggers is missing in the extension''s schema; and makes the functions follow when that schema was renamed. Returns a line for each thing created; no row when all was there. Errors: 42P16 a table of that name with other columns, 42809 another relation of that name, 25006 read-only.';

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
-- What the data tables consist of.
CREATE OR REPLACE FUNCTION pgedge._columns() RETURNS TABLE (table_name name, column_name name, ddl text, accepted text[], specified boolean)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
    ('vectors'::name, 'id'::name,            'uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid()', '{uuid}'::text[], true),
    ('vectors', 'embedding',                 '%1$s.vector(384) NOT NULL',     '{vector,halfvec}', true),
    ('vectors', 'metadata',                  'jsonb',                         '{jsonb}', true),
    ('vectors', 'content',                   'text',                          '{text}', true),
    ('vectors', 'source',                    'varchar(100)',                  '{varchar,text}', true),
    ('vectors', 'created_at',                'timestamp DEFAULT pg_catalog.now()', '{timestamp}', true),
    ('analytics_results', 'id',              'serial PRIMARY KEY',            '{int4,int8}', true),
    ('analytics_results', 'analysis_type',   'varchar(50) NOT NULL',          '{varchar,text}', true),
    ('analytics_results', 'results',         'jsonb NOT NULL',                '{jsonb}', true),
    ('analytics_results', 'vector_count',    'integer',                       '{int4,int8}', true),
    ('analytics_results', 'created_at',      'timestamp DEFAULT pg_catalog.now()', '{timestamp}', true),
    ('aggregated_logs', 'id',                'serial PRIMARY KEY',            '{int4,int8}', true),
    ('aggregated_logs', 'message_pattern',   'text NOT NULL',                 '{text}', true),
    ('aggregated_logs', 'count',             'integer DEFAULT 1',             '{int4,int8}', true),
    ('aggregated_logs', 'level',             'varchar(10)',                   '{varchar,text}', true),
    ('aggregated_logs', 'source',            'varchar(100)',                  '{varchar,text}', true),
    ('aggregated_logs', 'first_seen',        'timestamp DEFAULT pg_catalog.now()', '{timestamp}', true),
    ('aggregated_logs', 'last_seen',         'timestamp DEFAULT pg_catalog.now()', '{timestamp}', true),
    ('aggregated_logs', 'metadata',          'jsonb',                         '{jsonb}', true),
    ('aggregated_logs', 'sample_messages',   'jsonb',                         '{jsonb}', true),
    ('claude_events', 'id',                  'serial PRIMARY KEY',            '{int4,int8}', true),
    ('claude_events', 'event_type',          'varchar(50) NOT NULL',          '{varchar,text}', true),
    ('claude_events', 'payload',             'jsonb NOT NULL',                '{jsonb}', true),
    ('claude_events', 'priority',            'integer DEFAULT 5',             '{int4,int2,int8}', true),
    ('claude_events', 'status',              'varchar(20) DEFAULT ''pending''', '{varchar,text}', true),
    ('claude_events', 'created_at',          'timestamp DEFAULT pg_catalog.now()', '{timestamp}', true),
    ('claude_events', 'processed_at',        'timestamp',                     '{timestamp}', true),
    ('claude_events', 'run_at',              'timestamptz',                   '{timestamptz}', false),
    ('claude_events', 'attempts',            'integer NOT NULL DEFAULT 0',    '{int4}', false),
    ('claude_events', 'max_attempts',        'integer',                       '{int4}', false),
    ('claude_events', 'dedup_key',           'text',                          '{text}', false),
    ('claude_events', 'ordering_key',        'text',                          '{text}', false),
    ('claude_events', 'claimed_by',          'text',                          '{text}', false),
    ('claude_events', 'claimed_at',          'timestamptz',                   '{timestamptz}', false),
    ('claude_events', 'last_error',          'text',                          '{text}', false),
    ('claude_events', 'history',             'jsonb',                         '{jsonb}', false),
    
    
    ('claude_events', 'qx',                  'xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()', '{xid8}', false),
    ('claude_events', 'lane',                'smallint GENERATED ALWAYS AS (CASE WHEN status = ''pending'' AND run_at IS NULL AND ordering_key IS NULL THEN LEAST(GREATEST(COALESCE(priority, 5), 1), 10)::smallint END) STORED', '{int2}', false);
END;
CREATE OR REPLACE FUNCTION pgedge._indexes() RETURNS TABLE (table_name name, index_name name, method name, columns name[], opclass name, ddl text, is_unique boolean, predicate text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
    ('vectors'::name, NULL::name,            'hnsw'::name, '{embedding}'::name[], 'vector_cosine_ops'::name, 'USING hnsw (embedding %1$s.vector_cosine_ops)', false, NULL),
    ('vectors', NULL,                        'ivfflat', '{embedding}', 'vector_l2_ops', 'USING ivfflat (embedding %1$s.vector_l2_ops) WITH (lists = 100)', false, NULL),
    ('vectors', 'idx_vectors_source',        'btree', '{source}', NULL, '(source)', false, NULL),
    ('vectors', 'idx_vectors_created_at',    'btree', '{created_at}', NULL, '(created_at)', false, NULL),
    ('vectors', 'idx_vectors_metadata',      'gin', '{metadata}', NULL, 'USING gin (metadata)', false, NULL),
    ('analytics_results', 'idx_analytics_type',       'btree', '{analysis_type}', NULL, '(analysis_type)', false, NULL),
    ('analytics_results', 'idx_analytics_created_at', 'btree', '{created_at}', NULL, '(created_at)', false, NULL),
    ('aggregated_logs', 'idx_logs_source',   'btree', '{source}', NULL, '(source)', false, NULL),
    ('aggregated_logs', 'idx_logs_level',    'btree', '{level}', NULL, '(level)', false, NULL),
    ('aggregated_logs', 'idx_logs_last_seen', 'btree', '{last_seen}', NULL, '(last_seen)', false, NULL),
    ('claude_events', 'idx_events_status',   'btree', '{status}', NULL, '(status)', false, NULL),
    ('claude_events', 'idx_events_type',     'btree', '{event_type}', NULL, '(event_type)', false, NULL),
    ('claude_events', 'idx_events_created_at', 'btree', '{created_at}', NULL, '(created_at)', false, NULL),
    ('claude_events', 'idx_events_ready',    'btree', '{lane,qx,id}', NULL, '(lane, qx, id)', false, 'lane IS NOT NULL'),
    ('claude_events', 'idx_events_due',      'btree', '{run_at}', NULL, '(run_at)', false, 'status = ''pending'' AND run_at IS NOT NULL'),
    ('claude_events', 'idx_events_dedup',    'btree', '{event_type,dedup_key}', NULL, '(event_type, dedup_key)', true, 'dedup_key IS NOT NULL AND status IN (''pending'', ''processing'')'),
    ('claude_events', 'idx_events_ordering', 'btree', '{ordering_key,id}', NULL, '(ordering_key, id)', false, 'ordering_key IS NOT NULL AND status IN (''pending'', ''processing'')');
END;
CREATE OR REPLACE FUNCTION pgedge._triggers() RETURNS TABLE (table_name name, trigger_name name, ddl text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
    ('claude_events'::name, 'pgedge_events_wake'::name, 'AFTER INSERT ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION pgedge._events_wake()'),
    
    ('claude_events', 'pgedge_events_place', 'AFTER INSERT ON %1$s FOR EACH ROW WHEN (NEW.qx IS DISTINCT FROM pg_catalog.pg_current_xact_id()) EXECUTE FUNCTION pgedge._events_place()'),
    ('claude_events', 'pgedge_events_requeue', 'BEFORE UPDATE ON %1$s FOR EACH ROW WHEN (NEW.status = ''pending'' AND (OLD.status IS DISTINCT FROM NEW.status OR OLD.priority IS DISTINCT FROM NEW.priority OR OLD.run_at IS DISTINCT FROM NEW.run_at OR OLD.event_type IS DISTINCT FROM NEW.event_type OR OLD.ordering_key IS DISTINCT FROM NEW.ordering_key OR OLD.qx IS DISTINCT FROM NEW.qx)) EXECUTE FUNCTION pgedge._events_requeue()'),
    ('claude_events', 'pgedge_events_truncated', 'AFTER TRUNCATE ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION pgedge._events_truncated()');
END;

-- The functions of the library.
CREATE  FUNCTION pgedge."_events_empty"(
    "relation" oid 
) RETURNS void
STRICT VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'empty_wrapper';
CREATE  FUNCTION pgedge."_events_extend"(
    "relation" oid, 
    "ids" bigint[], 
    "lease_token" bigint, 
    "lease" interval 
) RETURNS bigint[] 
VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'extend_wrapper';
CREATE  FUNCTION pgedge."_events_hold"(
    "relation" oid, 
    "ids" bigint[], 
    "lease_token" bigint, 
    "release" bool 
) RETURNS TABLE (
    "ids" bigint[],  
    "attempts" INT[],  
    "workers" TEXT[],  
    "claimed" timestamp with time zone[]  
)
STRICT VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'hold_wrapper';
CREATE  FUNCTION pgedge."_events_leases"(
    "relation" oid 
) RETURNS TABLE (
    "id" bigint,  
    "worker" TEXT,  
    "attempt" INT,  
    "lease_token" bigint,  
    "claimed_at" timestamp with time zone,  
    "lease_expires_at" timestamp with time zone  
)
STRICT VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'leases_wrapper';
CREATE  FUNCTION pgedge."_events_limits_changed"(
    "relation" oid 
) RETURNS void
STRICT VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'limits_changed_wrapper';
CREATE  FUNCTION pgedge."_events_made_ready"(
    "relation" oid 
) RETURNS void
STRICT VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'made_ready_wrapper';
CREATE  FUNCTION pgedge."_events_revoke"(
    "relation" oid, 
    "ids" bigint[] 
) RETURNS void
STRICT VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'revoke_wrapper';
CREATE  FUNCTION pgedge."_events_table"(

) RETURNS oid 
STRICT STABLE PARALLEL SAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'events_table_wrapper';
CREATE  FUNCTION pgedge."_wait_for_events"(
    "timeout" interval, 
    "event_types" TEXT[] 
) RETURNS bool 
VOLATILE PARALLEL UNSAFE  
LANGUAGE c 
AS 'MODULE_PATHNAME', 'wait_for_events_wrapper';

-- The event queue: leases in memory, limits, pausing, waiting.
DROP FUNCTION pgedge.purge_events(interval, boolean);
CREATE FUNCTION pgedge._follow_schema() RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_called text := quote_ident(pgedge._schema());
    was_called text := (SELECT substring(p.prosrc FROM 'INSERT INTO ("(?:[^"]|"")+"|[^ ".]+)\.claude_events') FROM pg_proc p
                        WHERE p.pronamespace = 'pgedge'::regnamespace AND p.proname = 'enqueue_event');
    tables text := '(vectors|analytics_results|aggregated_logs|claude_events)';
    f record;
BEGIN
    IF was_called = now_called THEN RETURN; END IF;
    IF now_called ~ '[''$\\]' THEN
        RAISE EXCEPTION 'the functions cannot follow to schema %', now_called USING ERRCODE = 'invalid_schema_name', HINT = 'Rename it to something without quotes, dollars and backslashes, as CREATE EXTENSION asks for.';
    END IF;
    FOR f IN SELECT p.oid, p.oid::regprocedure AS name, pg_get_functiondef(p.oid) AS definition FROM pg_proc p
        WHERE p.pronamespace = 'pgedge'::regnamespace AND p.prokind = 'f' AND p.prosqlbody IS NULL AND p.probin IS NULL
          AND strpos(p.prosrc, was_called || '.') > 0 ORDER BY 2
    LOOP
        EXECUTE regexp_replace(f.definition, '(?<![[:alnum:]_".])' || regexp_replace(was_called, '([^[:alnum:]_])', '\\\1', 'g') || '\.' || tables || '\M',
            now_called || '.\1', 'g');
        RETURN NEXT format('function %s, for schema %s', f.name, now_called);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge._follow_schema() IS 'internal: makes functions follow the renaming of the tables'' schema';
REVOKE ALL ON FUNCTION pgedge._follow_schema() FROM PUBLIC;
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
    IF alter_existing THEN
        RETURN QUERY SELECT pgedge._follow_schema();
    END IF;
    -- health() must know on how many rows an IVFFlat index was built.
    PERFORM pgedge._observe();
END $$;
CREATE FUNCTION pgedge._events_check_keys(name text, keys text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    long text;
BEGIN
    IF array_ndims(keys) > 1 THEN
        PERFORM pgedge._events_reject(format('%ss must be one-dimensional', name), 'Give one key for each payload (NULL where it has none), or leave the array out.', '2202E');
    END IF;
    SELECT k INTO long FROM unnest(keys) k WHERE octet_length(k) > 2000 LIMIT 1;
    IF FOUND THEN
        PERFORM pgedge._events_reject(format('%s is too long (%s bytes): "%s…"', name, octet_length(long), left(long, 60)), 'A key has at most 2000 bytes; use a hash of what is longer.', '22001');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_keys(text, text[]) IS 'internal: refuses keys that do not fit into an index';
CREATE OR REPLACE FUNCTION pgedge._events_check_ids(ids bigint[], lease_token bigint DEFAULT 0) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF array_ndims(ids) > 1 THEN
        PERFORM pgedge._events_reject(format('ids must be one-dimensional: %s', left(ids::text, 100)), 'Pass the ids that claim_events returned as one array, e.g. ARRAY[1, 2].', '2202E');
    ELSIF ids IS NULL OR array_position(ids, NULL) IS NOT NULL THEN
        PERFORM pgedge._events_reject(CASE WHEN ids IS NULL THEN 'ids must not be null' ELSE format('ids must not contain nulls: %s', left(ids::text, 100)) END,
            'Pass the ids that claim_events returned; an empty array is fine.', '22004');
    ELSIF lease_token IS NULL THEN
        PERFORM pgedge._events_reject('lease_token must not be null', 'Pass the lease_token that claim_events returned.', '22004');
    END IF;
END $$;
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
    -- The loop ends: each turn either inserts, or finds the unfinished event that was in the way, or that one was finished in between.
    LOOP
        INSERT INTO @extschema@.claude_events (event_type, payload, priority, run_at, max_attempts, dedup_key, ordering_key)
        VALUES ($1, $2, $3, CASE WHEN $4 > '0' THEN clock_timestamp() + $4 END, $5, $6, $7)
        ON CONFLICT (event_type, dedup_key) WHERE dedup_key IS NOT NULL AND status IN ('pending', 'processing') DO NOTHING RETURNING id INTO new_id;
        IF new_id IS NULL THEN
            SELECT e.id INTO new_id FROM @extschema@.claude_events e
            WHERE e.event_type = $1 AND e.dedup_key = $6 AND e.status IN ('pending', 'processing');
        END IF;
        IF new_id IS NOT NULL THEN RETURN new_id; END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge.enqueue_event(text, jsonb, int, interval, int, text, text) IS
'Adds an event and returns its id; it can be claimed once this transaction commits and the delay has passed. Priority 1 is the most urgent, 10 the least. With a dedup_key there is at most one unfinished event of that type and key: a second call returns the first''s id and changes nothing. Events of one ordering_key, whatever their type, are handed out one at a time, in order of their ids. Keys have at most 2000 bytes. Errors: 22004 (null), 22023, 22001 (type or key too long), 22003 (priority, attempts), 25006 (read-only).';
CREATE OR REPLACE FUNCTION pgedge.enqueue_events(event_type text, payloads jsonb[], priority int DEFAULT 5, delay interval DEFAULT '0', max_attempts int DEFAULT 5,
                                      dedup_keys text[] DEFAULT NULL, ordering_keys text[] DEFAULT NULL) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off  AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
    ids bigint[]; open_ids bigint[];
    id_sequence regclass;
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
            RAISE EXCEPTION USING ERRCODE = 'PE001';
        EXCEPTION WHEN SQLSTATE 'PE001' THEN
            NULL;
        END;
    END LOOP;
    RETURN QUERY SELECT unnest(open_ids);
END $$;
COMMENT ON FUNCTION pgedge.enqueue_events(text, jsonb[], int, interval, int, text[], text[]) IS
'Adds one event for each payload in one statement and returns their ids in the same order; no row for an empty array. dedup_keys and ordering_keys have an element for each payload (NULL: none) and work as in enqueue_event. Errors: those of enqueue_event, and 2202E when the arrays differ in length or are not one-dimensional.';
CREATE FUNCTION pgedge._events_history(history jsonb, attempt int, worker text, claimed timestamptz, error text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (SELECT pg_catalog.jsonb_agg(x.item ORDER BY x.n) FROM (
    SELECT i.item, i.n FROM pg_catalog.jsonb_array_elements(coalesce(history, '[]') OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_array(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'attempt', attempt, 'worker', worker, 'claimed_at', claimed, 'failed_at', pg_catalog.clock_timestamp(), 'error', pg_catalog.left(error, 1000)))))
        WITH ORDINALITY i(item, n) ORDER BY i.n DESC LIMIT 20) x);
COMMENT ON FUNCTION pgedge._events_history(jsonb, int, text, timestamptz, text) IS 'internal: the history of an event with one more failed attempt';
CREATE FUNCTION pgedge._event_leases()
RETURNS TABLE (id bigint, worker text, attempt int, lease_token bigint, claimed_at timestamptz, lease_expires_at timestamptz)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT * FROM pgedge._events_leases(pgedge._events_table());
END $$;
COMMENT ON FUNCTION pgedge._event_leases() IS 'internal: what the view event_leases shows';
CREATE OR REPLACE FUNCTION pgedge.claim_events(max_events int DEFAULT 1, lease interval DEFAULT '5 minutes', event_types text[] DEFAULT NULL, worker text DEFAULT NULL)
RETURNS TABLE (id bigint, event_type text, payload jsonb, priority int, attempt int, lease_token bigint, lease_expires_at timestamptz, created_at timestamp)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000 ROWS 10 AS 'MODULE_PATHNAME', 'pgedge_claim_events';
COMMENT ON FUNCTION pgedge.claim_events(int, interval, text[], text) IS
'Leases up to max_events (1 to 10000) events to the caller until lease_expires_at, the most urgent first, then the oldest; only those of event_types when given. Never waits for other claims, and writes nothing. If the transaction is rolled back, the events are claimable again at once. An event whose lease expired is claimed again, under another token; after its last attempt it becomes dead. worker is remembered (40 bytes). Events of one ordering_key come one at a time. Errors: 22004, 22003, 22023 (bad arguments), 25006 (read-only), 42703 (create_tables() was never run), 53400 (pgedge.max_leases in use).';
CREATE VIEW pgedge.event_leases AS SELECT * FROM pgedge._event_leases();
COMMENT ON VIEW pgedge.event_leases IS
'Who holds which event, of this database, until when; leases that have expired and were not claimed since included. Readers need SELECT on it and EXECUTE on pgedge._event_leases().';
CREATE FUNCTION pgedge.wait_for_events(timeout interval DEFAULT '30 seconds', event_types text[] DEFAULT NULL) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS 'SELECT pgedge._wait_for_events($1, $2)';
COMMENT ON FUNCTION pgedge.wait_for_events(interval, text[]) IS
'Waits until an event (of these types) can be claimed, at most for timeout (positive, up to a year), and says whether there is one; for clients that cannot LISTEN. It claims nothing: another consumer may be faster. The session''s snapshot stays open while it waits, so wait for seconds rather than hours. Errors: 22004, 22023, 25006.';
CREATE OR REPLACE FUNCTION pgedge.extend_lease(ids bigint[], lease_token bigint, lease interval) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    extended bigint[];
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    PERFORM pgedge._events_check_lease($3);
    extended := pgedge._events_extend(pgedge._events_table(), $1, $2, $3);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    -- What a plain client has finished meanwhile is nobody's any more.
    RETURN QUERY SELECT e.id::bigint FROM @extschema@.claude_events e WHERE e.id = ANY (extended) AND e.status IS NOT DISTINCT FROM 'pending';
END $$;
COMMENT ON FUNCTION pgedge.extend_lease(bigint[], bigint, interval) IS
'Lets the leases of these events end at now + lease; returns the ids really extended. A lease that has expired, or a stale token, extends nothing. Takes effect at once, and is not undone by a rollback. Errors: 22004, 22023 (lease not positive), 25006.';
CREATE OR REPLACE FUNCTION pgedge.complete_events(ids bigint[], lease_token bigint) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    SELECT * INTO held FROM pgedge._events_hold(pgedge._events_table(), $1, $2, false);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    IF cardinality(held.ids) = 0 THEN RETURN; END IF;
    RETURN QUERY
    UPDATE @extschema@.claude_events e
    SET status = 'processed', processed_at = now(), attempts = h.attempt, claimed_by = h.worker, claimed_at = h.claimed
    FROM unnest(held.ids, held.attempts, held.workers, held.claimed) h(id, attempt, worker, claimed)
    WHERE e.id = h.id AND e.status IS NOT DISTINCT FROM 'pending' RETURNING e.id::bigint;
END $$;
COMMENT ON FUNCTION pgedge.complete_events(bigint[], bigint) IS
'Marks leased events processed, with attempts, claimed_by and claimed_at of the lease; returns the ids really completed. A stale token, an event cancelled, deleted or marked by someone else completes nothing and returns no row. A lease that expired still completes as long as nobody has claimed the event since. If the transaction is rolled back, the lease is as it was. Errors: 22004, 25006.';
CREATE OR REPLACE FUNCTION pgedge.fail_events(ids bigint[], lease_token bigint, error text DEFAULT NULL, retry_after interval DEFAULT NULL) RETURNS TABLE (id bigint, status text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    base double precision; cap double precision;
    held record;
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    IF $4 NOT BETWEEN interval '0' AND interval '100 years' THEN
        PERFORM pgedge._events_reject(format('retry_after "%s" is out of range', $4), 'Give a delay from 0 to 100 years, or NULL for exponential backoff.');
    END IF;
    SELECT * INTO held FROM pgedge._events_hold(pgedge._events_table(), $1, $2, false);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    IF cardinality(held.ids) = 0 THEN RETURN; END IF;
    base := extract(epoch FROM current_setting('pgedge.retry_base')::interval);
    cap := extract(epoch FROM current_setting('pgedge.retry_cap')::interval);
    RETURN QUERY
    UPDATE @extschema@.claude_events e
    SET status = CASE WHEN h.attempt >= coalesce(e.max_attempts, 5) THEN 'dead' ELSE 'pending' END,
        run_at = CASE WHEN h.attempt < coalesce(e.max_attempts, 5) AND $4 IS DISTINCT FROM '0' THEN clock_timestamp() + coalesce($4,
            make_interval(secs => least(cap, base * power(2::double precision, least(h.attempt - 1, 60))) * (0.5 + random() / 2))) END,
        -- Made ready anew even when it need not wait.
        qx = pg_current_xact_id(),
        attempts = h.attempt, claimed_by = h.worker, claimed_at = h.claimed, last_error = left(coalesce($3, e.last_error), 10000),
        history = pgedge._events_history(e.history, h.attempt, h.worker, h.claimed, $3)
    FROM unnest(held.ids, held.attempts, held.workers, held.claimed) h(id, attempt, worker, claimed)
    WHERE e.id = h.id AND e.status IS NOT DISTINCT FROM 'pending' RETURNING e.id::bigint, e.status::text;
END $$;
CREATE OR REPLACE FUNCTION pgedge.release_events(ids bigint[], lease_token bigint) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    SELECT * INTO held FROM pgedge._events_hold(pgedge._events_table(), $1, $2, true);
    PERFORM pgedge._events_made_ready(pgedge._events_table());
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    RETURN QUERY SELECT e.id::bigint FROM @extschema@.claude_events e WHERE e.id = ANY (held.ids) AND e.status IS NOT DISTINCT FROM 'pending';
END $$;
COMMENT ON FUNCTION pgedge.release_events(bigint[], bigint) IS
'Gives leased events back unused: they can be claimed as soon as this transaction commits, and the attempt does not count. Writes nothing. Returns the ids really released; none for a stale token. Errors: 22004, 25006.';
CREATE OR REPLACE FUNCTION pgedge.cancel_events(ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_ids($1);
    PERFORM pgedge._events_revoke(pgedge._events_table(), $1);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    RETURN QUERY
    WITH open AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e WHERE e.id = ANY ($1) AND e.status IN ('pending', 'processing') ORDER BY e.id FOR UPDATE)
    UPDATE @extschema@.claude_events e SET status = 'cancelled'
    FROM open WHERE e.id = open.id RETURNING e.id::bigint;
END $$;
CREATE OR REPLACE FUNCTION pgedge.redrive_events(event_type text DEFAULT NULL, max_events int DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    revived bigint;
BEGIN
    IF $2 < 1 THEN
        PERFORM pgedge._events_reject(format('max_events %s is out of range', $2), 'Give a positive number, or NULL for all.', '22003');
    END IF;
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    -- Of the dead with one dedup_key only the oldest comes back, and none while another is unfinished. One may be enqueued meanwhile: try again then.
    FOR try IN 1..10 LOOP
        BEGIN
            WITH dead AS MATERIALIZED (
                SELECT e.id FROM @extschema@.claude_events e
                WHERE e.status = 'dead' AND ($1 IS NULL OR e.event_type = $1)
                  AND (e.dedup_key IS NULL OR NOT EXISTS (
                    SELECT FROM @extschema@.claude_events o WHERE o.event_type = e.event_type AND o.dedup_key = e.dedup_key
                      AND (o.status IN ('pending', 'processing') OR o.status = 'dead' AND o.id < e.id)))
                ORDER BY e.id LIMIT $2 FOR UPDATE SKIP LOCKED)
            UPDATE @extschema@.claude_events e SET status = 'pending', run_at = NULL, attempts = 0, qx = pg_current_xact_id() FROM dead WHERE e.id = dead.id;
            GET DIAGNOSTICS revived = ROW_COUNT;
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            IF try = 10 THEN RAISE; END IF;
        END;
    END LOOP;
    RETURN revived;
END $$;
CREATE FUNCTION pgedge.purge_events(older_than interval DEFAULT NULL, include_dead boolean DEFAULT false, max_events int DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    purged bigint;
    age interval;
BEGIN
    age := coalesce($1, nullif(current_setting('pgedge.event_retention'), '-1')::interval);
    IF age IS NULL OR $2 IS NULL THEN
        PERFORM pgedge._events_reject(CASE WHEN age IS NULL THEN 'older_than must not be null while pgedge.event_retention is not set' ELSE 'include_dead must not be null' END,
            'Say how old a finished event must be to be deleted, e.g. ''7 days'', or set pgedge.event_retention.', '22004');
    ELSIF age NOT BETWEEN interval '0' AND interval '1000 years' THEN
        PERFORM pgedge._events_reject(format('older_than "%s" is out of range', age), 'Give an age from 0 to 1000 years, e.g. ''7 days''.');
    ELSIF $3 < 1 THEN
        PERFORM pgedge._events_reject(format('max_events %s is out of range', $3), 'Give a positive number, or NULL for all.', '22003');
    END IF;
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    WITH old AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e
        WHERE (e.status IN ('processed', 'cancelled') OR $2 AND e.status = 'dead') AND coalesce(e.processed_at, e.created_at) <= localtimestamp - age
        LIMIT $3 FOR UPDATE SKIP LOCKED)
    DELETE FROM @extschema@.claude_events e USING old WHERE e.id = old.id;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END $$;
COMMENT ON FUNCTION pgedge.purge_events(interval, boolean, int) IS
'Deletes processed events whose processed_at, and cancelled ones whose created_at, is older than older_than (default: pgedge.event_retention); dead ones only with include_dead; at most max_events of them. Returns how many. Claims are never blocked by it. Errors: 22004, 22003, 22023, 25006.';
CREATE OR REPLACE FUNCTION pgedge._queue_stats()
RETURNS TABLE (event_type text, pending bigint, ready bigint, delayed bigint, processing bigint, expired bigint, dead bigint, oldest_ready_age interval, next_due_at timestamptz)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    instant timestamptz := clock_timestamp();
    ids bigint[]; ends timestamptz[];
BEGIN
    IF to_regclass('@extschema@.claude_events') IS NOT NULL THEN
        SELECT array_agg(l.id), array_agg(l.lease_expires_at) INTO ids, ends FROM pgedge._events_leases(pgedge._events_table()) l;
    END IF;
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', false);
    RETURN QUERY
    SELECT e.event_type::text,
           count(*) FILTER (WHERE e.status = 'pending' AND l.id IS NULL),
           count(*) FILTER (WHERE e.status = 'pending' AND l.id IS NULL AND coalesce(e.run_at <= instant, true)),
           count(*) FILTER (WHERE e.status = 'pending' AND l.id IS NULL AND e.run_at > instant),
           count(*) FILTER (WHERE e.status = 'processing' OR e.status = 'pending' AND l.ends > instant),
           count(*) FILTER (WHERE e.status = 'pending' AND l.ends <= instant),
           count(*) FILTER (WHERE e.status = 'dead'),
           instant::timestamp - min(e.created_at) FILTER (WHERE e.status = 'pending' AND l.id IS NULL AND coalesce(e.run_at <= instant, true)),
           min(e.run_at) FILTER (WHERE e.status = 'pending' AND l.id IS NULL AND e.run_at > instant)
    FROM @extschema@.claude_events e LEFT JOIN unnest(ids, ends) l(id, ends) ON l.id = e.id
    WHERE e.status IN ('pending', 'processing', 'dead') GROUP BY 1;
END $$;
COMMENT ON VIEW pgedge.queue_stats IS
'Unfinished and dead events by type. pending = ready + delayed; processing are leased, or marked so by a plain client; expired leases await the next claim; oldest_ready_age is since created_at. Readers need SELECT on it and EXECUTE on pgedge._queue_stats().';
CREATE OR REPLACE FUNCTION pgedge._events_wake() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'pgedge_events_wake';
COMMENT ON FUNCTION pgedge._events_wake() IS 'internal: trigger on claude_events, once a statement: consumers are to be woken when the transaction commits (see src/events/wake.rs)';
CREATE FUNCTION pgedge._events_requeue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.qx := pg_current_xact_id();
    IF OLD.status IS DISTINCT FROM 'pending' THEN
        PERFORM pgedge._events_revoke(TG_RELID, ARRAY[OLD.id::bigint]);
    END IF;
    PERFORM pgedge._events_made_ready(TG_RELID);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgedge._events_requeue() IS 'internal: trigger on claude_events; the new place of an updated event';
CREATE FUNCTION pgedge._events_place() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_as_owner(format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME), true);
    EXECUTE format('UPDATE %I.%I SET qx = pg_current_xact_id() WHERE id = $1', TG_TABLE_SCHEMA, TG_TABLE_NAME) USING NEW.id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgedge._events_place() IS 'internal: trigger on claude_events; a place in this server''s queue for an event from elsewhere';
CREATE FUNCTION pgedge._events_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_empty(TG_RELID);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgedge._events_truncated() IS 'internal: trigger on claude_events; forgets all leases when TRUNCATE commits';
CREATE TABLE pgedge.event_limits (
    event_type text PRIMARY KEY CHECK (length(event_type) BETWEEN 1 AND 50),
    max_concurrent int CHECK (max_concurrent >= 0),
    max_per_second double precision CHECK (max_per_second >= 0 AND max_per_second < 'Infinity'),
    paused boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE pgedge.event_limits IS
'Limits by event type, at most 64 types: max_concurrent leases at a time, max_per_second events handed out (bursts of a second''s worth; at least one event), paused: none. NULL means no limit. Takes effect when the change commits.';
SELECT pg_catalog.pg_extension_config_dump('pgedge.event_limits', '');
CREATE FUNCTION pgedge._event_limits_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT count(*) > 64 FROM pgedge.event_limits) THEN
        PERFORM pgedge._events_reject('too many event types with limits: more than 64', 'Delete rows of pgedge.event_limits that limit nothing.', '54000');
    END IF;
    IF to_regclass('@extschema@.claude_events') IS NOT NULL THEN
        PERFORM pgedge._events_limits_changed(pgedge._events_table());
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgedge._event_limits_changed() IS 'internal: trigger on event_limits';
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgedge.event_limits FOR EACH STATEMENT EXECUTE FUNCTION pgedge._event_limits_changed();
ALTER TABLE pgedge.event_limits ENABLE ALWAYS TRIGGER changed;
CREATE FUNCTION pgedge.pause_events(event_type text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_new($1, 5, interval '0', 1);
    INSERT INTO pgedge.event_limits (event_type, paused) VALUES ($1, true) ON CONFLICT (event_type) DO UPDATE SET paused = true;
END $$;
COMMENT ON FUNCTION pgedge.pause_events(text) IS
'No event of this type is handed out until resume_events(); those that are leased may be finished. Errors: 22004, 22023, 22001 (bad type), 25006.';
CREATE FUNCTION pgedge.resume_events(event_type text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_new($1, 5, interval '0', 1);
    UPDATE pgedge.event_limits SET paused = false WHERE event_type = $1 AND paused;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM pgedge._events_made_ready(pgedge._events_table());
    RETURN true;
END $$;
COMMENT ON FUNCTION pgedge.resume_events(text) IS
'Undoes pause_events(); false when the type was not paused. Its other limits stay. Errors: 22004, 22023, 22001 (bad type), 25006.';
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pgedge' AND p.proname ~ '^(_events?_.*|_queue_stats|_?wait_for_events|(enqueue|claim|complete|fail|release|cancel|redrive|purge|pause|resume)_events?|extend_lease)$'
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION pgedge._events_history(jsonb, int, text, timestamptz, text) TO PUBLIC;
COMMENT ON FUNCTION pgedge._events_table() IS 'internal: the table claude_events';
COMMENT ON FUNCTION pgedge._events_hold(oid, bigint[], bigint, boolean) IS 'internal: begins to finish, or to give back, what a token holds';
COMMENT ON FUNCTION pgedge._events_extend(oid, bigint[], bigint, interval) IS 'internal: lets leases end later';
COMMENT ON FUNCTION pgedge._events_revoke(oid, bigint[]) IS 'internal: ends leases when the transaction commits';
COMMENT ON FUNCTION pgedge._events_empty(oid) IS 'internal: ends all leases when the transaction commits';
COMMENT ON FUNCTION pgedge._events_leases(oid) IS 'internal: the leases in memory';
COMMENT ON FUNCTION pgedge._events_limits_changed(oid) IS 'internal: claims read event_limits anew once the transaction commits';
COMMENT ON FUNCTION pgedge._events_made_ready(oid) IS 'internal: consumers are to be woken when the transaction commits';
COMMENT ON FUNCTION pgedge._wait_for_events(interval, text[]) IS 'internal: wait_for_events()';
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
        format('GRANT EXECUTE ON FUNCTION %s TO %s', pgedge._function_list('{match_log,log_anomalies,_slow_queries,_queue_stats}'), grantee)]
    LOOP
        EXECUTE statement;
        RETURN NEXT statement;
    END LOOP;
END $$;

-- The table: leases leave the rows for memory. Events that were leased wait again, that attempt not counted; tokens from before are stale.
-- A table that never got the queue's columns is left to create_tables(), as before.
DO $$
DECLARE
    role_before text := current_setting('role');
    t regclass;
    column_name name;
    i record;
BEGIN
    t := to_regclass(format('%I.claude_events', pgedge._schema()));
    IF t IS NULL OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t AND a.attname = 'lease_token' AND NOT a.attisdropped) THEN RETURN; END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', t);
    -- As the table's owner, whose triggers these may be.
    PERFORM set_config('role', (SELECT r.rolname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = t), true);
    EXECUTE format('UPDATE %s SET status = ''pending'', run_at = NULL, attempts = greatest(attempts - 1, 0) WHERE status = ''processing'' AND lease_token IS NOT NULL', t);
    PERFORM set_config('role', role_before, true);
    -- These show nothing any more. A view of the user's may need them: then they stay.
    FOREACH column_name IN ARRAY '{lease_token,lease_expires_at}'::name[] LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %s DROP COLUMN IF EXISTS %I', t, column_name);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE NOTICE 'column "%" of % stays, since something depends on it; pgedge does not use it any more', column_name, t;
        END;
    END LOOP;
    EXECUTE format('ALTER TABLE %s DROP COLUMN lane', t);
    FOR i IN SELECT * FROM pgedge._columns() c WHERE c.table_name = 'claude_events'
        AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t AND a.attname = c.column_name AND NOT a.attisdropped)
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I ', t, i.column_name) || i.ddl;
    END LOOP;
    FOR i IN SELECT * FROM pgedge._indexes() x WHERE x.table_name = 'claude_events' LOOP
        CONTINUE WHEN pgedge._has_index(t, i.method, i.columns, i.opclass, i.is_unique, i.predicate IS NOT NULL);
        EXECUTE format('CREATE %s INDEX %s ON %s ', CASE WHEN i.is_unique THEN 'UNIQUE' ELSE '' END,
            CASE WHEN to_regclass(format('%I.%I', pgedge._schema(), i.index_name)) IS NULL THEN quote_ident(i.index_name) ELSE '' END, t)
            || i.ddl || coalesce(' WHERE ' || i.predicate, '');
    END LOOP;
    FOR i IN SELECT * FROM pgedge._triggers() x WHERE x.table_name = 'claude_events' LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t AND g.tgname = i.trigger_name);
        EXECUTE format('CREATE TRIGGER %I ', i.trigger_name) || format(i.ddl, t);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t, i.trigger_name);
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION pgedge', i.trigger_name, t);
    END LOOP;
END $$;
