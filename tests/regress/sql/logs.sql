\set SHOW_CONTEXT never
-- Log patterns: every function, what it answers and what it refuses.
CREATE EXTENSION pgedge CASCADE;
SET timezone = 'UTC';
-- log_pattern, log_parameters, log_pattern_regex
SELECT pgedge.log_pattern(line) FROM (VALUES ('User 123 logged in'), ('Query took 0.05s'), ('Error: File not found: /path/file.txt'), (''), (NULL),
    ('2026-11-22T20:40:50.123Z ERROR [worker-3] job 42 of 10.0.0.7:5432 failed after 3 retries'), ('{"level":"warn","msg":"disk 91% full","device":"sda1"}'),
    (E'\x1b[31mred alert\x1b[0m in sector 7'), (E'boom 5\n\tat x.Y.z(Y.java:1)\n\tat x.Y.w(Y.java:2)')) v(line);
SELECT pgedge.log_parameters('User 123 logged in', 'User {ID} logged in'), pgedge.log_parameters('User 123 logged out', 'User {ID} logged in'),
       pgedge.log_parameters('no parameters', 'no parameters'), pgedge.log_parameters(NULL, 'x'), pgedge.log_parameters('x', NULL);
SELECT line, line ~ pgedge.log_pattern_regex('User {ID} logged in') AS found
FROM (VALUES ('User 123 logged in'), ('User 7 logged in'), ('2026-11-22 20:40:50 INFO User 7 logged in'), ('User 7 logged in twice'), ('User logged in'), ('A User 7 logged in')) v(line);
SELECT pgedge.log_pattern_regex(NULL);
-- aggregate_logs: lines
SELECT * FROM pgedge.aggregate_logs(ARRAY['User 123 logged in', 'User 4 logged in', NULL, 'disk full'], 'INFO', 'auth', '2026-11-22 10:00:00+00');
SELECT * FROM pgedge.aggregate_logs(ARRAY['User 99 logged in'], 'INFO', 'auth', '2026-11-21 10:00:00+00');
SELECT * FROM pgedge.aggregate_logs(ARRAY['User 99 logged in'], source => 'auth', seen_at => '2026-11-23 10:00:00+00');
SELECT id, message_pattern, count, level, source, first_seen, last_seen, metadata, sample_messages FROM aggregated_logs WHERE source = 'auth' ORDER BY id;
-- aggregate_logs: the body of a log aggregator, as jsonb and as what a driver sends
SELECT message_pattern, level, source, occurrences, is_new FROM pgedge.aggregate_logs('{"logs": [
    {"message": "Query took 0.05s", "level": "WARN", "source": "db", "metadata": {"host": "pi5", "pid": 7}, "timestamp": "2026-11-22T10:00:00Z"},
    {"message": "Query took 1.5s", "level": "WARN", "source": "db", "metadata": {"pid": 8, "query": {"rows": [1, 2]}}, "timestamp": 1795341600},
    {"message": "Query took 3s", "level": "WARN", "source": "db", "timestamp": 1795341601500, "container": "c1"},
    {"message": "{\"level\": \"error\", \"msg\": \"lost connection 5\", \"peer\": \"10.0.0.7\"}", "source": "db"},
    {"message": "WARNING: disk 91% full", "source": "", "level": null, "metadata": null}]}'::jsonb);
SELECT message_pattern, count, level, metadata, first_seen, last_seen, sample_messages FROM aggregated_logs WHERE source = 'db' AND level = 'WARN';
SELECT message_pattern, count, level, source, metadata FROM aggregated_logs WHERE level = 'ERROR' OR source IS NULL ORDER BY 1;
SELECT occurrences FROM pgedge.aggregate_logs('[{"message": "User 5 logged in", "level": "INFO", "source": "auth"}]');
SELECT * FROM pgedge.aggregate_logs('[]');
SELECT * FROM pgedge.aggregate_logs(NULL::jsonb);
SELECT * FROM pgedge.aggregate_logs(NULL::text[]);
SELECT * FROM pgedge.aggregate_logs('{}'::text[]);
-- secrets
SELECT is_new FROM pgedge.aggregate_logs(ARRAY['mail to ann@example.org bounced 3 times'], NULL, 'mail');
SET pgedge.mask_samples = off;
SELECT is_new FROM pgedge.aggregate_logs(ARRAY['mail to ann@example.org bounced 4 times'], NULL, 'mail 2');
SELECT source, message_pattern, sample_messages FROM aggregated_logs WHERE source LIKE 'mail%' ORDER BY id;
RESET pgedge.mask_samples;
SELECT message_pattern FROM pgedge.aggregate_logs('[{"message": "login password=hunter2 failed", "source": "mail 3", "token": "abc123", "metadata": {"user": {"id": 7, "apiKey": "k-1"}}},
    {"message": "{\"msg\": \"sent Bearer AbC123xyz9\", \"passwords\": [\"a\", \"b\"], \"total_tokens\": 5}", "source": "mail 3"}]');
SELECT message_pattern, metadata, sample_messages FROM aggregated_logs WHERE source = 'mail 3' ORDER BY 1;
SELECT pgedge.log_parameters('login password=hunter2 failed', 'login password={SECRET} failed'), 'login password=hunter2 failed' ~ pgedge.log_pattern_regex('login password={SECRET} failed') AS found;
SELECT pgedge.log_patterns(l) FROM (VALUES ('login password=hunter2 failed'), ('login password=4711 failed')) v(l);
-- what proves variable without a type: the oldest row takes the others in
SELECT id IS NOT NULL AS there, message_pattern, is_new FROM pgedge.aggregate_logs(ARRAY['pump north was stopped'], 'INFO', 'plant');
SELECT message_pattern, occurrences, is_new FROM pgedge.aggregate_logs(ARRAY['pump south was stopped', 'pump attic was stopped', 'pump cellar was stopped',
    'pump garage was stopped', 'pump west was stopped', 'pump pond was stopped'], 'INFO', 'plant');
SELECT message_pattern, count, jsonb_array_length(sample_messages) AS samples FROM aggregated_logs WHERE source = 'plant';
SELECT id = former_id AS same_row, source, level, old_pattern, new_pattern, lines FROM pgedge.log_pattern_lineage WHERE source = 'plant' ORDER BY step_no;
-- match_log writes nothing
SELECT message_pattern FROM pgedge.match_log('User 1 logged in', 'auth', 'INFO');
SELECT message_pattern FROM pgedge.match_log('User 1 logged in', 'auth');
SELECT message_pattern FROM pgedge.match_log('User 1 logged in');
SELECT message_pattern FROM pgedge.match_log('pump roof was stopped', 'plant');
SELECT message_pattern FROM pgedge.match_log('User 1 logged in', 'auth', 'FATAL');
SELECT message_pattern FROM pgedge.match_log('User 1 logged in', 'nowhere');
SELECT message_pattern FROM pgedge.match_log('something else', 'auth');
SELECT message_pattern FROM pgedge.match_log(NULL);
-- log_patterns
SELECT jsonb_pretty(pgedge.log_patterns(line)) FROM (VALUES ('User 1 logged in'), ('User 2 logged in'), ('User 2 logged in'), (NULL), ('disk full')) v(line);
SELECT pgedge.log_patterns(line) FROM (VALUES (NULL::text)) v(line);
-- trends and anomalies
SELECT message_pattern, hour, lines FROM pgedge.log_trends('1000 years') WHERE source = 'auth' AND message_pattern LIKE 'User%' AND level = 'INFO' AND hour = '2026-11-21 10:00:00+00';
SELECT count(*) > 0 AS some FROM pgedge.aggregate_logs(array_fill('tick 1'::text, ARRAY[9]), 'INFO', 'clock', now() - interval '2 hours');
SELECT sum(occurrences) FROM generate_series(2, 30) h, pgedge.aggregate_logs(array_fill('tock 1'::text, ARRAY[16]), 'INFO', 'clock', now() - make_interval(hours => h));
SELECT sum(occurrences) FROM generate_series(2, 30) h, pgedge.aggregate_logs(array_fill('beat 1'::text, ARRAY[16]), 'INFO', 'clock', now() - make_interval(hours => h));
SELECT sum(occurrences) FROM pgedge.aggregate_logs(array_fill('beat 1'::text, ARRAY[96]), 'INFO', 'clock');
SELECT sum(occurrences) FROM pgedge.aggregate_logs(ARRAY['boom 1'], 'ERROR', 'clock');
SELECT message_pattern, level, source, kind, observed, expected, score FROM pgedge.log_anomalies() WHERE source = 'clock';
SELECT kind, message_pattern FROM pgedge.log_anomalies('1 hour', 10) WHERE source = 'clock';
SELECT kind, message_pattern FROM pgedge.log_anomalies('1 hour', 3, 100) WHERE source = 'clock';
-- events
SET pgedge.log_events = on;
BEGIN;
SELECT count(*) FROM pgedge.aggregate_logs(ARRAY['ERROR: pump 1 failed', 'ERROR: pump 2 failed'], NULL, 'plant');
SELECT event_type, priority, payload - 'id' AS payload FROM claude_events WHERE event_type LIKE 'log.%' ORDER BY id;
ROLLBACK;
RESET pgedge.log_events;
-- pruning
SELECT pgedge.prune_logs('100 years');
SELECT pgedge.prune_logs(NULL);
BEGIN;
UPDATE aggregated_logs SET last_seen = now() - interval '40 days' WHERE source = 'plant';
SELECT pgedge.prune_logs('30 days');
SELECT * FROM pgedge.match_log('pump roof was stopped', 'plant');
ROLLBACK;
SELECT message_pattern FROM pgedge.match_log('pump roof was stopped', 'plant');
-- bad input: each an error with a hint, nothing changed
SELECT sum(count) AS lines, count(*) AS patterns FROM aggregated_logs \gset before_
SELECT * FROM pgedge.aggregate_logs('User 5 logged in');
SELECT * FROM pgedge.aggregate_logs('5'::jsonb);
SELECT * FROM pgedge.aggregate_logs('{"log": []}');
SELECT * FROM pgedge.aggregate_logs('[{"message": "fine"}, "User 5 logged in"]');
SELECT * FROM pgedge.aggregate_logs('[{"message": "fine"}, {"level": "INFO"}]');
SELECT * FROM pgedge.aggregate_logs('[{"message": 5}]');
SELECT * FROM pgedge.aggregate_logs('[{"message": "a", "metadata": [1, 2]}]');
SELECT * FROM pgedge.aggregate_logs('[{"message": "a", "timestamp": "soon"}]');
SELECT * FROM pgedge.aggregate_logs('[{"message": "a", "level": "CATASTROPHE"}]');
SELECT * FROM pgedge.aggregate_logs(ARRAY['a'], 'INFO', repeat('s', 101));
SELECT * FROM pgedge.aggregate_logs(ARRAY['a'], seen_at => 'infinity');
SELECT pgedge.prune_logs('-1 day');
SELECT * FROM pgedge.log_anomalies('-1 hour');
SELECT * FROM pgedge.log_anomalies('1 hour', 'NaN');
BEGIN READ ONLY;
SELECT * FROM pgedge.aggregate_logs(ARRAY['a']);
ROLLBACK;
BEGIN;
UPDATE aggregated_logs SET count = 2147483647 WHERE source = 'auth';
SELECT * FROM pgedge.aggregate_logs(ARRAY['User 5 logged in'], 'INFO', 'auth');
ROLLBACK;
SELECT sum(count) = :before_lines AND count(*) = :before_patterns AS unchanged FROM aggregated_logs;
-- who may
CREATE ROLE regress_logs;
SET ROLE regress_logs;
SELECT pgedge.log_pattern('User 5 logged in');
SELECT * FROM pgedge.aggregate_logs(ARRAY['a']);
SELECT * FROM pgedge.match_log('a');
SELECT * FROM pgedge.log_anomalies();
SELECT pgedge.prune_logs('1 day');
SELECT * FROM pgedge.log_pattern_lineage;
RESET ROLE;
DROP ROLE regress_logs;
