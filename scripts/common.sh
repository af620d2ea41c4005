# Shared by the scripts of this folder: where things are, who runs the server, how progress is said.
# Sourced, not run. Sets ROOT (the checkout), BUILD (everything we fetch or make, ignored by git).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG_MAJOR=16
PGRX_VERSION=0.18.1

say()  { printf '\n\033[1m== %s\033[0m\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die()  { printf '\nerror: %s\n' "$1" >&2; [ $# -lt 2 ] || printf 'hint:  %s\n' "$2" >&2; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# PostgreSQL refuses to run as root, so root lends the server to an unprivileged user.
server_user() {
    if ! is_root; then id -un; return; fi
    local name
    for name in postgres pgedge-test; do
        if id "$name" >/dev/null 2>&1; then echo "$name"; return; fi
    done
    useradd --system --no-create-home --shell /usr/sbin/nologin pgedge-test
    echo pgedge-test
}

# Runs a command as the server's user, with nothing of root's environment that could trip it.
as_server() {
    if is_root; then
        setpriv --reuid "$SERVER_USER" --regid "$(id -g "$SERVER_USER")" --clear-groups \
            env HOME=/nonexistent "$@"
    else
        "$@"
    fi
}

SERVER_USER=$(server_user)

# .build lives in the checkout, unless root works in a checkout that the server's user cannot enter.
BUILD=${PGEDGE_BUILD:-$ROOT/.build}
if is_root && [ -z "${PGEDGE_BUILD:-}" ] && ! as_server test -x "$ROOT"; then
    BUILD=/var/tmp/pgedge-build-$(printf %s "$ROOT" | cksum | cut -d' ' -f1)
fi
mkdir -p "$BUILD"
export PGRX_HOME=$BUILD/pgrx
export PATH=$BUILD/cargo/bin:$PATH

# What setup.sh found, once it has run.
load_env() {
    [ -f "$BUILD/env" ] || die "not set up yet" "run scripts/setup.sh (make demo and make test do)"
    # shellcheck disable=SC1091
    . "$BUILD/env"
}
