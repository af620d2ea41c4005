-- From 0.2.0 to 0.3.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

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

CREATE OR REPLACE FUNCTION pgedge._service_kinds() RETURNS TABLE (kind text, table_name name, privileges text, functions name[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
    ('embeddings', 'vectors'::name,        'INSERT, SELECT',         '{}'::name[]),
    ('vectors', 'vectors',                 'INSERT, SELECT',         '{}'),
    ('analytics', 'analytics_results',     'INSERT, SELECT',         '{}'),
    ('analytics_results', 'analytics_results', 'INSERT, SELECT',     '{}'),
    ('log_writer', 'aggregated_logs',      'INSERT, SELECT, UPDATE', '{aggregate_logs,match_log,log_anomalies}'),
    ('aggregated_logs', 'aggregated_logs', 'INSERT, SELECT, UPDATE', '{aggregate_logs,match_log,log_anomalies}'),
    ('event_producer', 'claude_events',    'INSERT, SELECT',         '{enqueue_event,enqueue_events}'),
    ('event_consumer', 'claude_events',    'SELECT, UPDATE',         '{claim_events,wait_for_events,extend_lease,complete_events,fail_events,release_events}'),
    ('event_admin', 'claude_events',       'SELECT, UPDATE, DELETE', '{cancel_events,redrive_events,purge_events}'),
    ('claude_events', 'claude_events',     'INSERT, SELECT, UPDATE', '{enqueue_event,enqueue_events,claim_events,wait_for_events,extend_lease,complete_events,fail_events,release_events}');
END;

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
