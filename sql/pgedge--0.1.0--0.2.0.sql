-- From 0.1.0 to 0.2.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- Log patterns: intervals are checked, a missing column is named, comments say what NULL does.
CREATE FUNCTION pgedge._log_began(since interval) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF since <= '0'::interval THEN
        RAISE EXCEPTION 'since must be positive: %', since USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the time to look back, e.g. ''1 hour''.';
    END IF;
    RETURN now() - CASE WHEN since IS NOT NULL THEN least(since, '6000 years') END;
END $$;

CREATE OR REPLACE FUNCTION pgedge._log_table()
RETURNS TABLE (id bigint, message_pattern text, level text, source text, first_seen timestamptz, last_seen timestamptz, count bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1000 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation text := format('%I.aggregated_logs', pgedge._schema());
    missing text;
BEGIN
    SELECT c INTO missing FROM unnest(ARRAY['id', 'message_pattern', 'level', 'source', 'first_seen', 'last_seen', 'count']) c
    WHERE to_regclass(relation) IS NOT NULL
      AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(relation) AND a.attname = c AND NOT a.attisdropped) LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', missing, relation
            USING ERRCODE = 'undefined_column', HINT = 'Add it with: SELECT pgedge.create_tables();';
    END IF;
    PERFORM pgedge._events_as_owner(relation, false);
    RETURN QUERY EXECUTE format('
        SELECT a.id::bigint, a.message_pattern::text, a.level::text, a.source::text, a.first_seen::timestamptz, a.last_seen::timestamptz, a.count::bigint
        FROM %s a', relation);
END $$;

CREATE OR REPLACE FUNCTION pgedge.log_trends(since interval DEFAULT '24 hours')
RETURNS TABLE (id integer, message_pattern text, level text, source text, hour timestamptz, lines bigint)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1000 SET search_path = pg_catalog, pg_temp
AS $$
    SELECT h.id::integer, h.message_pattern, h.level, h.source, h.hour, h.lines
    FROM pgedge._log_hours_of(date_trunc('hour', pgedge._log_began(since), 'UTC')) h
    ORDER BY h.hour, h.id
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
        SELECT p.*, b.b[1] AS median, b.b[2] AS scale
        FROM patterns p CROSS JOIN LATERAL (SELECT pgedge._log_baseline(p.usual, p.usual_hours)) b(b)
    ), found AS (
        SELECT j.*, 'new' AS what, j.recent AS seen, 0::double precision AS awaited, j.recent::double precision AS deviation
        FROM judged j WHERE j.first_seen >= began
        UNION ALL
        SELECT j.*, 'spike', j.peak, j.median, (j.peak - j.median) / j.scale
        FROM judged j WHERE j.first_seen < began AND j.usual_hours >= 3 AND j.peak >= min_lines AND (j.peak - j.median) / j.scale >= min_score
        UNION ALL
        SELECT j.*, 'silence', 0, j.median * hours, j.median * sqrt(hours) / j.scale
        FROM judged j WHERE j.last_seen < began AND j.usual_hours >= 3 AND j.median > 0 AND j.median * sqrt(hours) / j.scale >= min_score
    )
    SELECT f.id::integer, f.message_pattern, f.level, f.source, f.what, f.seen, f.awaited, f.deviation
    FROM found f ORDER BY f.what, f.deviation DESC, f.id;
END $$;

COMMENT ON FUNCTION pgedge._log_began(interval) IS 'internal: when the time to look back began; 22023 unless it is positive';
COMMENT ON FUNCTION pgedge.log_trends(interval) IS
'Lines by pattern and hour (of UTC) as far back as given; pgedge.log_trend_hours says how long they are kept. Only hours with lines; no rows for NULL. 22023 unless the time is positive.';
COMMENT ON FUNCTION pgedge.log_anomalies(interval, double precision, bigint) IS
'Patterns that behave unusually in the time given: new (first seen in it), spike (an hour of it has at least min_lines lines and exceeds the usual by min_score standard deviations), silence (no line in it where the usual rate makes that as unlikely). observed lines, expected lines, score in standard deviations. Usual is the median of the hours of the week before, at least three; the standard deviation is 1.4826 times the median absolute deviation, at least the square root of the median: a Shewhart control chart for counts with robust estimates. No rows for a NULL time; NULL for the others is their default. 22023 unless the time is positive and min_score a number from zero on.';
COMMENT ON FUNCTION pgedge.prune_logs(interval) IS
'Deletes the rows of aggregated_logs last seen longer ago than given, whoever wrote them, and forgets their shapes, hours and lineage. Returns the number of rows. Waits for, and holds up, writers until its transaction ends. NULL deletes nothing and answers NULL; an interval longer than all of history deletes nothing and answers 0. 22023 for a negative interval.';
COMMENT ON FUNCTION pgedge.aggregate_logs(jsonb) IS
'Adds log lines to aggregated_logs: one row for each pattern, level and source, with count, times, merged metadata and up to five samples. entries is an array of {"message", "level", "source", "metadata", "timestamp"} or {"logs": […]}; only message is required, level is taken from the line when not given, timestamp is now() when not given, further keys are kept as metadata. Returns the rows that got lines, how many, and whether the row is new. Errors change nothing: 22023 wrong JSON, 22001 level or source too long, 22007 bad timestamp, 22003 count overflows, 25006 read-only, 42703 a column is missing. Several calls for different sources in one transaction, and in another the same in the opposite order, may end in 40P01: put all sources of a transaction into one call.';
REVOKE ALL ON FUNCTION pgedge._log_began(interval) FROM PUBLIC;
