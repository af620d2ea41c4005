#!/usr/bin/env bash
# make test-package: makes the Debian package and the PGXN archive, and runs tests/sessions/test_package.py on both.
"$(dirname "$0")/setup.sh"
. "$(dirname "$0")/common.sh"
load_env
export PGEDGE_SERVER_USER=$SERVER_USER PGEDGE_DIST=$BUILD/dist PGEDGE_TEST_PACKAGE=1
"$ROOT/scripts/package.sh"
exec "$PYTHON" -m pytest -q -rs -p no:cacheprovider "$ROOT/tests/sessions/test_package.py"
