-- From 0.4.0 to 0.5.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- The event queue ------------------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pgedge._triggers() RETURNS TABLE (table_name name, trigger_name name, ddl text)
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

-- The triggers of a table that has the queue's; one that never got them is left to create_tables().
DO $$
DECLARE
    t regclass := to_regclass(format('%I.claude_events', pgedge._schema()));
    i record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t AND g.tgname = 'pgedge_events_requeue') THEN RETURN; END IF;
    FOR i IN SELECT * FROM pgedge._triggers() x WHERE x.trigger_name IN ('pgedge_events_next', 'pgedge_events_deleted') LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', i.trigger_name, t);
        EXECUTE format('CREATE TRIGGER %I ', i.trigger_name) || format(i.ddl, t);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t, i.trigger_name);
        EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION pgedge', i.trigger_name, t);
    END LOOP;
END $$;

COMMENT ON FUNCTION pgedge._events_wake() IS 'internal: trigger on claude_events: consumers are to be woken when the transaction commits (see src/events/wake.rs)';

COMMENT ON FUNCTION pgedge._events_deleted() IS 'internal: trigger on claude_events; ends the lease of a deleted event when the transaction commits, and wakes who waits for the next of its key';

CREATE OR REPLACE FUNCTION pgedge.purge_events(older_than interval DEFAULT NULL, include_dead boolean DEFAULT false, max_events int DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    purged bigint;
    age interval;
BEGIN
    PERFORM pgedge._events_table(); -- a call into the library, which declares the setting
    age := coalesce($1, nullif(current_setting('pgedge.event_retention'), '-1')::interval);
    IF age IS NULL OR $2 IS NULL THEN
        PERFORM pgedge._events_reject(CASE WHEN age IS NULL THEN 'older_than must not be null while pgedge.event_retention is not set' ELSE 'include_dead must not be null' END,
            CASE WHEN age IS NULL THEN 'Say how old a finished event must be to be deleted, e.g. ''7 days'', or set pgedge.event_retention.' ELSE 'Give true or false.' END, '22004');
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
           instant::timestamp - min(e.created_at) FILTER (WHERE e.status = 'pending' AND l.id IS NULL AND coalesce(e.run_at <= instant, true) AND isfinite(e.created_at)),
           min(e.run_at) FILTER (WHERE e.status = 'pending' AND l.id IS NULL AND e.run_at > instant AND isfinite(e.run_at))
    FROM @extschema@.claude_events e LEFT JOIN unnest(ids, ends) l(id, ends) ON l.id = e.id
    WHERE e.status IN ('pending', 'processing', 'dead') GROUP BY 1;
END $$;
-- Lines without a time of their own have that of the call to the second.
COMMENT ON FUNCTION pgedge.aggregate_logs(jsonb) IS
'Adds log lines to aggregated_logs: one row for each pattern, level and source, with count, times, merged metadata and up to five samples. entries is an array of {"message", "level", "source", "metadata", "timestamp"} or {"logs": […]}; only message is required, level is taken from the line when not given, timestamp is now() to the second when not given, further keys are kept as metadata. Returns the rows that got lines, how many, and whether the row is new. Errors change nothing: 22023 wrong JSON, 22001 level or source too long, 22007 bad timestamp, 22003 count overflows, 25006 read-only, 42703 a column is missing. Several calls for different sources in one transaction, and in another the same in the opposite order, may end in 40P01: put all sources of a transaction into one call.';
