"""Every version that has landed can be updated to this one, and the result is the same as a fresh install."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import create_database

ROOT = Path(__file__).resolve().parents[2]
RELEASES = sorted((ROOT / "sql" / "releases").glob("pgedge--*.sql"))
CURRENT = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]

CATALOG = """
SELECT pg_describe_object(d.classid, d.objid, 0), coalesce(pg_get_functiondef(p.oid), pg_get_viewdef(c.oid), ''), coalesce(p.proacl::text, c.relacl::text, ''),
       obj_description(d.objid), coalesce((SELECT string_agg(attname || format_type(atttypid, atttypmod) || attnotnull, ',' ORDER BY attname)
       FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), '')
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgedge'
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid AND p.prokind <> 'a'
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
WHERE d.deptype = 'e' ORDER BY 1
"""


def script_of_this_build(cluster) -> str:
    folder = subprocess.run([str(cluster.bindir / "pg_config"), "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(folder, "extension", f"pgedge--{CURRENT}.sql").read_text()


def statements(script: str) -> list[str]:
    """The script's lines without the comments that pgrx writes, which hold line numbers of the source; sorted, since pgrx keeps no order among equals."""
    return sorted(line for line in script.splitlines() if line.strip() and not line.lstrip().startswith(("--", "/*", "*/", "//")))


def loadable(script: str, library: Path) -> str:
    """An older script with this build's library: a function whose C symbol is gone since gets another's, as it only has to exist until the update drops it."""
    symbols = {line.split()[-1] for line in subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True).stdout.splitlines()}
    return re.sub(r"(AS 'MODULE_PATHNAME', ')(\w+)(')", lambda m: m[0] if m[2] in symbols else m[1] + "log_pattern_wrapper" + m[3], script)


def test_a_released_script_is_never_changed(cluster):
    frozen = ROOT / "sql" / "releases" / f"pgedge--{CURRENT}.sql"
    if not frozen.exists():
        pytest.skip(f"version {CURRENT} has not landed yet")
    assert statements(script_of_this_build(cluster)) == statements(frozen.read_text()), \
        "the SQL changed after this version landed: raise the version and write an update script (CONTRIBUTING.md)"


@pytest.mark.parametrize("release", RELEASES, ids=lambda p: p.stem)
def test_update_gives_the_catalog_of_a_fresh_install(release, cluster):
    version = release.stem.removeprefix("pgedge--")
    if version == CURRENT:
        pytest.skip("it is this version")
    folder = Path(subprocess.run([str(cluster.bindir / "pg_config"), "--sharedir"], capture_output=True, text=True, check=True).stdout.strip(), "extension")
    library = Path(subprocess.run([str(cluster.bindir / "pg_config"), "--pkglibdir"], capture_output=True, text=True, check=True).stdout.strip(), "pgedge.so")
    (folder / release.name).write_text(loadable(release.read_text(), library))
    fresh, old = create_database(cluster), create_database(cluster, extension=False)
    cluster.psql("CREATE EXTENSION vector", old.name)
    cluster.psql(f"CREATE EXTENSION pgedge VERSION '{version}'", old.name)
    old.sql("INSERT INTO claude_events (event_type, payload) VALUES ('kept', '{}')")
    cluster.psql("ALTER EXTENSION pgedge UPDATE", old.name)
    old.sql("SELECT pgedge.create_tables()")
    assert old.sql(CATALOG) == fresh.sql(CATALOG)
    assert old.value("SELECT count(*) FROM claude_events WHERE event_type = 'kept'") == 1
