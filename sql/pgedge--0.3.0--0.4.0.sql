-- From 0.3.0 to 0.4.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- The event queue and webhooks -----------------------------------------------------------------------------------------------------------

-- A delivery outlives its webhook.
ALTER TABLE pgedge._webhook_deliveries DROP CONSTRAINT _webhook_deliveries_webhook_id_fkey;
COMMENT ON VIEW pgedge.webhook_deliveries IS
'Each message to each webhook, without secrets: pending (to be sent, not before next_attempt_at), sent (at pg_net), delivered, failed (given up; other webhooks are still tried), dead (given up, and so is the event: redrive_events() sends it again), cancelled (the event or the webhook no longer wants it, or is gone). message_id is the request''s webhook-id and Idempotency-Key, the same in every attempt. purge_webhook_deliveries() deletes what is finished.';

CREATE FUNCTION pgedge._events_check_may_write() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        PERFORM pgedge._events_reject('cannot change the event queue in a read-only transaction',
            'Run it in a transaction that may write (SET TRANSACTION READ WRITE), on the primary server.', '25006');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_may_write() IS 'internal: error 25006 on a standby and in read-only transactions';

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

CREATE OR REPLACE FUNCTION pgedge.pause_events(event_type text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_check_new($1, 5, interval '0', 1);
    PERFORM pgedge._events_check_may_write();
    INSERT INTO pgedge.event_limits (event_type, paused) VALUES ($1, true) ON CONFLICT (event_type) DO UPDATE SET paused = true;
END $$;
COMMENT ON FUNCTION pgedge.pause_events(text) IS
'No event of this type is handed out until resume_events(); those that are leased may be finished. Errors: 22004, 22023, 22001 (bad type), 54000 (64 other types have limits), 25006.';

CREATE OR REPLACE FUNCTION pgedge.resume_events(event_type text) RETURNS boolean
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

CREATE FUNCTION pgedge._webhook_reject(problem text, hint text, code text DEFAULT '22023') RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgedge_webhook_reject';
COMMENT ON FUNCTION pgedge._webhook_reject(text, text, text) IS 'internal: raises an error, and keeps the statement, which may hold secrets, out of the server''s log';

-- Scheme, host and port of what looks like an address; of anything else, and where there is an @, at most the scheme.
CREATE FUNCTION pgedge._webhook_shown(url text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN left(coalesce(CASE WHEN strpos(url, '@') = 0 THEN substring(url FROM '^[Hh][Tt][Tt][Pp][Ss]?://(?:[0-9A-Za-z._-]*|\[[0-9A-Fa-f:.]*\])(?::[0-9]{1,10}(?=[/?#]|$))?') END,
                     substring(url FROM '^[A-Za-z][A-Za-z0-9+.-]{0,20}(?=:)') || ':', ''), 100) || '…';
COMMENT ON FUNCTION pgedge._webhook_shown(text) IS 'internal: what a message may show of an address';

CREATE OR REPLACE FUNCTION pgedge._webhook_check_url(url text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown text := pgedge._webhook_shown(url);
    port text := substring(lower(url) FROM '^https?://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+):([0-9]+)(?:[/?#]|$)');
BEGIN
    IF url IS NULL THEN
        PERFORM pgedge._webhook_reject('url must not be null', 'Give the address that requests go to, e.g. ''https://example.com/hook''.', '22004');
    ELSIF url !~* '^https?://' THEN
        PERFORM pgedge._webhook_reject(format('url is neither http nor https: "%s"', shown), 'Give an absolute address, e.g. ''https://example.com/hook''.');
    ELSIF url ~* '^https?://[^/?#]*@' THEN
        PERFORM pgedge._webhook_reject('url contains a user name', 'Use a header: {"Authorization": "Basic …"}.');
    ELSIF length(port) > 5 OR port::int NOT BETWEEN 1 AND 65535 THEN
        PERFORM pgedge._webhook_reject(format('url has an impossible port: "%s"', shown), 'A port is a number from 1 to 65535; without one it is 80 (http) or 443 (https).');
    ELSIF url !~* '^https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?([/?#]|$)' OR url ~ '[^\x21-\x7e]' THEN
        PERFORM pgedge._webhook_reject(format('url is not well formed: "%s"', shown), 'Give host and path in ASCII, other characters percent-encoded (host names as xn--…), without spaces.');
    ELSIF length(url) > 2000 THEN
        PERFORM pgedge._webhook_reject(format('url is too long (%s characters): "%s"', length(url), shown), 'An address has at most 2000 characters.', '22001');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._webhook_check_url(text) IS 'internal: refuses an address that cannot be posted to';

CREATE OR REPLACE FUNCTION pgedge._webhook_check_headers(headers jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    h record;
    hint text := 'Give an object of names and strings, e.g. {"Authorization": "Bearer …"}.';
    taken text[] := '{}';
    total bigint := 0;
BEGIN
    IF headers IS NULL THEN
        PERFORM pgedge._webhook_reject('headers must not be null', 'Leave them out, or give {}.', '22004');
    ELSIF jsonb_typeof(headers) <> 'object' THEN
        PERFORM pgedge._webhook_reject(format('headers must be a JSON object, not %s', jsonb_typeof(headers)), hint);
    END IF;
    FOR h IN SELECT e.key AS name, jsonb_typeof(e.value) AS kind, e.value #>> '{}' AS value FROM jsonb_each(headers) e LOOP
        IF h.name !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]{1,200}$' THEN
            PERFORM pgedge._webhook_reject(format('header has an impossible name: "%s"', left(h.name, 60)), 'A name consists of letters, digits and hyphens.');
        ELSIF h.kind <> 'string' THEN
            PERFORM pgedge._webhook_reject(format('header "%s" must be a string, not %s', h.name, h.kind), hint);
        ELSIF h.value ~ '[\x01-\x08\x0a-\x1f\x7f]' OR btrim(h.value, E' \t') = '' OR length(h.value) > 8000 THEN
            PERFORM pgedge._webhook_reject(format('header "%s" has an impossible value', h.name), 'A value is one line without control characters, not empty, of at most 8000 characters.');
        ELSIF lower(h.name) IN ('content-type', 'content-length', 'transfer-encoding', 'host', 'connection', 'expect', 'user-agent', 'idempotency-key',
                                'webhook-id', 'webhook-timestamp', 'webhook-signature', 'x-pgedge-event-type', 'x-pgedge-event-id') THEN
            PERFORM pgedge._webhook_reject(format('header "%s" is set by pgedge or pg_net', h.name), 'Leave it out.');
        ELSIF lower(h.name) = ANY (taken) THEN
            PERFORM pgedge._webhook_reject(format('header "%s" is given twice', h.name), 'The case of names does not matter: give one of them.');
        END IF;
        taken := taken || lower(h.name);
        total := total + octet_length(h.name) + octet_length(h.value);
    END LOOP;
    -- Few servers take more, and many less: 8 or 16 kB are usual, the request's own headers included.
    IF total > 15000 THEN
        PERFORM pgedge._webhook_reject(format('headers are too long (%s bytes)', total), 'Names and values have at most 15000 bytes together; many servers take only half of that.', '22001');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._webhook_check_headers(jsonb) IS 'internal: refuses headers that would break the request';

CREATE OR REPLACE FUNCTION pgedge._webhook_check() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    IF NEW.event_types IS NOT NULL THEN
        IF array_ndims(NEW.event_types) IS DISTINCT FROM 1 THEN
            PERFORM pgedge._webhook_reject(format('event_types must be a list with one type or more: %s', left(NEW.event_types::text, 60)), 'Name the types, or give NULL for every type.');
        ELSIF array_position(NEW.event_types, NULL) IS NOT NULL THEN
            PERFORM pgedge._webhook_reject('event_types must not contain nulls', 'Name the types, or give NULL instead of the list for every type.', '22004');
        END IF;
        SELECT t INTO wrong FROM unnest(NEW.event_types) t WHERE btrim(t) = '' OR length(t) > 50 LIMIT 1;
        IF FOUND THEN
            PERFORM pgedge._webhook_reject(format('no event can have the type "%s"', left(wrong, 60)), 'An event type has 1 to 50 characters.');
        END IF;
    END IF;
    -- What an earlier version let in stays as long as it is not touched.
    IF TG_OP = 'INSERT' OR NEW.url IS DISTINCT FROM OLD.url THEN PERFORM pgedge._webhook_check_url(NEW.url); END IF;
    IF TG_OP = 'INSERT' OR NEW.headers IS DISTINCT FROM OLD.headers THEN PERFORM pgedge._webhook_check_headers(NEW.headers); END IF;
    IF NEW.secret IS NOT NULL AND (NEW.secret = '' OR EXISTS (SELECT FROM pgedge._webhook_keys(NEW.secret) k WHERE k IS NULL)) THEN
        PERFORM pgedge._webhook_reject('secret is not usable as a key',
            'Leave it out to have one generated, or give ''whsec_'' and the base64 of 24 to 64 bytes, or text of 24 to 1000 bytes; separate several by single spaces. NULL sends unsigned requests.');
    ELSIF cardinality(string_to_array(NEW.secret, ' ')) > 5 THEN
        PERFORM pgedge._webhook_reject('secret has more than 5 keys', 'Remove those that no receiver uses any more.');
    ELSIF NEW.id IS NULL OR NEW.timeout IS NULL OR NEW.max_attempts IS NULL OR NEW.envelope IS NULL OR NEW.enabled IS NULL OR NEW.created_at IS NULL THEN
        -- The constraints of the table say the same, and show the whole row with it.
        PERFORM pgedge._webhook_reject(format('%s must not be null', CASE WHEN NEW.id IS NULL THEN 'id' WHEN NEW.timeout IS NULL THEN 'timeout' WHEN NEW.max_attempts IS NULL THEN 'max_attempts'
            WHEN NEW.envelope IS NULL THEN 'envelope' WHEN NEW.enabled IS NULL THEN 'enabled' ELSE 'created_at' END), 'Leave the column out to get its default.', '22004');
    ELSIF NEW.timeout NOT BETWEEN interval '100 milliseconds' AND interval '10 minutes' THEN
        PERFORM pgedge._webhook_reject(format('timeout "%s" is out of range', NEW.timeout), 'Give a time from 100 milliseconds to 10 minutes.');
    ELSIF NEW.max_attempts NOT BETWEEN 1 AND 1000 THEN
        PERFORM pgedge._webhook_reject(format('max_attempts %s is out of range', NEW.max_attempts), 'Allow 1 to 1000 attempts.', '22003');
    END IF;
    IF NEW.enabled THEN NEW.disabled_reason := NULL; END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgedge._webhook_check() IS 'internal: trigger on webhooks; refuses what cannot be a webhook, before anything could show its row';

-- A webhook that is gone has no more deliveries: see _webhook_let_go(). First what keeps reconcilers away, since those lock deliveries before webhooks.
CREATE FUNCTION pgedge._webhook_going() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM pgedge._webhook_epoch FOR UPDATE;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgedge._webhook_going() IS 'internal: trigger on webhooks; waits for dispatch_webhooks() and reconcile_webhooks()';

CREATE FUNCTION pgedge._webhook_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._webhook_let_go();
    PERFORM pgedge._webhook_settle_all();
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgedge._webhook_gone() IS 'internal: trigger on webhooks; ends the deliveries of those that are gone';

-- By its signature and not by a call in SQL, which an overload of that name would make ambiguous.
CREATE FUNCTION pgedge._webhook_http_post(url text, body jsonb, params jsonb, headers jsonb, timeout_milliseconds int) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgedge_webhook_http_post';
COMMENT ON FUNCTION pgedge._webhook_http_post(text, jsonb, jsonb, jsonb, int) IS 'internal: calls net.http_post(text, jsonb, jsonb, jsonb, integer), or error 55000 when there is none';

CREATE OR REPLACE FUNCTION pgedge._webhook_net_post(url text, body jsonb, headers jsonb, timeout_milliseconds int) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgedge._events_as_owner('net.http_request_queue', true);
    RETURN pgedge._webhook_http_post(url, body, '{}', headers, timeout_milliseconds);
END $$;
COMMENT ON FUNCTION pgedge._webhook_net_post(text, jsonb, jsonb, int) IS 'internal: hands a request to pg_net';

CREATE OR REPLACE FUNCTION pgedge._webhook_backoff(attempts int, retry_after interval) RETURNS interval
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
CREATE OR REPLACE FUNCTION pgedge._webhook_read_answers(epoch uuid, OUT delivered bigint, OUT retried bigint, OUT dead bigint)
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

CREATE OR REPLACE FUNCTION pgedge.reconcile_webhooks() RETURNS TABLE (delivered bigint, retried bigint, dead bigint)
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

CREATE OR REPLACE FUNCTION pgedge._events_check_lease(lease interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF lease IS NULL THEN
        PERFORM pgedge._events_reject('lease must not be null', 'Say for how long the events are yours, e.g. ''5 minutes''.', '22004');
    ELSIF lease <= interval '0' OR lease > interval '366 days' THEN
        PERFORM pgedge._events_reject(format('lease "%s" is out of range', lease), 'Give a lease longer than 0 and of at most a year, e.g. ''5 minutes''.');
    END IF;
END $$;
COMMENT ON FUNCTION pgedge._events_check_lease(interval) IS 'internal: refuses an impossible lease';

CREATE OR REPLACE FUNCTION pgedge._events_retain(seconds bigint, first_page bigint, pages bigint) RETURNS bigint
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

CREATE OR REPLACE FUNCTION pgedge._event_limits_changed() RETURNS trigger
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
           min(e.run_at) FILTER (WHERE e.status = 'pending' AND l.id IS NULL AND e.run_at > instant)
    FROM @extschema@.claude_events e LEFT JOIN unnest(ids, ends) l(id, ends) ON l.id = e.id
    WHERE e.status IN ('pending', 'processing', 'dead') GROUP BY 1;
END $$;
COMMENT ON FUNCTION pgedge._queue_stats() IS 'internal: what the view queue_stats shows (a function, since a view would depend on the table)';

CREATE OR REPLACE FUNCTION pgedge._webhook_current_epoch(transport text, alone boolean) RETURNS uuid
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

CREATE OR REPLACE FUNCTION pgedge.dispatch_webhooks(max_events int DEFAULT 100, max_in_flight int DEFAULT 1000) RETURNS bigint
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

CREATE FUNCTION pgedge._webhook_hasten(ids bigint[], due timestamptz[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM pgedge._events_as_owner('@extschema@.claude_events', true);
    UPDATE @extschema@.claude_events e SET run_at = NULL FROM unnest($1, $2) h(id, due)
    WHERE e.id = h.id AND e.status = 'pending' AND e.run_at = h.due;
END $$;
COMMENT ON FUNCTION pgedge._webhook_hasten(bigint[], timestamptz[]) IS 'internal: events that wait for a retry until then need not wait';

CREATE TRIGGER going BEFORE DELETE OR UPDATE OF id OR TRUNCATE ON pgedge.webhooks FOR EACH STATEMENT EXECUTE FUNCTION pgedge._webhook_going();
ALTER TABLE pgedge.webhooks ENABLE ALWAYS TRIGGER going;
CREATE TRIGGER gone AFTER DELETE OR UPDATE OF id OR TRUNCATE ON pgedge.webhooks FOR EACH STATEMENT EXECUTE FUNCTION pgedge._webhook_gone();
ALTER TABLE pgedge.webhooks ENABLE ALWAYS TRIGGER gone;

REVOKE ALL ON FUNCTION pgedge._events_check_may_write(), pgedge._webhook_reject(text, text, text), pgedge._webhook_shown(text), pgedge._webhook_going(), pgedge._webhook_gone(), pgedge._webhook_http_post(text, jsonb, jsonb, jsonb, int), pgedge._webhook_problem(text, jsonb), pgedge._webhook_let_go(), pgedge._webhook_hasten(bigint[], timestamptz[]) FROM PUBLIC;
-- End of the event queue and webhooks

-- ── similarity ──

CREATE OR REPLACE FUNCTION pgedge._health_06_toast() RETURNS SETOF pgedge._health_line
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- When the heap has fewer bytes a row than a vector takes, the vectors cannot be in it.
    SELECT 'toasted_vectors', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
           coalesce(pgedge._listed(array_agg(format('%s.%I: %s bytes a row in the table, but %s a vector: most vectors are out of line, and each distance fetches them', relation, attname, per_row, vector_bytes)
                                             ORDER BY relation::text, attname), '; '), 'vectors stand in their rows'),
           pgedge._listed(array_agg(format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE MAIN; VACUUM FULL %s; (locks the table)', relation, attname, relation) ORDER BY relation::text, attname), ' ')
    FROM (SELECT c.oid::regclass AS relation, a.attname, pg_relation_size(c.oid) / c.reltuples::bigint AS per_row,
                 8 + a.atttypmod * CASE t.typname WHEN 'vector' THEN 4 ELSE 2 END AS vector_bytes
          FROM pg_attribute a
          JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'm') AND c.reltuples >= 1000 AND c.reltoastrelid <> 0
          JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
          WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypmod > 0) s
    WHERE per_row < vector_bytes AND vector_bytes < 8000
$$;
-- Log patterns: secrets
COMMENT ON FUNCTION pgedge.log_parameters(text, text) IS 'What the placeholders of a pattern stand for in a line, in order, *** for each secret; NULL when the line is not one of that pattern.';
