-- The event queue over claude_events.
--
-- What an event's row says: pending (waiting; run_at not NULL: not before then), processed, dead, cancelled; processing is a plain
-- client's word. A lease is in shared memory and not in the row, so claiming writes nothing; the view event_leases shows them. Whoever holds
-- the token may complete, fail, extend or release; once the lease has expired anyone may claim the event, under another token. After a crash
-- or a restart nothing is leased: whatever is pending can be claimed, and the tokens from before are stale. No janitor takes part.
--
-- Rights: consumers need EXECUTE on these functions and nothing on the table. They are SECURITY DEFINER and, before they touch the table,
-- go on as the table's owner (pgedge._events_as_owner), so that a trigger that the owner puts there never runs as superuser. The calls of
-- other pgedge functions stand before that step, since the owner need not have rights on them.
-- They are PL/pgSQL and not SQL, since a restore creates the extension before it creates the tables.

-- Checks of arguments -------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge._events_reject(problem text, hint text, code text DEFAULT '22023') RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%', problem USING ERRCODE = code, HINT = hint;
END $$;
COMMENT ON FUNCTION pgedge._events_reject(text, text, text) IS 'internal: raises an error';

CREATE FUNCTION pgedge._events_check_new(event_type text, priority int, delay interval, max_attempts int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF event_type IS NULL OR priority IS NULL OR delay IS NULL OR max_attempts IS NULL THEN
        PERFORM pgedge._events_reject(format('%s must not be null', CASE WHEN event_type IS NULL THEN 'event_type' WHEN priority IS NULL THEN 'priority'
            WHEN delay IS NULL THEN 'delay' ELSE 'max_attempts' END), 'Leave the argument out to get its default; event_type has none.', '22004');
    ELSIF btrim(event_type) = '' THEN
        PERFORM pgedge._events_reject(format('event_type must not be empty: "%s"', event_type), 'Name the kind of event, e.g. ''embedding.created''.');
    ELSIF length(event_type) > 50 THEN
        PERFORM pgedge._events_reject(format('event_type is too long (%s characters): "%s…"', length(event_type), left(event_type, 60)),
            'An event type has at most 50 characters.', '22001');
    ELSIF priority NOT BETWEEN 1 AND 10 THEN
        PERFORM pgedge._events_reject(format('priority %s is out of range', priority), 'Give a priority from 1, the most urgent, to 10.', '22003');
    ELSIF delay NOT BETWEEN interval '0' AND interval '100 years' THEN
        PERFORM pgedge._events_reject(format('delay "%s" is out of range', delay), 'Give a delay from 0 to 100 years.');
    ELSIF max_attempts < 1 THEN
        PERFORM pgedge._events_reject(format('max_attempts %s is out of range', max_attempts), 'Allow at least one attempt.', '22003');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_new(text, int, interval, int) IS 'internal: refuses what cannot be enqueued';

-- A key stands in an index, whose entries have at most a third of a page; compressed ones may be longer, but nobody should count on that.
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

CREATE FUNCTION pgedge._events_check_lease(lease interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF lease IS NULL THEN
        PERFORM pgedge._events_reject('lease must not be null', 'Say for how long the events are yours, e.g. ''5 minutes''.', '22004');
    ELSIF lease <= interval '0' OR lease > interval '366 days' THEN
        PERFORM pgedge._events_reject(format('lease "%s" is out of range', lease), 'Give a lease longer than 0 and of at most a year, e.g. ''5 minutes''.');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_lease(interval) IS 'internal: refuses an impossible lease';

CREATE FUNCTION pgedge._events_check_ids(ids bigint[], lease_token bigint DEFAULT 0) RETURNS void
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
COMMENT ON FUNCTION pgedge._events_check_ids(bigint[], bigint) IS 'internal: refuses nulls among ids';

CREATE FUNCTION pgedge._events_check_may_write() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        PERFORM pgedge._events_reject('cannot change the event queue in a read-only transaction',
            'Run it in a transaction that may write (SET TRANSACTION READ WRITE), on the primary server.', '25006');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_may_write() IS 'internal: error 25006 on a standby and in read-only transactions';

CREATE FUNCTION pgedge._events_key_is_lost(event_type text, dedup_key text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_reject(format('an event of type "%s" and dedup_key "%s" can neither be added nor found', event_type, left(dedup_key, 60)),
        'A trigger on claude_events changes its event_type or dedup_key, or drops the row: see to the triggers.', '27000');
END $$;
COMMENT ON FUNCTION pgedge._events_key_is_lost(text, text) IS 'internal: refuses to go on looking for an event that triggers put elsewhere';

-- Enqueue -------------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge.enqueue_event(event_type text, payload jsonb, priority int DEFAULT 5, delay interval DEFAULT '0', max_attempts int DEFAULT 5,
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
COMMENT ON FUNCTION pgedge.enqueue_event(text, jsonb, int, interval, int, text, text) IS
'Adds an event and returns its id; it can be claimed once this transaction commits and the delay has passed. Priority 1 is the most urgent, 10 the least. With a dedup_key there is at most one unfinished event of that type and key: a second call returns the first''s id and changes nothing. Events of one ordering_key, whatever their type, are handed out one at a time, in order of their ids. Keys have at most 2000 bytes. Errors: 22004 (null), 22023, 22001 (type or key too long), 22003 (priority, attempts), 25006 (read-only), 27000 (a trigger changes the dedup_key).';

CREATE FUNCTION pgedge.enqueue_events(event_type text, payloads jsonb[], priority int DEFAULT 5, delay interval DEFAULT '0', max_attempts int DEFAULT 5,
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
COMMENT ON FUNCTION pgedge.enqueue_events(text, jsonb[], int, interval, int, text[], text[]) IS
'Adds one event for each payload in one statement and returns their ids in the same order; no row for an empty array. dedup_keys and ordering_keys have an element for each payload (NULL: none) and work as in enqueue_event. Errors: those of enqueue_event, and 2202E when the arrays differ in length or are not one-dimensional.';

-- Per event: the last 20 failed attempts, the latest last. A plain function of jsonb, so it may be called with the owner's rights.
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

-- Claim ---------------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge.claim_events(max_events int DEFAULT 1, lease interval DEFAULT '5 minutes', event_types text[] DEFAULT NULL, worker text DEFAULT NULL)
RETURNS TABLE (id bigint, event_type text, payload jsonb, priority int, attempt int, lease_token bigint, lease_expires_at timestamptz, created_at timestamp)
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000 ROWS 10 AS 'MODULE_PATHNAME', 'pgedge_claim_events';
COMMENT ON FUNCTION pgedge.claim_events(int, interval, text[], text) IS
'Leases up to max_events (1 to 10000) events to the caller until lease_expires_at, the most urgent first, then the oldest; only those of event_types when given. Never waits for other claims, and writes nothing. If the transaction is rolled back, the events are claimable again at once. An event whose lease expired is claimed again, under another token; after its last attempt it becomes dead. worker is remembered (40 bytes). Events of one ordering_key come one at a time. Errors: 22004, 22003, 22023 (bad arguments), 25006 (read-only), 42703 (create_tables() was never run), 53400 (pgedge.max_leases in use).';

CREATE VIEW pgedge.event_leases AS SELECT * FROM pgedge._event_leases();
COMMENT ON VIEW pgedge.event_leases IS
'Who holds which event, of this database, until when; leases that have expired and were not claimed since included. Readers need SELECT on it and EXECUTE on pgedge._event_leases().';

CREATE FUNCTION pgedge.wait_for_events(timeout interval DEFAULT '30 seconds', event_types text[] DEFAULT NULL) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'SELECT pgedge._wait_for_events($1, $2)';
COMMENT ON FUNCTION pgedge.wait_for_events(interval, text[]) IS
'Waits until an event (of these types) can be claimed, at most for timeout (positive, up to a year), and says whether there is one; for clients that cannot LISTEN. It claims nothing: another consumer may be faster. The session''s snapshot stays open while it waits, so wait for seconds rather than hours. Errors: 22004, 22023, 25006.';

-- What the holder of a lease may do -----------------------------------------------------------------------------------------------------
-- The ids come back from _events_hold in ascending order and are updated in that order, so that callers with overlapping ids cannot deadlock.
-- The settings keep the plans on the primary key whatever the statistics say: a queue's are always stale.

CREATE FUNCTION pgedge.extend_lease(ids bigint[], lease_token bigint, lease interval) RETURNS SETOF bigint
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

CREATE FUNCTION pgedge.complete_events(ids bigint[], lease_token bigint) RETURNS SETOF bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pgedge_complete_events';
COMMENT ON FUNCTION pgedge.complete_events(bigint[], bigint) IS
'Marks leased events processed, with attempts, claimed_by and claimed_at of the lease; returns the ids really completed. A stale token, an event cancelled, deleted or marked by someone else completes nothing and returns no row. A lease that expired still completes as long as nobody has claimed the event since. If the transaction is rolled back, the lease is as it was. Errors: 22004, 25006.';

CREATE FUNCTION pgedge.fail_events(ids bigint[], lease_token bigint, error text DEFAULT NULL, retry_after interval DEFAULT NULL) RETURNS TABLE (id bigint, status text)
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
COMMENT ON FUNCTION pgedge.fail_events(bigint[], bigint, text, interval) IS
'Gives leased events back after a failed attempt, with the error (its first 10,000 characters are kept). They are tried again after retry_after or, when that is NULL, after pgedge.retry_base * 2^(attempt - 1), at most pgedge.retry_cap, less a random part of up to half; after max_attempts they are dead. Returns the ids really failed and their new status; none for a stale token. Errors: 22004, 22023, 25006.';

CREATE FUNCTION pgedge.release_events(ids bigint[], lease_token bigint) RETURNS SETOF bigint
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

-- What an operator may do ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge.cancel_events(ids bigint[]) RETURNS SETOF bigint
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
COMMENT ON FUNCTION pgedge.cancel_events(bigint[]) IS
'Cancels events that are not finished, leased ones too (their holder then completes nothing). Returns the ids really cancelled. Errors: 22004, 25006.';

CREATE FUNCTION pgedge.redrive_events(event_type text DEFAULT NULL, max_events int DEFAULT NULL) RETURNS bigint
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
COMMENT ON FUNCTION pgedge.redrive_events(text, int) IS
'Makes dead events, oldest first, pending again with all their attempts; last_error stays. All types, or one; all events, or max_events. A dead event stays dead while another of its type and dedup_key is unfinished. Returns how many came back. Errors: 22003, 25006.';

CREATE FUNCTION pgedge.purge_events(older_than interval DEFAULT NULL, include_dead boolean DEFAULT false, max_events int DEFAULT NULL) RETURNS bigint
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
COMMENT ON FUNCTION pgedge.purge_events(interval, boolean, int) IS
'Deletes processed events whose processed_at, and cancelled ones whose created_at, is older than older_than (default: pgedge.event_retention); dead ones only with include_dead; at most max_events of them. Returns how many. Claims are never blocked by it. Errors: 22004, 22003, 22023, 25006.';

-- Among the rows on some pages of the table. What goes wrong there, such as a foreign key that refers to an event, must not keep anyone from
-- completing events: so locks are not waited for, and nothing is deleted where that could fail, or change other rows, only at commit.
CREATE FUNCTION pgedge._events_retain(seconds bigint, first_page bigint, pages bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET lock_timeout = '10ms' AS $$
DECLARE
    purged bigint;
    held_up text;
BEGIN
    SELECT string_agg(x.what, ', ' ORDER BY x.what) INTO held_up FROM (
        SELECT format('foreign key %I of %s', c.conname, c.conrelid::regclass) FROM pg_constraint c
        WHERE c.confrelid = '@extschema@.claude_events'::regclass AND c.contype = 'f' AND (c.condeferrable OR c.confdeltype NOT IN ('a', 'r'))
        UNION SELECT format('trigger %I', t.tgname) FROM pg_trigger t
        WHERE t.tgrelid = '@extschema@.claude_events'::regclass AND NOT t.tgisinternal AND t.tgdeferrable AND t.tgtype & 8 <> 0 AND t.tgenabled <> 'D') x(what);
    IF held_up IS NOT NULL THEN
        RAISE LOG 'pgedge.event_retention: complete_events() deletes no old events because of %', held_up
            USING HINT = 'They are deferrable, or change other tables: call purge_events() instead.';
        RETURN -2;
    END IF;
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    DELETE FROM ONLY @extschema@.claude_events e USING (
        SELECT o.ctid FROM ONLY @extschema@.claude_events o
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
COMMENT ON FUNCTION pgedge._events_retain(bigint, bigint, bigint) IS 'internal: deletes finished events older than so many seconds on some pages of the table; how many, -1 after a failure, -2 where constraints forbid it';

CREATE FUNCTION pgedge._queue_stats()
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
COMMENT ON FUNCTION pgedge._queue_stats() IS 'internal: what the view queue_stats shows (a function, since a view would depend on the table)';

CREATE VIEW pgedge.queue_stats AS SELECT * FROM pgedge._queue_stats();
COMMENT ON VIEW pgedge.queue_stats IS
'Unfinished and dead events by type. pending = ready + delayed; processing are leased, or marked so by a plain client; expired leases await the next claim; oldest_ready_age is since created_at. Readers need SELECT on it and EXECUTE on pgedge._queue_stats().';

-- What plain clients do ----------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge._events_wake() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'pgedge_events_wake';
COMMENT ON FUNCTION pgedge._events_wake() IS 'internal: trigger on claude_events: consumers are to be woken when the transaction commits (see src/events/wake.rs)';

-- An event that becomes ready, or changes what it is ready for, goes to the end of its new lane: claims do not look behind their cursors.
-- Whoever held it when it was finished, or when it had another id, does not hold it any more; who holds it goes on under its new ordering key.
-- The trigger's own condition is short, since PostgreSQL parses it anew for each statement: it is false for what a consumer does.
CREATE FUNCTION pgedge._events_requeue() RETURNS trigger
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
COMMENT ON FUNCTION pgedge._events_requeue() IS 'internal: trigger on claude_events; the new place of an updated event';

CREATE FUNCTION pgedge._events_deleted() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'pgedge_events_deleted';
COMMENT ON FUNCTION pgedge._events_deleted() IS 'internal: trigger on claude_events; ends the lease of a deleted event when the transaction commits, and wakes who waits for the next of its key';

-- Rows that come with a place of another time or server: data-only restores, logical replication, hand-written COPY.
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

-- Limits --------------------------------------------------------------------------------------------------------------------------------

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
    -- Two that add rows at a time would each not see the other's.
    IF TG_OP = 'INSERT' THEN PERFORM pg_advisory_xact_lock('pgedge.event_limits'::regclass::oid::integer, 0); END IF;
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
    PERFORM pgedge._events_check_may_write();
    INSERT INTO pgedge.event_limits (event_type, paused) VALUES ($1, true) ON CONFLICT (event_type) DO UPDATE SET paused = true;
END $$;
COMMENT ON FUNCTION pgedge.pause_events(text) IS
'No event of this type is handed out until resume_events(); those that are leased may be finished. Errors: 22004, 22023, 22001 (bad type), 54000 (64 other types have limits), 25006.';

CREATE FUNCTION pgedge.resume_events(event_type text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_new($1, 5, interval '0', 1);
    PERFORM pgedge._events_check_may_write();
    UPDATE pgedge.event_limits SET paused = false WHERE event_type = $1 AND paused;
    IF NOT FOUND THEN RETURN false; END IF;
    DELETE FROM pgedge.event_limits WHERE event_type = $1 AND max_concurrent IS NULL AND max_per_second IS NULL AND NOT paused;
    PERFORM pgedge._events_made_ready(pgedge._events_table());
    RETURN true;
END $$;
COMMENT ON FUNCTION pgedge.resume_events(text) IS
'Undoes pause_events(); false when the type was not paused. Its other limits stay; a row of event_limits that limits nothing any more goes. Errors: 22004, 22023, 22001 (bad type), 25006.';

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
COMMENT ON FUNCTION pgedge._events_as_owner(text, boolean) IS 'internal: the calling SECURITY DEFINER function goes on as the owner of a table (42501, 42P01, 25006)';
COMMENT ON FUNCTION pgedge._events_table() IS 'internal: the table claude_events';
COMMENT ON FUNCTION pgedge._events_hold(oid, bigint[], bigint, boolean) IS 'internal: begins to finish, or to give back, what a token holds';
COMMENT ON FUNCTION pgedge._events_extend(oid, bigint[], bigint, interval) IS 'internal: lets leases end later';
COMMENT ON FUNCTION pgedge._events_revoke(oid, bigint[]) IS 'internal: ends leases when the transaction commits';
COMMENT ON FUNCTION pgedge._events_rekey(oid, bigint, text) IS 'internal: a leased event has another ordering key when the transaction commits';
COMMENT ON FUNCTION pgedge._events_empty(oid) IS 'internal: ends all leases when the transaction commits';
COMMENT ON FUNCTION pgedge._events_leases(oid) IS 'internal: the leases in memory';
COMMENT ON FUNCTION pgedge._events_limits_changed(oid) IS 'internal: claims read event_limits anew once the transaction commits';
COMMENT ON FUNCTION pgedge._events_made_ready(oid) IS 'internal: consumers are to be woken when the transaction commits';
COMMENT ON FUNCTION pgedge._wait_for_events(interval, text[]) IS 'internal: wait_for_events()';
