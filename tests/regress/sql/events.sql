\set SHOW_CONTEXT never
-- The event queue, in one session. What several sessions and crashes do is in tests/sessions/test_events_*.py.
CREATE EXTENSION pgedge CASCADE;
TRUNCATE claude_events RESTART IDENTITY;
SET client_min_messages = warning;

-- Enqueue: functions and plain inserts alike.
SELECT pgedge.enqueue_event('mail', '{"to": "a"}');
SELECT pgedge.enqueue_event('mail', '{"to": "b"}', priority => 1);
SELECT pgedge.enqueue_events('bulk', ARRAY['{"n": 1}', '{"n": 2}']::jsonb[], priority => 7);
INSERT INTO claude_events (event_type, payload) VALUES ('plain', '{}');
SELECT pgedge.enqueue_event('later', '{}', delay => '1 day');
SELECT event_type, pending, ready, delayed, processing, expired, dead FROM pgedge.queue_stats ORDER BY 1;

-- Claim: the most urgent first, then the oldest.
SELECT id, event_type, payload, priority, attempt, lease_expires_at > now() + interval '4 minutes' AS leased FROM pgedge.claim_events(3);
SELECT lease_token AS token FROM pgedge.event_leases WHERE id = 2 \gset
SELECT pgedge.extend_lease('{1,2}', :token, '1 hour');
SELECT pgedge.complete_events('{2}', :token);
SELECT pgedge.complete_events('{2}', :token);
SELECT pgedge.complete_events('{1}', :token + 1);
SELECT * FROM pgedge.fail_events('{1}', :token, 'no route', '0');
SELECT pgedge.release_events('{5}', :token);
SELECT id, status, attempts, last_error FROM claude_events ORDER BY id;

-- Types; the attempt of a released event did not count.
SELECT id, event_type, attempt FROM pgedge.claim_events(10, event_types => '{plain,mail}');
SELECT id FROM pgedge.claim_events(10, event_types => '{}');

-- Dead letters.
SELECT pgedge.enqueue_event('once', '{}', max_attempts => 1);
SELECT lease_token AS token, id AS event FROM pgedge.claim_events(1, event_types => '{once}') \gset
SELECT status FROM pgedge.fail_events(ARRAY[:event], :token, 'broken');
SELECT pgedge.redrive_events('once');
SELECT status, attempts, last_error FROM claude_events WHERE event_type = 'once';

-- One unfinished event per dedup_key; one at a time per ordering_key.
SELECT pgedge.enqueue_event('sync', '{}', dedup_key => 'x') = pgedge.enqueue_event('sync', '{}', dedup_key => 'x') AS same;
SELECT count(*), count(DISTINCT n) FROM pgedge.enqueue_events('sync', ARRAY['1', '2', '3']::jsonb[], dedup_keys => '{x,y,y}') n;
SELECT count(*) FROM pgedge.enqueue_events('step', ARRAY['1', '2', '3']::jsonb[], ordering_keys => '{a,a,b}');
SELECT payload FROM pgedge.claim_events(10, event_types => '{step}');
SELECT payload FROM pgedge.claim_events(10, event_types => '{step}');

-- Cancel and purge.
SELECT count(*) FROM pgedge.cancel_events(ARRAY(SELECT id FROM claude_events WHERE event_type = 'sync'));
SELECT pgedge.purge_events('0');

-- Bad input: nothing changes.
SELECT pgedge.enqueue_event(NULL, '{}');
SELECT pgedge.enqueue_event('', '{}');
SELECT pgedge.enqueue_event(repeat('x', 51), '{}');
SELECT pgedge.enqueue_event('t', NULL);
SELECT pgedge.enqueue_event('t', '{}', 11);
SELECT pgedge.enqueue_event('t', '{}', delay => '-1 second');
SELECT pgedge.enqueue_event('t', '{}', max_attempts => 0);
SELECT pgedge.enqueue_events('t', ARRAY['{}', NULL]::jsonb[]);
SELECT pgedge.enqueue_events('t', ARRAY['{}']::jsonb[], dedup_keys => '{a,b}');
SELECT pgedge.claim_events(0);
SELECT pgedge.claim_events(1, '-1 second');
SELECT pgedge.complete_events(NULL, 1);
SELECT pgedge.complete_events('{1,NULL}', 1);
SELECT pgedge.fail_events('{1}', NULL);
SELECT pgedge.fail_events('{1}', 1, 'x', '-1 second');
SELECT pgedge.extend_lease('{1}', 1, '0');
SELECT pgedge.redrive_events(max_events => 0);
SELECT pgedge.purge_events('-1 day');
SELECT pgedge._events_as_owner('public.claude_events', true);
BEGIN READ ONLY;
SELECT pgedge.claim_events();
ROLLBACK;
TRUNCATE claude_events;
