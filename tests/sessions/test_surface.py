"""The public surface, listed in tests/surface.txt, is what the catalog has: a surprise fails.

ACCEPT=1 rewrites the file; read every line of the diff.
"""
from __future__ import annotations

import os
from pathlib import Path

SURFACE = Path(__file__).resolve().parents[1] / "surface.txt"

QUERY = """
SELECT format('function %s(%s) → %s [%s, %s, %s%s%s]', p.oid::regproc, pg_get_function_arguments(p.oid), coalesce(pg_get_function_result(p.oid), ''),
       CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
       CASE p.proparallel WHEN 's' THEN 'parallel safe' WHEN 'r' THEN 'parallel restricted' ELSE 'parallel unsafe' END,
       CASE WHEN p.prosecdef THEN 'security definer' ELSE 'invoker' END,
       CASE WHEN p.proisstrict THEN ', strict' ELSE '' END,
       CASE WHEN has_function_privilege('surface_nobody', p.oid, 'EXECUTE') THEN ', public' ELSE '' END)
FROM pg_proc p WHERE p.pronamespace = 'pgedge'::regnamespace
UNION ALL
SELECT format('%s %s%s', CASE c.relkind WHEN 'r' THEN CASE c.relpersistence WHEN 'u' THEN 'unlogged table' ELSE 'table' END
              WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'relation' END, c.oid::regclass,
              CASE WHEN c.relkind <> 'S' THEN (SELECT '(' || string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) || ')'
                   FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) END)
       || CASE WHEN c.relkind <> 'S' AND has_table_privilege('surface_nobody', c.oid, 'SELECT') THEN ' [public]' ELSE '' END
FROM pg_class c WHERE c.relnamespace = 'pgedge'::regnamespace AND c.relkind IN ('r', 'v', 'S', 'm')
UNION ALL
SELECT format('type %s', t.oid::regtype) FROM pg_type t
WHERE t.typnamespace = 'pgedge'::regnamespace AND t.typtype <> 'c' AND t.typelem = 0
ORDER BY 1
"""


def test_surface(db):
    with db.connect() as conn:
        conn.execute("DO $$ BEGIN CREATE ROLE surface_nobody; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        lines = [r[0] for r in conn.execute(QUERY).fetchall()]
    if os.environ.get("ACCEPT"):
        SURFACE.write_text("\n".join(lines) + "\n")
    assert lines == SURFACE.read_text().splitlines()


def test_everything_is_commented(db):
    bare = db.sql("""
        SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace = 'pgedge'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = 'pgedge'::regnamespace AND relkind IN ('r', 'v', 'm')
          AND obj_description(c.oid, 'pg_class') IS NULL""")
    assert bare == []


def test_functions_that_run_sql_fix_their_search_path(db):
    loose = db.sql("""
        SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_language l ON l.oid = prolang
        WHERE pronamespace = 'pgedge'::regnamespace AND l.lanname IN ('sql', 'plpgsql') AND p.prosqlbody IS NULL
          AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%')""")
    assert loose == []


def test_support_tables_are_dumped(db):
    """Every support table and sequence holds state, so a dump must carry it."""
    missing = db.sql("""
        SELECT c.oid::regclass::text FROM pg_class c JOIN pg_extension e ON e.extname = 'pgedge'
        WHERE c.relnamespace = 'pgedge'::regnamespace AND c.relkind IN ('r', 'S') AND c.oid <> ALL (coalesce(e.extconfig, '{}'))
          AND obj_description(c.oid) IS DISTINCT FROM 'not dumped'
          AND coalesce(obj_description(c.oid), '') NOT LIKE '%(not dumped:%'""")
    assert missing == []
