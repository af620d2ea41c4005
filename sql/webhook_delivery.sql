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

-- By its signature and not by a call in SQL, which an overload of that name would make ambiguous.
CREATE FUNCTION pgedge._webhook_http_post(url text, body jsonb, params jsonb, headers jsonb, timeout_milliseconds int) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgedge_webhook_http_post';
COMMENT ON FUNCTION pgedge._webhook_http_post(text, jsonb, jsonb, jsonb, int) IS 'internal: calls net.http_post(text, jsonb, jsonb, jsonb, integer), or error 55000 when there is none';

CREATE FUNCTION pgedge._webhook_net_post(url text, body jsonb, headers jsonb, timeout_milliseconds int) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_as_owner('net.http_request_queue', true);
    RETURN pgedge._webhook_http_post(url, body, '{}', headers, timeout_milliseconds);
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

-- The row of _webhook_epoch, made or renewed as needed. Dispatchers share it; alone it is had by one reconciler at a time, NULL for others. NULL also
-- when a transaction that deletes webhooks keeps it.
CREATE FUNCTION pgedge._webhook_current_epoch(transport text, alone boolean) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
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
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
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
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base double precision; cap double precision;
BEGIN
    PERFORM pgedge._events_table(); -- a call into the library, which declares the settings
    base := extract(epoch FROM current_setting('pgedge.retry_base')::interval);
    cap := extract(epoch FROM current_setting('pgedge.retry_cap')::interval);
    RETURN make_interval(secs => least(cap, coalesce(extract(epoch FROM retry_after)::double precision,
                                                     least(cap, base * power(2::double precision, least(greatest(attempts, 1) - 1, 60))) * (0.5 + random() / 2))));
END $$;
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
    busy boolean := false;
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
        IF NOT busy AND epoch IS NULL THEN
            epoch := pgedge._webhook_current_epoch(transport, false);
            busy := epoch IS NULL;
        END IF;
        IF busy THEN
            PERFORM pgedge.release_events(ARRAY[event.id], event.lease_token);
        ELSE
            posted := posted + pgedge._webhook_send(event, epoch, patience);
        END IF;
    END LOOP;
    RETURN posted;
END $$;
COMMENT ON FUNCTION pgedge.dispatch_webhooks(int, int) IS
'Claims up to max_events (1 to 10000) events of the types that enabled webhooks want and hands a request for each webhook to pg_net, which sends them when the transaction commits; returns the number of requests. Takes no more events while max_in_flight requests await their answers, and none, after a second, while another transaction is deleting webhooks. To be called by a scheduler together with reconcile_webhooks(), or by the background worker (pgedge.webhook_database). Errors: 55000 (no pg_net), 42501 (a webhook has headers and PUBLIC may read pg_net''s queue; pg_net''s tables have triggers), 22004, 22003, 25006, and those of claim_events.';

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

CREATE FUNCTION pgedge._webhook_hasten(ids bigint[], due timestamptz[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    UPDATE @extschema@.claude_events e SET run_at = NULL FROM unnest($1, $2) h(id, due)
    WHERE e.id = h.id AND e.status = 'pending' AND e.run_at = h.due;
END $$;
COMMENT ON FUNCTION pgedge._webhook_hasten(bigint[], timestamptz[]) IS 'internal: events that wait for a retry until then need not wait';

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

-- What pg_net says of a request that failed, for everyone who may see deliveries: one line of at most 500 characters, with nothing of the
-- webhook's url but its host, none of its headers' values, and no other address.
CREATE FUNCTION pgedge._webhook_problem(error_msg text, headers jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said text := regexp_replace(error_msg, '[[:cntrl:][:space:]]+', ' ', 'g');
    header text;
BEGIN
    IF length(said) > 4000 THEN RETURN format('pg_net gave an error of %s characters', length(error_msg)); END IF;
    FOR header IN SELECT h.value FROM jsonb_each_text(headers) h WHERE length(h.value) > 3 ORDER BY length(h.value) DESC LOOP
        said := replace(said, regexp_replace(header, '[[:cntrl:][:space:]]+', ' ', 'g'), '…');
    END LOOP;
    said := regexp_replace(said, '([A-Za-z][A-Za-z0-9+.-]*://)[^[:space:]]*', '\1…', 'g');
    said := regexp_replace(said, '[^[:space:]/@]+@', '…@', 'g');
    RETURN left(btrim(said), 500);
END $$;
COMMENT ON FUNCTION pgedge._webhook_problem(text, jsonb) IS 'internal: pg_net''s error, fit for last_error';

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
                    w.max_attempts, w.timeout, w.headers, a.id IS NOT NULL AS answered, a.status_code, a.error_msg, pgedge._webhook_retry_after(a.retry_after) AS retry_after
             FROM pgedge._webhook_deliveries d JOIN pgedge.webhooks w ON w.id = d.webhook_id
             LEFT JOIN pgedge._webhook_net_answers(asked, since) a ON a.id = d.request_id AND d.epoch = $1
             WHERE d.lease_token IS NOT NULL AND d.state = 'sent' ORDER BY d.event_id, d.webhook_id LOOP
        IF d.answered THEN
            verdict := pgedge._webhook_verdict(d.status_code);
            problem := CASE WHEN verdict = 'delivered' THEN NULL WHEN d.status_code IS NULL THEN pgedge._webhook_problem(d.error_msg, d.headers) ELSE format('HTTP %s', d.status_code) END;
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

-- Deliveries of webhooks that are gone: requests that wait at pg_net are taken back, and events that nobody else is told of are given back, now and
-- not when their leases end. What was delivered counts as before; what failed does not count any more.
CREATE FUNCTION pgedge._webhook_let_go() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone bigint[] := ARRAY(SELECT DISTINCT d.webhook_id FROM pgedge._webhook_deliveries d WHERE d.live AND NOT EXISTS (SELECT FROM pgedge.webhooks w WHERE w.id = d.webhook_id));
    asked bigint[]; taken bigint[];
    waiting bigint[]; due timestamptz[];
    current text;
    r record;
BEGIN
    IF gone = '{}' THEN RETURN; END IF;
    SELECT array_agg(d.request_id) INTO asked FROM pgedge._webhook_deliveries d JOIN pgedge._webhook_epoch e ON e.epoch = d.epoch
    WHERE d.webhook_id = ANY (gone) AND d.live AND d.state = 'sent';
    IF asked IS NOT NULL THEN
        BEGIN
            current := pgedge._webhook_transport();
            IF EXISTS (SELECT FROM pgedge._webhook_epoch e WHERE e.transport = current) THEN
                SELECT array_agg(t.id) INTO taken FROM pgedge._webhook_net_take_back(asked) t WHERE t.taken;
            END IF;
        EXCEPTION WHEN object_not_in_prerequisite_state OR object_in_use OR insufficient_privilege THEN
            RAISE WARNING 'requests of deleted webhooks stay at pg_net: %', SQLERRM;
        END;
    END IF;
    FOR r IN SELECT d.lease_token, array_agg(DISTINCT d.event_id) AS ids FROM pgedge._webhook_deliveries d
             WHERE d.webhook_id = ANY (gone) AND d.live AND d.lease_token IS NOT NULL
               AND NOT EXISTS (SELECT FROM pgedge._webhook_deliveries o WHERE o.event_id = d.event_id AND o.lease_token IS NOT NULL AND (o.webhook_id <> ALL (gone) OR o.state = 'delivered'))
             GROUP BY 1 ORDER BY 1 LOOP
        PERFORM pgedge.release_events(r.ids, r.lease_token);
    END LOOP;
    -- What waited for a retry that only these were to have.
    SELECT array_agg(x.event_id), array_agg(x.due) INTO waiting, due FROM (
        SELECT d.event_id, min(d.retry_at) FROM pgedge._webhook_deliveries d
        WHERE d.webhook_id = ANY (gone) AND d.live AND d.lease_token IS NULL AND d.state = 'pending' AND d.retry_at > clock_timestamp()
          AND NOT EXISTS (SELECT FROM pgedge._webhook_deliveries o WHERE o.event_id = d.event_id AND o.live AND o.webhook_id <> ALL (gone) AND o.state = 'pending')
        GROUP BY 1) x(event_id, due);
    IF waiting IS NOT NULL THEN PERFORM pgedge._webhook_hasten(waiting, due); END IF;
    UPDATE pgedge._webhook_deliveries d SET live = d.state = 'delivered', lease_token = CASE WHEN d.state = 'delivered' THEN d.lease_token END, retry_at = NULL,
        finished_at = coalesce(d.finished_at, clock_timestamp()),
        last_error = CASE WHEN d.state NOT IN ('pending', 'sent') THEN d.last_error WHEN d.state = 'pending' OR d.request_id = ANY (taken) THEN 'the webhook is gone'
                          ELSE 'the webhook is gone; the request may have been sent' END,
        state = CASE WHEN d.state IN ('pending', 'sent') THEN 'cancelled' ELSE d.state END
    WHERE d.webhook_id = ANY (gone) AND d.live;
END $$;
COMMENT ON FUNCTION pgedge._webhook_let_go() IS 'internal: ends the deliveries of webhooks that are gone, and gives their events back';

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
        -- A transaction that deletes a webhook may not see what was sent meanwhile.
        IF EXISTS (SELECT FROM pgedge._webhook_deliveries d WHERE d.lease_token IS NOT NULL AND d.state <> 'delivered' AND NOT EXISTS (SELECT FROM pgedge.webhooks w WHERE w.id = d.webhook_id)) THEN
            PERFORM pgedge._webhook_let_go();
        END IF;
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
