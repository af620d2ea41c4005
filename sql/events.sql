-- The event queue over claude_events.
--
-- What an event's row says: pending (waiting; run_at not NULL: not before then), processing (leased), processed, dead, cancelled.
-- A lease is (id, lease_token, lease_expires_at) in the row itself, so it survives every crash. Whoever holds the token may complete, fail,
-- extend or release; once the lease has expired anyone may claim the event, which changes the token. No janitor takes part.
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

CREATE FUNCTION pgedge._events_check_lease(lease interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF lease IS NULL THEN
        PERFORM pgedge._events_reject('lease must not be null', 'Say for how long the events are yours, e.g. ''5 minutes''.', '22004');
    ELSIF lease <= interval '0' OR lease > interval '1 year' THEN
        PERFORM pgedge._events_reject(format('lease "%s" is out of range', lease), 'Give a lease longer than 0 and of at most a year, e.g. ''5 minutes''.');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_lease(interval) IS 'internal: refuses an impossible lease';

CREATE FUNCTION pgedge._events_check_ids(ids bigint[], lease_token bigint DEFAULT 0) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF ids IS NULL OR array_position(ids, NULL) IS NOT NULL THEN
        PERFORM pgedge._events_reject(CASE WHEN ids IS NULL THEN 'ids must not be null' ELSE format('ids must not contain nulls: %s', left(ids::text, 100)) END,
            'Pass the ids that claim_events returned; an empty array is fine.', '22004');
    ELSIF lease_token IS NULL THEN
        PERFORM pgedge._events_reject('lease_token must not be null', 'Pass the lease_token that claim_events returned.', '22004');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_ids(bigint[], bigint) IS 'internal: refuses nulls among ids';

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
'Adds an event and returns its id; it can be claimed once this transaction commits and the delay has passed. Priority 1 is the most urgent, 10 the least. With a dedup_key there is at most one unfinished event of that type and key: a second call returns the first''s id and changes nothing. Events of one ordering_key, whatever their type, are handed out one at a time, in order of their ids. Errors: 22004 (null), 22023, 22001 (type too long), 22003 (priority, attempts), 25006 (read-only).';

CREATE FUNCTION pgedge.enqueue_events(event_type text, payloads jsonb[], priority int DEFAULT 5, delay interval DEFAULT '0', max_attempts int DEFAULT 5,
                                      dedup_keys text[] DEFAULT NULL, ordering_keys text[] DEFAULT NULL) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    due timestamptz;
    ids bigint[]; open_ids bigint[];
    id_sequence regclass;
BEGIN
    PERFORM pgedge._events_check_new($1, $3, $4, $5);
    IF $2 IS NULL OR array_position($2, NULL) IS NOT NULL THEN
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
            WITH added AS (
                INSERT INTO @extschema@.claude_events (id, event_type, payload, priority, run_at, max_attempts, dedup_key, ordering_key)
                OVERRIDING SYSTEM VALUE
                SELECT ids[p.n], $1, p.payload, $3, due, $5, p.dedup_key, p.ordering_key
                FROM ROWS FROM (unnest($2), unnest($6), unnest($7)) WITH ORDINALITY p(payload, dedup_key, ordering_key, n) ORDER BY p.dedup_key, p.n
                ON CONFLICT (event_type, dedup_key) WHERE dedup_key IS NOT NULL AND status IN ('pending', 'processing') DO NOTHING
                RETURNING id::bigint, dedup_key
            )
            SELECT array_agg(CASE WHEN p.dedup_key IS NULL THEN ids[p.n] ELSE (SELECT a.id FROM added a WHERE a.dedup_key = p.dedup_key) END ORDER BY p.n)
            INTO open_ids FROM unnest($6) WITH ORDINALITY p(dedup_key, n);
            -- What was there already, seen by a new snapshot.
            SELECT array_agg(coalesce(open_ids[p.n], (SELECT e.id FROM @extschema@.claude_events e
                    WHERE e.event_type = $1 AND e.dedup_key = p.dedup_key AND e.status IN ('pending', 'processing'))) ORDER BY p.n) INTO open_ids
            FROM unnest($6) WITH ORDINALITY p(dedup_key, n);
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
'Adds one event for each payload in one statement and returns their ids in the same order; no row for an empty array. dedup_keys and ordering_keys have an element for each payload (NULL: none) and work as in enqueue_event. Errors: those of enqueue_event, and 2202E when the arrays differ in length.';

-- Claim ---------------------------------------------------------------------------------------------------------------------------------

-- The settings on the function keep its plans on the indexes whatever the statistics say: a queue's are always stale.
CREATE FUNCTION pgedge.claim_events(max_events int DEFAULT 1, lease interval DEFAULT '5 minutes', event_types text[] DEFAULT NULL, worker text DEFAULT NULL)
RETURNS TABLE (id bigint, event_type text, payload jsonb, priority int, attempt int, lease_token bigint, lease_expires_at timestamptz, created_at timestamp)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    instant timestamptz := clock_timestamp();
    -- 48 random bits: no token comes twice, not even after a crash or a restore, and JavaScript's numbers can hold it.
    token bigint := ('x' || right(gen_random_uuid()::text, 12))::bit(48)::bigint;
    fixed_snapshot boolean := current_setting('transaction_isolation') IN ('repeatable read', 'serializable');
    want int := $1; got int; seen int; window_size int; keys int := 0;
    candidates bigint[]; picked bigint[]; set_aside bigint[] := '{}';
    keyed record;
BEGIN
    IF $1 IS NULL OR $1 NOT BETWEEN 1 AND 10000 THEN
        PERFORM pgedge._events_reject(format('max_events %s is out of range', coalesce($1::text, 'NULL')), 'Claim 1 to 10000 events at a time.',
            CASE WHEN $1 IS NULL THEN '22004' ELSE '22003' END);
    END IF;
    PERFORM pgedge._events_check_lease($2);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    IF cardinality($3) = 0 THEN RETURN; END IF;

    -- An event whose last attempt ran out of its lease is dead: it may be what kills its workers.
    WITH spent AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e
        WHERE e.status = 'processing' AND e.lease_expires_at <= instant AND e.attempts >= coalesce(e.max_attempts, 5)
        ORDER BY e.lease_expires_at LIMIT 100 FOR UPDATE SKIP LOCKED)
    UPDATE @extschema@.claude_events e
    SET status = 'dead', last_error = format('lease expired at %s in attempt %s of %s, worker %s', e.lease_expires_at, e.attempts, coalesce(e.max_attempts, 5), coalesce(e.claimed_by, 'unnamed')),
        lease_token = NULL, lease_expires_at = NULL
    FROM spent WHERE e.id = spent.id;

    window_size := 2 * want + 50;
    LOOP
        -- The first events in order, not locked yet: ready ones, delayed ones that are due, and those whose lease has expired.
        SELECT count(*), array_agg(c.id ORDER BY c.rank, c.id) FILTER (WHERE c.ordering_key IS NULL OR NOT EXISTS (
                SELECT FROM @extschema@.claude_events o
                WHERE o.ordering_key = c.ordering_key AND o.status IN ('pending', 'processing')
                  AND (o.id < c.id OR o.id > c.id AND o.status = 'processing' AND coalesce(o.lease_expires_at > instant, true))))
        INTO seen, candidates
        FROM (SELECT * FROM (
            (SELECT e.id, e.ordering_key, e.lane AS rank FROM @extschema@.claude_events e
             WHERE e.lane IS NOT NULL AND ($3 IS NULL OR e.event_type = ANY ($3)) AND e.id <> ALL (set_aside)
             ORDER BY e.lane, e.id LIMIT window_size)
            UNION ALL
            (SELECT e.id, e.ordering_key, least(greatest(coalesce(e.priority, 5), 1), 10) FROM @extschema@.claude_events e
             WHERE e.status = 'pending' AND e.run_at <= instant AND ($3 IS NULL OR e.event_type = ANY ($3)) AND e.id <> ALL (set_aside)
             ORDER BY 3, 1 LIMIT window_size)
            UNION ALL
            (SELECT e.id, e.ordering_key, least(greatest(coalesce(e.priority, 5), 1), 10) FROM @extschema@.claude_events e
             WHERE e.status = 'processing' AND e.lease_expires_at <= instant AND e.attempts < coalesce(e.max_attempts, 5)
               AND ($3 IS NULL OR e.event_type = ANY ($3)) AND e.id <> ALL (set_aside)
             ORDER BY 3, 1 LIMIT window_size)) u ORDER BY u.rank, u.id LIMIT window_size) c;

        picked := ARRAY(
            SELECT e.id FROM unnest(candidates) WITH ORDINALITY c(id, n) JOIN @extschema@.claude_events e ON e.id = c.id
            WHERE e.status = 'pending' AND (e.run_at IS NULL OR e.run_at <= instant)
               OR e.status = 'processing' AND e.lease_expires_at <= instant AND e.attempts < coalesce(e.max_attempts, 5)
            ORDER BY c.n LIMIT want FOR UPDATE OF e SKIP LOCKED);

        -- Two claims may hold different events of one key, when an earlier one was committed late. So a key has a lock of its own, and
        -- what stands under it is looked at again afterwards. At most 100 keys a claim: each takes a place in the lock table.
        FOR keyed IN SELECT e.id, e.ordering_key FROM @extschema@.claude_events e WHERE e.id = ANY (picked) AND e.ordering_key IS NOT NULL ORDER BY e.id LOOP
            keys := keys + 1;
            IF keys > 100 OR NOT pg_try_advisory_xact_lock(hashtextextended(keyed.ordering_key, 1936682341)) THEN
                picked := array_remove(picked, keyed.id);
                set_aside := set_aside || keyed.id;
            ELSIF fixed_snapshot THEN
                -- There is no looking again with a fixed snapshot; locking what it shows fails (40001) when any of it has changed.
                PERFORM FROM @extschema@.claude_events e WHERE e.ordering_key = keyed.ordering_key AND e.status IN ('pending', 'processing') FOR UPDATE SKIP LOCKED;
            END IF;
        END LOOP;

        RETURN QUERY
        WITH claimed AS (
            UPDATE @extschema@.claude_events e
            SET status = 'processing', run_at = NULL, attempts = e.attempts + 1, lease_token = token, lease_expires_at = clock_timestamp() + $2,
                claimed_by = $4, claimed_at = instant
            WHERE e.id = ANY (picked)
              AND (e.ordering_key IS NULL OR NOT EXISTS (
                SELECT FROM @extschema@.claude_events o
                WHERE o.ordering_key = e.ordering_key AND o.status IN ('pending', 'processing')
                  AND (o.id < e.id OR o.id > e.id AND o.status = 'processing' AND coalesce(o.lease_expires_at > instant, true))))
            RETURNING e.*)
        SELECT e.id::bigint, e.event_type::text, e.payload, e.priority::int, e.attempts, e.lease_token, e.lease_expires_at, e.created_at
        FROM claimed e ORDER BY least(greatest(coalesce(e.priority, 5), 1), 10), e.id;
        GET DIAGNOSTICS got = ROW_COUNT;
        want := want - got;
        -- Fewer than wanted, because others hold them or their keys: look further, unless all were seen.
        EXIT WHEN want = 0 OR seen < window_size;
        set_aside := set_aside || picked;
        window_size := least(window_size::bigint * 4, 2000000000);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge.claim_events(int, interval, text[], text) IS
'Leases up to max_events (1 to 10000) events to the caller until lease_expires_at, the most urgent first, then the oldest; only those of event_types when given. Never waits for other claims. An event whose lease expired is claimed again, under another token; after its last attempt it becomes dead. worker is recorded. Events of one ordering_key come one at a time. Errors: 22004, 22003, 22023 (bad arguments), 25006 (read-only), 40001 under REPEATABLE READ when others claimed the same.';

-- What the holder of a lease may do -----------------------------------------------------------------------------------------------------
-- Each locks its rows in order of id first, so that callers with overlapping ids cannot deadlock.

CREATE FUNCTION pgedge.extend_lease(ids bigint[], lease_token bigint, lease interval) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    key text;
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    PERFORM pgedge._events_check_lease($3);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    -- A claim of an ordering key looks whether its leases have expired: they must not come to life again meanwhile.
    FOR key IN SELECT e.ordering_key FROM @extschema@.claude_events e
        WHERE e.id = ANY ($1) AND e.lease_token = $2 AND e.ordering_key IS NOT NULL ORDER BY hashtextextended(e.ordering_key, 1936682341)
    LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended(key, 1936682341));
    END LOOP;
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e
        WHERE e.id = ANY ($1) AND e.lease_token = $2 AND e.status = 'processing' AND e.lease_expires_at > clock_timestamp() ORDER BY e.id FOR UPDATE)
    UPDATE @extschema@.claude_events e SET lease_expires_at = clock_timestamp() + $3 FROM held WHERE e.id = held.id RETURNING e.id::bigint;
END $$;
COMMENT ON FUNCTION pgedge.extend_lease(bigint[], bigint, interval) IS
'Lets the leases of these events end at now + lease; returns the ids really extended. A lease that has expired, or a stale token, extends nothing. Errors: 22004, 22023 (lease not positive), 25006.';

CREATE FUNCTION pgedge.complete_events(ids bigint[], lease_token bigint) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e
        WHERE e.id = ANY ($1) AND e.lease_token = $2 AND e.status = 'processing' ORDER BY e.id FOR UPDATE)
    UPDATE @extschema@.claude_events e SET status = 'processed', processed_at = now(), lease_token = NULL, lease_expires_at = NULL
    FROM held WHERE e.id = held.id RETURNING e.id::bigint;
END $$;
COMMENT ON FUNCTION pgedge.complete_events(bigint[], bigint) IS
'Marks leased events processed; returns the ids really completed. A stale token, an event cancelled, deleted or marked by someone else completes nothing and returns no row. A lease that expired still completes as long as nobody has claimed the event since. Errors: 22004, 25006.';

CREATE FUNCTION pgedge.fail_events(ids bigint[], lease_token bigint, error text DEFAULT NULL, retry_after interval DEFAULT NULL) RETURNS TABLE (id bigint, status text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    base double precision; cap double precision;
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    IF $4 NOT BETWEEN interval '0' AND interval '100 years' THEN
        PERFORM pgedge._events_reject(format('retry_after "%s" is out of range', $4), 'Give a delay from 0 to 100 years, or NULL for exponential backoff.');
    END IF;
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    base := extract(epoch FROM current_setting('pgedge.retry_base')::interval);
    cap := extract(epoch FROM current_setting('pgedge.retry_cap')::interval);
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e
        WHERE e.id = ANY ($1) AND e.lease_token = $2 AND e.status = 'processing' ORDER BY e.id FOR UPDATE)
    UPDATE @extschema@.claude_events e
    SET status = CASE WHEN e.attempts >= coalesce(e.max_attempts, 5) THEN 'dead' ELSE 'pending' END,
        run_at = CASE WHEN e.attempts < coalesce(e.max_attempts, 5) THEN clock_timestamp() + coalesce($4,
            make_interval(secs => least(cap, base * power(2::double precision, least(e.attempts - 1, 60))) * (0.5 + random() / 2))) END,
        last_error = left(coalesce($3, e.last_error), 10000), lease_token = NULL, lease_expires_at = NULL
    FROM held WHERE e.id = held.id RETURNING e.id::bigint, e.status::text;
END $$;
COMMENT ON FUNCTION pgedge.fail_events(bigint[], bigint, text, interval) IS
'Gives leased events back after a failed attempt, with the error (its first 10,000 characters are kept). They are tried again after retry_after or, when that is NULL, after pgedge.retry_base * 2^(attempt - 1), at most pgedge.retry_cap, less a random part of up to half; after max_attempts they are dead. Returns the ids really failed and their new status; none for a stale token. Errors: 22004, 22023, 25006.';

CREATE FUNCTION pgedge.release_events(ids bigint[], lease_token bigint) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_ids($1, $2);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e
        WHERE e.id = ANY ($1) AND e.lease_token = $2 AND e.status = 'processing' ORDER BY e.id FOR UPDATE)
    UPDATE @extschema@.claude_events e SET status = 'pending', run_at = NULL, attempts = e.attempts - 1, lease_token = NULL, lease_expires_at = NULL
    FROM held WHERE e.id = held.id RETURNING e.id::bigint;
    IF FOUND AND current_setting('pgedge.notify')::boolean THEN PERFORM pg_notify('pgedge_events', ''); END IF;
END $$;
COMMENT ON FUNCTION pgedge.release_events(bigint[], bigint) IS
'Gives leased events back unused: they can be claimed at once and the attempt does not count. Returns the ids really released; none for a stale token. Errors: 22004, 25006.';

-- What an operator may do ---------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgedge.cancel_events(ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_ids($1);
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    RETURN QUERY
    WITH open AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e WHERE e.id = ANY ($1) AND e.status IN ('pending', 'processing') ORDER BY e.id FOR UPDATE)
    UPDATE @extschema@.claude_events e SET status = 'cancelled', lease_token = NULL, lease_expires_at = NULL
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
            UPDATE @extschema@.claude_events e SET status = 'pending', run_at = NULL, attempts = 0 FROM dead WHERE e.id = dead.id;
            GET DIAGNOSTICS revived = ROW_COUNT;
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            IF try = 10 THEN RAISE; END IF;
        END;
    END LOOP;
    IF revived > 0 AND current_setting('pgedge.notify')::boolean THEN PERFORM pg_notify('pgedge_events', ''); END IF;
    RETURN revived;
END $$;
COMMENT ON FUNCTION pgedge.redrive_events(text, int) IS
'Makes dead events, oldest first, pending again with all their attempts; last_error stays. All types, or one; all events, or max_events. A dead event stays dead while another of its type and dedup_key is unfinished. Returns how many came back. Errors: 22003, 25006.';

CREATE FUNCTION pgedge.purge_events(older_than interval, include_dead boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    purged bigint;
BEGIN
    IF $1 IS NULL OR $2 IS NULL THEN
        PERFORM pgedge._events_reject(CASE WHEN $1 IS NULL THEN 'older_than must not be null' ELSE 'include_dead must not be null' END,
            'Say how old a finished event must be to be deleted, e.g. ''7 days''.', '22004');
    ELSIF $1 NOT BETWEEN interval '0' AND interval '1000 years' THEN
        PERFORM pgedge._events_reject(format('older_than "%s" is out of range', $1), 'Give an age from 0 to 1000 years, e.g. ''7 days''.');
    END IF;
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    WITH old AS MATERIALIZED (
        SELECT e.id FROM @extschema@.claude_events e
        WHERE (e.status IN ('processed', 'cancelled') OR $2 AND e.status = 'dead') AND coalesce(e.processed_at, e.created_at) <= localtimestamp - $1
        FOR UPDATE SKIP LOCKED)
    DELETE FROM @extschema@.claude_events e USING old WHERE e.id = old.id;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END $$;
COMMENT ON FUNCTION pgedge.purge_events(interval, boolean) IS
'Deletes processed events whose processed_at, and cancelled ones whose created_at, is older than this; dead ones only with include_dead. Returns how many. Errors: 22004, 22023, 25006.';

CREATE FUNCTION pgedge._queue_stats()
RETURNS TABLE (event_type text, pending bigint, ready bigint, delayed bigint, processing bigint, expired bigint, dead bigint, oldest_ready_age interval, next_due_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    instant timestamptz := clock_timestamp();
BEGIN
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', false);
    RETURN QUERY
    SELECT e.event_type::text,
           count(*) FILTER (WHERE e.status = 'pending'),
           count(*) FILTER (WHERE e.status = 'pending' AND coalesce(e.run_at <= instant, true)),
           count(*) FILTER (WHERE e.status = 'pending' AND e.run_at > instant),
           count(*) FILTER (WHERE e.status = 'processing' AND coalesce(e.lease_expires_at > instant, true)),
           count(*) FILTER (WHERE e.status = 'processing' AND e.lease_expires_at <= instant),
           count(*) FILTER (WHERE e.status = 'dead'),
           instant::timestamp - min(e.created_at) FILTER (WHERE e.status = 'pending' AND coalesce(e.run_at <= instant, true)),
           min(e.run_at) FILTER (WHERE e.status = 'pending' AND e.run_at > instant)
    FROM @extschema@.claude_events e WHERE e.status IN ('pending', 'processing', 'dead') GROUP BY 1;
END $$;
COMMENT ON FUNCTION pgedge._queue_stats() IS 'internal: what the view queue_stats shows (a function, since a view would depend on the table)';

CREATE VIEW pgedge.queue_stats AS SELECT * FROM pgedge._queue_stats();
COMMENT ON VIEW pgedge.queue_stats IS
'Unfinished and dead events by type. pending = ready + delayed; processing are leased (or marked so by a plain client), expired leases await the next claim; oldest_ready_age is since created_at. Readers need SELECT on it and EXECUTE on pgedge._queue_stats().';

-- Wake-up -------------------------------------------------------------------------------------------------------------------------------

-- One statement, one call; PostgreSQL folds equal notifications of one transaction into one. It never leaves one out on a guess: a consumer
-- that polled before this commit and waits since would sleep on.
CREATE FUNCTION pgedge._events_wake() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The library, which would know the setting, need not be loaded in a plain client's session.
    IF coalesce(lower(current_setting('pgedge.notify', true)), 'on') NOT IN ('off', 'false', 'no', '0') THEN
        PERFORM pg_notify('pgedge_events', '');
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgedge._events_wake() IS 'internal: trigger on claude_events; NOTIFY pgedge_events once a transaction, unless pgedge.notify is off';

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pgedge' AND p.proname ~ '^(_?events_.*|_queue_stats|(enqueue|claim|complete|fail|release|cancel|redrive|purge)_events?|extend_lease)$'
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgedge._events_as_owner(text, boolean) IS 'internal: the calling SECURITY DEFINER function goes on as the owner of a table (42501, 42P01, 25006)';
