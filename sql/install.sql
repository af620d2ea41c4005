-- The last step of CREATE EXTENSION: the data tables.
DO $$
DECLARE
    schema name := pgedge._schema();
    made text[]; created text[] := '{}'; kept text[] := '{}';
    t text; object record;
BEGIN
    -- CREATE EXTENSION raises client_min_messages to warning for its script; what becomes of the user's tables is worth a line.
    IF pg_catalog.current_setting('client_min_messages') = 'warning' THEN
        PERFORM pg_catalog.set_config('client_min_messages', 'notice', true);
    END IF;
    -- pg_dump and pg_restore set row_security off before they create the extension, and nothing else does in practice: the dump
    -- itself brings the tables then, so they must not be here first.
    IF pg_catalog.current_setting('row_security')::boolean IS FALSE THEN
        RAISE NOTICE 'pgedge: row_security is off, as in a restore: the tables are left to the dump'
            USING HINT = 'If this is no restore, run: SELECT pgedge.create_tables();';
        RETURN;
    END IF;
    made := ARRAY(SELECT pgedge._create_tables(false));
    FOREACH t IN ARRAY '{vectors,analytics_results,aggregated_logs,claude_events}'::name[] LOOP
        t := pg_catalog.format('%I.%I', schema, t);
        IF 'table ' || t = ANY (made) THEN created := created || t; ELSE kept := kept || t; END IF;
    END LOOP;
    IF created <> '{}' THEN
        RAISE NOTICE 'pgedge: created the tables %', pg_catalog.array_to_string(created, ', ');
    END IF;
    IF kept <> '{}' THEN
        RAISE NOTICE 'pgedge: kept the tables that were there, as they are: %', pg_catalog.array_to_string(kept, ', ')
            USING HINT = 'To add the columns, indexes and triggers that they may lack, run: SELECT pgedge.create_tables();';
    END IF;
    -- What was created in this script became a member of the extension; the user's tables must not be.
    FOR object IN
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, n.nspname, c.relname
        FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgedge'
        JOIN pg_catalog.pg_class c ON c.oid = d.objid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_depend owner ON owner.classid = 'pg_catalog.pg_class'::regclass AND owner.objid = c.oid AND owner.deptype = 'a'
        LEFT JOIN pg_catalog.pg_class o ON o.oid = owner.refobjid
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
          AND c.relnamespace = (SELECT x.oid FROM pg_catalog.pg_namespace x WHERE x.nspname = schema)
          AND coalesce(o.relname, c.relname) IN ('vectors', 'analytics_results', 'aggregated_logs', 'claude_events')
    LOOP
        EXECUTE pg_catalog.format('ALTER EXTENSION pgedge DROP %s %I.%I', object.kind, object.nspname, object.relname);
    END LOOP;
END $$;
