-- From 0.2.0 to 0.3.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Log patterns -----------------------------------------------------------------------------------------------------------------------
ALTER TABLE pgedge._log_rows ADD COLUMN first_hour timestamptz;
-- Hours that are still to come, of clocks that were ahead: the latest of a row becomes the current one, what is before it goes to the last full one.
WITH gone AS (DELETE FROM pgedge._log_hours WHERE hour >= date_trunc('hour', now(), 'UTC') RETURNING row_id, lines)
INSERT INTO pgedge._log_hours AS h (row_id, hour, lines) SELECT g.row_id, date_trunc('hour', now(), 'UTC') - interval '1 hour', sum(g.lines) FROM gone g GROUP BY g.row_id
ON CONFLICT (row_id, hour) DO UPDATE SET lines = h.lines + excluded.lines;
UPDATE pgedge._log_rows SET open_hour = date_trunc('hour', now(), 'UTC') WHERE open_hour > date_trunc('hour', now(), 'UTC');

CREATE TABLE pgedge._log_notices (
    source text NOT NULL,
    digest bigint NOT NULL,
    noticed_at timestamptz NOT NULL,
    PRIMARY KEY (source, digest)
);
COMMENT ON TABLE pgedge._log_notices IS 'internal: patterns and levels, as hashes, of which an event was raised in the last hour (not dumped: they are worth nothing an hour later)';

-- The columns of the table have no zone: they say what the clock of the session showed that sent the lines. The hours that are kept of its
-- rows do have one. A time that is within the hour is exact; one less than 27 hours off is that of a session in another zone (they are 26
-- hours apart at most), of which only the hour is known: it counts as its end. What is earlier was written by another client, what is later by a clock that is ahead.
CREATE FUNCTION pgedge._log_first_seen(seen timestamptz, hour timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN hour IS NULL OR seen >= hour AND seen < hour + interval '1 hour' OR seen < hour - interval '27 hours' THEN seen
            ELSE hour + interval '1 hour' END;

-- The same for the latest hour, but that a client may have seen lines later; a time that is still to come is that of a clock that is ahead.
CREATE FUNCTION pgedge._log_last_seen(seen timestamptz, hour timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN hour IS NULL OR seen < hour - interval '27 hours' OR seen >= hour AND seen < hour + interval '1 hour' THEN seen
            WHEN seen > pg_catalog.now() THEN hour + interval '1 hour'
            ELSE greatest(seen, hour + interval '1 hour') END;

CREATE OR REPLACE FUNCTION pgedge._log_hours_of(from_hour timestamptz)
RETURNS TABLE (id bigint, message_pattern text, level text, source text, first_seen timestamptz, last_seen timestamptz, lines bigint, hour timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.id, a.message_pattern, a.level, a.source, pgedge._log_first_seen(a.first_seen, r.first_hour), pgedge._log_last_seen(a.last_seen, r.open_hour), h.lines, h.hour
    FROM pgedge._log_table() a
    JOIN pgedge._log_rows r ON r.row_id = a.id
    CROSS JOIN LATERAL (
        SELECT o.lines, o.hour FROM pgedge._log_hours o WHERE o.row_id = a.id AND o.hour >= from_hour
        UNION ALL
        SELECT a.count - r.lines_before, r.open_hour WHERE r.open_hour >= from_hour
    ) h
    WHERE h.lines > 0
$$;

CREATE OR REPLACE FUNCTION pgedge.log_anomalies(since interval DEFAULT '1 hour', min_score double precision DEFAULT 3, min_lines bigint DEFAULT 10)
RETURNS TABLE (id integer, message_pattern text, level text, source text, kind text, observed bigint, expected double precision, score double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 50 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    began timestamptz := pgedge._log_began(since);
    first_hour timestamptz := date_trunc('hour', began, 'UTC');
    hours double precision := extract(epoch FROM now() - began) / 3600;
BEGIN
    min_score := coalesce(min_score, 3);
    min_lines := coalesce(min_lines, 10);
    IF min_score = 'NaN' OR min_score < 0 THEN
        RAISE EXCEPTION 'min_score must be zero or more: %', min_score USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the number of standard deviations from which a count is unusual; 3 by default.';
    END IF;
    RETURN QUERY
    WITH patterns AS (
        SELECT h.id, h.message_pattern, h.level, h.source, h.first_seen, h.last_seen,
               coalesce(max(h.lines) FILTER (WHERE h.hour >= first_hour), 0) AS peak,
               coalesce(sum(h.lines) FILTER (WHERE h.hour >= first_hour), 0)::bigint AS recent,
               coalesce(array_agg(h.lines) FILTER (WHERE h.hour < first_hour), '{}') AS usual,
               coalesce(extract(epoch FROM first_hour - min(h.hour) FILTER (WHERE h.hour < first_hour)) / 3600, 0)::bigint AS usual_hours
        FROM pgedge._log_hours_of(first_hour - interval '168 hours') h
        GROUP BY 1, 2, 3, 4, 5, 6
    ), judged AS (
        SELECT p.*, b.b[1] AS median, b.b[2] AS scale, least((p.peak - b.b[1]) / b.b[2], (p.peak - b.b[3]) / sqrt(greatest(b.b[3], 1))) AS excess
        FROM patterns p CROSS JOIN LATERAL (SELECT pgedge._log_baseline(p.usual, p.usual_hours)) b(b)
    ), found AS (
        SELECT j.*, 'new' AS what, j.recent AS seen, 0::double precision AS awaited, j.recent::double precision AS deviation
        FROM judged j WHERE j.first_seen >= began
        UNION ALL
        SELECT j.*, 'spike', j.peak, j.median, j.excess
        FROM judged j WHERE j.first_seen < began AND j.usual_hours >= 3 AND j.peak >= min_lines AND j.excess >= min_score
        UNION ALL
        SELECT j.*, 'silence', 0, j.median * hours, j.median * sqrt(hours) / j.scale
        FROM judged j WHERE j.last_seen < began AND j.usual_hours >= 3 AND j.median > 0 AND j.median * sqrt(hours) / j.scale >= min_score
    )
    SELECT f.id::integer, f.message_pattern, f.level, f.source, f.what, f.seen, f.awaited, f.deviation
    FROM found f ORDER BY f.what, f.deviation DESC, f.id;
END $$;

COMMENT ON TABLE pgedge._log_rows IS 'internal: which row of aggregated_logs belongs to a source, level and pattern; the latest hour that it has lines of, and its count before that hour; the first hour, unless others wrote lines before';
COMMENT ON FUNCTION pgedge._log_first_seen(timestamptz, timestamptz) IS 'internal: when a row was first seen, whatever the time zone of the session that wrote it, from its first hour';
COMMENT ON FUNCTION pgedge._log_last_seen(timestamptz, timestamptz) IS 'internal: when a row was last seen, whatever the time zone of the session that wrote it, from its latest hour';
COMMENT ON FUNCTION pgedge.log_anomalies(interval, double precision, bigint) IS
'Patterns that behave unusually in the time given: new (first seen in it), spike (an hour of it has at least min_lines lines and exceeds the usual by min_score standard deviations), silence (no line in it where the usual rate makes that as unlikely). observed lines, expected lines, score in standard deviations. Usual is the median of the hours of the week before, at least three; the standard deviation is 1.4826 times the median absolute deviation, at least the square root of the median: a Shewhart control chart for counts with robust estimates. A spike also exceeds the largest hour of that week, by min_score times its square root; its score is the lesser one. No rows for a NULL time; NULL for the others is their default. 22023 unless the time is positive and min_score a number from zero on.';
COMMENT ON FUNCTION pgedge._log_baseline(bigint[], bigint) IS 'internal: median, scale and largest of the lines of some hours; hours not given had no lines';
