#!/usr/bin/env bash
# Compiles the extension against every other PostgreSQL major whose server headers are on this machine.
#   PG18_CONFIG=/path/to/pg_config scripts/check-versions.sh      adds one that is elsewhere
. "$(dirname "$0")/common.sh"
load_env
cd "$ROOT"
for major in 15 17 18; do
    variable=PG${major}_CONFIG
    pg_config=${!variable:-/usr/lib/postgresql/$major/bin/pg_config}
    if [ ! -x "$pg_config" ] || [ ! -f "$("$pg_config" --includedir-server)/postgres.h" ]; then
        note "skipped: pg$major, no server headers here (postgresql-server-dev-$major)"
        continue
    fi
    say "compiles for $("$pg_config" --version)"
    # A home of its own, so that PostgreSQL 16's configuration stays as it is.
    home=$BUILD/pgrx-$major
    mkdir -p "$home"
    printf '[configs]\npg%s = "%s"\n' "$major" "$pg_config" >"$home/config.toml"
    PGRX_HOME=$home CARGO_TARGET_DIR=$BUILD/target-$major cargo check --quiet --no-default-features --features "pg$major"
done
