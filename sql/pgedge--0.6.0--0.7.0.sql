-- From 0.6.0 to 0.7.0. Run by ALTER EXTENSION pgedge UPDATE; tests/sessions/test_upgrade.py compares the result with a fresh install.

-- As in the install script: PostgreSQL alone, whatever others have put into the schema of the tables; and the types of pgvector, wherever that is.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, ' || pg_catalog.quote_ident(n.nspname) || ', pg_temp', true)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace WHERE e.extname OPERATOR(pg_catalog.=) 'vector';

-- Logs -----------------------------------------------------------------------------------------------------------------------------------

COMMENT ON FUNCTION pgedge.log_pattern_regex(text) IS 'A POSIX regular expression, anchored at both ends, that finds the raw lines of a pattern with ~, whatever prefix and colour codes they have.';

-- Health ---------------------------------------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pgedge.health() RETURNS TABLE (check_name text, status text, detail text, hint text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    writable boolean := NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off';
    f name;
    label text;
BEGIN
    FOR f IN SELECT p.proname FROM pg_proc p
        WHERE p.pronamespace = 'pgedge'::regnamespace AND p.pronargs = 0 AND (p.proname ~ '^_health_' OR p.proname IN ('_observe', '_observe_sequences') AND writable)
        ORDER BY CASE p.proname WHEN '_observe' THEN '' WHEN '_observe_sequences' THEN '_health_90' ELSE p.proname END COLLATE "C"
    LOOP
        label := CASE WHEN f ~ '^_observe' THEN 'observations' ELSE regexp_replace(f, '^_health_[0-9]*_*', '') END;
        -- Up to five times, since a table or sequence may be dropped while it is looked at.
        FOR attempt IN 1..5 LOOP
            BEGIN
                IF label = 'observations' THEN
                    EXECUTE format('SELECT pgedge.%I()', f);
                ELSE
                    RETURN QUERY EXECUTE format('SELECT h.check_name, h.status, h.detail, h.hint FROM pgedge.%I() h', f);
                END IF;
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                RETURN QUERY SELECT label, 'warning', 'could not be checked: a table that it looks at is locked',
                                    'SELECT pid, relation::regclass FROM pg_locks WHERE mode = ''AccessExclusiveLock'' AND granted; shows by whom.';
                EXIT;
            WHEN OTHERS THEN
                CONTINUE WHEN attempt < 5;
                RETURN QUERY SELECT label, 'warning', format('could not be %s: %s (%s)', CASE label WHEN 'observations' THEN 'written' ELSE 'checked' END, SQLERRM, SQLSTATE),
                                    'Call it as a member of pg_monitor; if it fails there as well it is a defect.';
            END;
        END LOOP;
    END LOOP;
END $$;
