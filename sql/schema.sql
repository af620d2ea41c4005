-- The four data tables: what they consist of, and the function that makes whatever of it is missing.
--
-- They hold the user's data and belong to the user: they are created here but are no members of the extension, so that
-- DROP EXTENSION keeps them and pg_dump dumps them whole, with the columns and indexes that users add (see install.sql).
-- Each feature's extra columns stand after the specified ones, nullable or with a default, so that positional inserts work.

-- CREATE EXTENSION puts the schema of the tables, where others may create things, on the search path of its script. An operator of theirs that
-- fits better than PostgreSQL's own, =(name[], name[]) say, would then run as superuser now, and ever after in the functions whose bodies
-- are parsed here. So the rest of the script sees PostgreSQL alone; the path comes back by itself when the script ends.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Functions that compute are for everyone; each feature revokes those that write or reveal.
GRANT USAGE ON SCHEMA pgedge TO PUBLIC;

CREATE FUNCTION pgedge._schema() RETURNS name
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
        WHERE e.extname OPERATOR(pg_catalog.=) 'pgedge');
COMMENT ON FUNCTION pgedge._schema() IS 'internal: the schema of the data tables, which is the one the extension was created in';

-- `ddl` is what CREATE TABLE or ADD COLUMN says, %1$s standing for the quoted schema of pgvector; `accepted` the types that an existing
-- column may have (an id widened to bigint and a varchar widened to text are the user's right).
CREATE FUNCTION pgedge._columns() RETURNS TABLE (table_name name, column_name name, ddl text, accepted text[], specified boolean)
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
    -- The place of a ready event: the lane is its priority, within 1 to 10, while it is pending and neither delayed nor bound to an
    -- ordering key; within a lane it stands by the transaction that put it there. Plain clients' rows get both too.
    ('claude_events', 'qx',                  'xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()', '{xid8}', false),
    ('claude_events', 'lane',                'smallint GENERATED ALWAYS AS (CASE WHEN status = ''pending'' AND run_at IS NULL AND ordering_key IS NULL THEN LEAST(GREATEST(COALESCE(priority, 5), 1), 10)::smallint END) STORED', '{int2}', false);
END;
COMMENT ON FUNCTION pgedge._columns() IS 'internal: the columns of the data tables, the specified ones first';

-- An index is there when one of the same method over the same columns and operator classes is there, whatever its name.
-- A NULL name leaves the choice to PostgreSQL, as the specification does; a partial index has a predicate.
CREATE FUNCTION pgedge._indexes() RETURNS TABLE (table_name name, index_name name, method name, columns name[], opclass name, ddl text, is_unique boolean, predicate text)
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
COMMENT ON FUNCTION pgedge._indexes() IS 'internal: the indexes of the data tables';

CREATE FUNCTION pgedge._has_index(relation regclass, method name, columns name[], opclass name, is_unique boolean DEFAULT false, is_partial boolean DEFAULT false) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
    SELECT FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_am am ON am.oid = c.relam
    WHERE i.indrelid = relation AND am.amname = method AND (i.indpred IS NOT NULL) = is_partial AND i.indisvalid AND (i.indisunique OR NOT is_unique)
      AND columns = (SELECT pg_catalog.array_agg(a.attname ORDER BY k.n)
                     FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum)
      AND (opclass IS NULL OR opclass = (SELECT o.opcname FROM pg_catalog.pg_opclass o WHERE o.oid = i.indclass[0])));
COMMENT ON FUNCTION pgedge._has_index(regclass, name, name[], name, boolean, boolean) IS 'internal: whether a relation has a valid index of this kind';

-- `ddl` follows CREATE TRIGGER name, %1$s standing for the table. A trigger fires on replicas too (ENABLE ALWAYS), and depends on the
-- extension without being a member of it, so that DROP EXTENSION takes it along and leaves the table.
CREATE FUNCTION pgedge._triggers() RETURNS TABLE (table_name name, trigger_name name, ddl text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
    ('claude_events'::name, 'pgedge_events_wake'::name, 'AFTER INSERT ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION pgedge._events_wake()'),
    -- The conditions are false for what a consumer does, which so pays for no call.
    ('claude_events', 'pgedge_events_place', 'AFTER INSERT ON %1$s FOR EACH ROW WHEN (NEW.qx IS DISTINCT FROM pg_catalog.pg_current_xact_id()) EXECUTE FUNCTION pgedge._events_place()'),
    ('claude_events', 'pgedge_events_requeue', 'BEFORE UPDATE ON %1$s FOR EACH ROW WHEN (NEW.status = ''pending'') EXECUTE FUNCTION pgedge._events_requeue()'),
    ('claude_events', 'pgedge_events_next', 'AFTER UPDATE ON %1$s FOR EACH ROW WHEN (OLD.ordering_key IS NOT NULL AND (OLD.status = ''pending'' OR OLD.status = ''processing'') AND NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION pgedge._events_wake()'),
    ('claude_events', 'pgedge_events_deleted', 'AFTER DELETE ON %1$s FOR EACH ROW WHEN ((OLD.status = ''pending'' OR OLD.status = ''processing'')) EXECUTE FUNCTION pgedge._events_deleted()'),
    ('claude_events', 'pgedge_events_truncated', 'AFTER TRUNCATE ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION pgedge._events_truncated()');
END;
COMMENT ON FUNCTION pgedge._triggers() IS 'internal: the triggers of the data tables';

-- Refuses a relation that cannot be the table it is named for; NULL when there is none of that name.
CREATE FUNCTION pgedge._existing_table(wanted name) RETURNS regclass
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
COMMENT ON FUNCTION pgedge._existing_table(name) IS 'internal: a data table that is already there, or an error when it is another table';

-- Functions name the tables with their schema, as it was called when the extension was created. After ALTER SCHEMA … RENAME they are made anew;
-- owners and rights stay.
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

CREATE FUNCTION pgedge._create_tables(alter_existing boolean) RETURNS SETOF text
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
COMMENT ON FUNCTION pgedge._create_tables(boolean) IS 'internal: creates missing tables; alters existing ones only when told to';

CREATE FUNCTION pgedge.create_tables() RETURNS SETOF text
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS 'SELECT pgedge._create_tables(true)';
COMMENT ON FUNCTION pgedge.create_tables() IS
'Creates whatever of the tables vectors, analytics_results, aggregated_logs and claude_events, of their columns, indexes and triggers is missing in the extension''s schema; and makes the functions follow when that schema was renamed. Returns a line for each thing created; no row when all was there. Errors: 42P16 a table of that name with other columns, 42809 another relation of that name, 25006 read-only.';

REVOKE ALL ON FUNCTION pgedge.create_tables(), pgedge._create_tables(boolean) FROM PUBLIC;
