#!/usr/bin/env bash
# The first command of the README: sets up, builds, and runs pgedge on the real input of examples/. KEEP=1 leaves the server running.
"$(dirname "$0")/setup.sh"
"$(dirname "$0")/install.sh"
. "$(dirname "$0")/common.sh"
load_env
exec "$PYTHON" "$ROOT/scripts/demo.py"
