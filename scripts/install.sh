#!/usr/bin/env bash
# Builds the extension as it ships and installs it into the PostgreSQL that setup.sh found.
. "$(dirname "$0")/common.sh"
load_env
cd "$ROOT"
say "building pgedge (release; 3 to 6 minutes the first time, seconds after that)"
cargo pgrx install --release -c "$PG_CONFIG" 2>&1 | grep -vE 'Downloaded|Discovered|Copying|Writing' || die "the build failed"
