#!/usr/bin/env bash
# The second command of the README: sets up and runs all the tests, or the parts named: lint test-unit test-pgrx test-regress
# test-sessions test-versions.
set -e
"$(dirname "$0")/setup.sh"
. "$(dirname "$0")/common.sh"
load_env
cd "$ROOT"
export PGEDGE_SERVER_USER=$SERVER_USER
# A backtrace in the server's environment would land in error details and spoil expected output.
unset RUST_BACKTRACE
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(lint test-unit test-pgrx test-regress test-sessions test-versions)
started=$(date +%s)

lint() {
    say "format and lint"
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features pg16 -- -D warnings
    "$ROOT/scripts/deny.sh"
}

test-unit() {
    say "unit tests of the pure crates"
    cargo test --quiet --workspace --exclude pgedge
}

test-pgrx() {
    say "cargo pgrx test"
    local as=()
    if is_root; then
        mkdir -p "$BUILD/pgrx-test"
        chown "$SERVER_USER" "$BUILD/pgrx-test" && chmod 700 "$BUILD/pgrx-test"
        as=(--runas "$SERVER_USER" --pgdata "$BUILD/pgrx-test")
    fi
    cargo pgrx test pg$PG_MAJOR "${as[@]}"
}

# The tests that follow try what ships: the release build.
installed=
install_release() {
    [ -n "$installed" ] || "$ROOT/scripts/install.sh"
    installed=yes
}

test-regress() {
    install_release
    say "regress: the public surface, and the README's SQL"
    "$PYTHON" "$ROOT/tests/regress/run.py"
}

test-sessions() {
    install_release
    say "sessions: concurrency, crashes, dumps, roles, the specification"
    "$PYTHON" -m pytest -q -rs -p no:cacheprovider "$ROOT/tests/sessions"
}

test-versions() {
    "$ROOT/scripts/check-versions.sh"
}

for part in "${parts[@]}"; do "$part"; done
say "all passed: ${parts[*]} ($(($(date +%s) - started)) s)"
