"""What of the image can be tested without a container engine: its configuration and its first start, on a server of this machine."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import SUPERUSER, Cluster
from conftest import Database
from test_ops import SPECIFIED

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
LINE = re.compile(r"^(\w+) = ('[^']*'|[^#\s]+)", re.M)


def configuration() -> dict[str, str]:
    return {name: value.strip("'") for name, value in LINE.findall((DOCKER / "postgresql.conf").read_text())}


def specified() -> dict[str, str]:
    """The specification's own ini block."""
    block = re.search(r"```ini\n(.*?)```", (ROOT / "docs" / "specification.md").read_text(), re.S).group(1)
    return {name: value.strip("'") for name, value in LINE.findall(block)}


def test_configuration_is_the_specification():
    ours, theirs = configuration(), specified()
    assert len(theirs) == 16
    # pg_stat_statements, which the specification's queries read, must be preloaded as well.
    assert ours.pop("shared_preload_libraries") == theirs.pop("shared_preload_libraries") + ",pg_stat_statements"
    assert {name: ours[name] for name in theirs} == theirs == SPECIFIED


def test_configuration_agrees_with_recommended_settings(box_db):
    recommended = dict(box_db.sql("SELECT name, recommended FROM pgedge.recommended_settings('2GB', 4, 'ssd')"))
    for name, value in configuration().items():
        if name not in ("listen_addresses", "shared_preload_libraries"):
            assert recommended[name] == value, name


@pytest.fixture(scope="module")
def first_start():
    """A server with the image's configuration whose first-start script has run, as the entrypoint runs it, and which was started again."""
    cluster = Cluster()
    sharedir = cluster.run(cluster.bindir / "pg_config", "--sharedir", capture_output=True, text=True).stdout.strip()
    settings = {k: v for k, v in configuration().items() if k != "listen_addresses"}
    libraries = settings["shared_preload_libraries"].split(",")
    there = [name for name in libraries if os.path.exists(f"{sharedir}/extension/{name}.control")]
    print(f"not installed here, so not preloaded: {set(libraries) - set(there) or 'none'}")
    cluster.settings = {**settings, "shared_preload_libraries": ",".join(there)}
    with cluster:
        cluster.psql("CREATE DATABASE ai_platform_db")
        cluster.script_output = run_script(cluster)
        cluster.stop()
        cluster.start()
        yield cluster


def run_script(cluster: Cluster, **env: str) -> str:
    script = cluster.folder / "10-pgedge.sh"
    shutil.copy(DOCKER / "initdb" / "10-pgedge.sh", script)
    script.chmod(0o755)
    env = {"PATH": f"{cluster.bindir}:/usr/bin:/bin", "PGHOST": str(cluster.folder), "PGPORT": str(cluster.port), "PGDATA": str(cluster.data),
           "POSTGRES_USER": SUPERUSER, "POSTGRES_DB": "ai_platform_db", "PGEDGE_RAM": "1GB", "PGEDGE_STORAGE": "sd", "LC_ALL": "C.UTF-8", **env}
    out = cluster.run("env", "-i", *(f"{k}={v}" for k, v in env.items()), script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert out.returncode == 0, out.stdout
    return out.stdout


@pytest.fixture(scope="module")
def box_db(first_start):
    return Database(first_start, "ai_platform_db")


def test_first_start_creates_the_extensions(box_db):
    created = {r[0] for r in box_db.sql("SELECT extname FROM pg_extension")}
    available = {r[0] for r in box_db.sql("SELECT name FROM pg_available_extensions")}
    assert {"pgedge", "vector"} <= created
    assert created & {"pg_net", "pg_stat_statements"} == available & {"pg_net", "pg_stat_statements"}


def test_first_start_fits_the_settings_to_the_machine(box_db):
    assert box_db.value("SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL") == 0
    differing = box_db.sql("SELECT name, current, recommended FROM pgedge.recommended_settings('1GB', NULL, 'sd')"
                           " WHERE current IS DISTINCT FROM recommended")
    assert differing == []
    assert box_db.value("SHOW shared_buffers") == "256MB"
    line = box_db.sql("SELECT status FROM pgedge.health() WHERE check_name = 'settings'")
    assert line == [("ok",)]


def test_first_start_makes_a_certificate_where_there_is_tls(first_start, box_db):
    if box_db.value("SHOW ssl_library") == "":
        assert "built without TLS" in first_start.script_output
        print("this PostgreSQL is built without TLS: only the message was tested")
    else:
        assert box_db.value("SHOW ssl") == "on"
        assert (first_start.data / "server.key").stat().st_mode & 0o777 == 0o600


def test_first_start_can_be_told_to_leave_the_settings(first_start, box_db):
    before = (first_start.data / "postgresql.auto.conf").read_text()
    run_script(first_start, PGEDGE_TUNE="off", PGEDGE_TLS="off")
    assert (first_start.data / "postgresql.auto.conf").read_text() == before


def test_first_start_takes_the_limit_of_compose_where_the_kernel_shows_none(first_start, box_db):
    """docker drops mem_limit where there are no memory control groups; PGEDGE_RAM wins over it, and a limit beyond the machine is none."""
    machine = box_db.value("SELECT ram_bytes FROM pgedge._host()")
    given = lambda ram: box_db.value("SELECT recommended FROM pgedge.recommended_settings(%s) WHERE name = 'shared_buffers'", [ram])  # noqa: E731
    conf = first_start.data / "postgresql.auto.conf"
    before = conf.read_text()
    try:
        for memory, ram, expected in (("512m", "", "128MB"), ("1.5 GB", "", "384MB"), ("536870912", "", "128MB"), ("512M", "768MB", "192MB"), ("900t", "", given(str(machine))),
                                      ("0", "", given(str(machine))), ("", "", given(str(machine))), ("two", "", given(str(machine)))):
            run_script(first_start, PGEDGE_MEMORY=memory, PGEDGE_RAM=ram, PGEDGE_TLS="off")
            assert re.search(r"^shared_buffers = '(.*)'$", conf.read_text(), re.M)[1] == expected, memory
    finally:
        conf.write_text(before)


# Raspberry Pi 4 and 5 as their kernels see them (MemTotal), and what an engine may give of them.
BOARDS = {"1 GB": "906MB", "2 GB": "1846MB", "4 GB": "3794MB", "8 GB": "7998MB", "16 GB": "16219MB", "a quarter of 1 GB": "226MB", "the least": "64MB"}


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("storage", ["sd", "ssd"])
def test_a_server_starts_with_what_is_recommended_for_a_board(first_start, box_db, board, storage):
    """Every value together, as PostgreSQL checks them at its start; and what all connections and caches may take fits."""
    rows = dict(box_db.sql("SELECT name, recommended FROM pgedge.recommended_settings(%s, 4, %s)", [BOARDS[board], storage]))
    rows.pop("shared_preload_libraries", None)
    ram = box_db.value("SELECT pg_size_bytes(%s)", [BOARDS[board]])
    size = lambda name: box_db.value("SELECT pg_size_bytes(%s)", [rows[name]])  # noqa: E731
    assert size("shared_buffers") <= ram // 2 and size("maintenance_work_mem") <= ram // 2 and size("work_mem") * int(rows["max_connections"]) <= 2 * ram
    with Cluster({**rows, "logging_collector": "off"}) as cluster:
        for name, value in rows.items():
            if name != "logging_collector":
                assert cluster.psql(f"SELECT setting = '{value}' OR current_setting(name) = '{value}' OR name = 'wal_compression' AND setting = 'pglz' OR name LIKE '%max_wal_size%'"
                                    f" FROM pg_settings WHERE name = '{name}'") == "t", name
        cluster.psql("CREATE EXTENSION pgedge CASCADE")
        cluster.psql(f"CREATE OR REPLACE FUNCTION pgedge._host(OUT ram_bytes bigint, OUT ram_source text, OUT cpus int, OUT storage text, OUT device text) RETURNS SETOF record LANGUAGE sql"
                     f" AS $$ SELECT {ram}::bigint, 'a board', 4, '{storage}', NULL::text $$")
        assert cluster.psql("SELECT status FROM pgedge.health() WHERE check_name = 'settings'") == "ok"


def test_scripts_parse():
    for script in ("initdb/10-pgedge.sh", "healthcheck.sh"):
        subprocess.run(["bash", "-n", DOCKER / script], check=True)
        assert os.access(DOCKER / script, os.X_OK)


def test_health_check_is_over_tcp(first_start):
    env = {**os.environ, "PATH": f"{first_start.bindir}:/usr/bin:/bin", "POSTGRES_USER": SUPERUSER}
    text = (DOCKER / "healthcheck.sh").read_text()
    assert "-h 127.0.0.1" in text
    here = text.replace("-p 5432", f"-p {first_start.port}")
    assert subprocess.run(["sh", "-c", here], env=env, check=False).returncode == 0
    closed = text.replace("-p 5432", "-p 1")
    assert subprocess.run(["sh", "-c", closed], env=env, check=False).returncode != 0


def test_no_password_in_the_repository():
    assert re.search(r"^POSTGRES_PASSWORD=$", (ROOT / ".env.example").read_text(), re.M)
    compose = (ROOT / "compose.yaml").read_text()
    assert "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?" in compose
    for variable in ("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PORT"):
        assert variable in compose and variable in (ROOT / ".env.example").read_text()


def test_compose_file_asks_for_what_the_manual_says():
    """Read as YAML, with each ${NAME:-default} put in."""
    text = (ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"}
    compose = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    service = compose["services"]["postgres"]
    assert list(compose["services"]) == ["postgres"] and list(compose["volumes"]) == ["data"] and "data:/var/lib/postgresql/data" in service["volumes"]
    assert service["mem_limit"] == "2g" == service["environment"]["PGEDGE_MEMORY"] and service["shm_size"] == "256m"
    assert service["restart"] == "unless-stopped" and service["stop_grace_period"] == "1m" and service["ports"] == ["5432:5432"]
    assert service["environment"]["POSTGRES_INITDB_ARGS"] == "--data-checksums"
    variables = {v for v in re.findall(r"\$\{(\w+)", text)}
    assert variables <= set(re.findall(r"`(\w+)(?:=\w+)?`", (ROOT / "docs" / "image.md").read_text())), "docs/image.md has a table of the variables"


def test_compose_takes_the_file(tmp_path):
    """Where some docker compose is; it needs no engine to read a file."""
    # The docker client may be there without its compose plugin.
    compose = next((c for c in (["docker-compose"], ["docker", "compose"])
                    if shutil.which(c[0]) and subprocess.run([*c, "version"], capture_output=True, check=False).returncode == 0), None)
    if not compose:
        pytest.skip("no docker compose here: compose.yaml was only read as YAML, by the test before")
    config = [*compose, "-f", str(ROOT / "compose.yaml"), "--project-directory", str(tmp_path), "--env-file"]
    example = (ROOT / ".env.example").read_text()
    (tmp_path / "good.env").write_text(example.replace("POSTGRES_PASSWORD=", "POSTGRES_PASSWORD=a secret") + "POSTGRES_PORT=15432\n")
    out = subprocess.run([*config, tmp_path / "good.env", "config"], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    service = yaml.safe_load(out.stdout)["services"]["postgres"]
    assert service["environment"]["POSTGRES_PASSWORD"] == "a secret" and "15432" in str(service["ports"]) and service["restart"] == "unless-stopped"
    assert {k for k in service["environment"] if k.startswith("PGEDGE_")} == {"PGEDGE_TUNE", "PGEDGE_RAM", "PGEDGE_MEMORY", "PGEDGE_STORAGE", "PGEDGE_TLS"}
    (tmp_path / "bad.env").write_text(example)
    out = subprocess.run([*config, tmp_path / "bad.env", "config"], capture_output=True, text=True, check=False)
    assert out.returncode != 0 and "put a password into .env" in out.stderr


def test_slow_queries_fill_and_feed_the_monitoring(box_db):
    """The view, and the exporter's query over it, where pg_stat_statements is preloaded and created."""
    if not box_db.value("SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'"):
        pytest.skip("pg_stat_statements is not installed here")
    box_db.sql("SELECT count(*) AS a_query_to_be_found FROM pgedge.table_sizes")
    found = box_db.sql("SELECT calls, total_time, mean_time, rows FROM pgedge.slow_queries WHERE query LIKE '%a_query_to_be_found%' AND query NOT LIKE '%slow_queries%'")
    assert len(found) == 1 and found[0][0] == 1 and found[0][1] == found[0][2] > 0 and found[0][3] == 1
    rows = box_db.sql(yaml.safe_load((ROOT / "docs" / "monitoring" / "queries.yaml").read_text())["pgedge_slow_query"]["query"])
    assert rows and all(isinstance(r[0], str) and r[3] >= 1 and r[4] >= 0 for r in rows)
