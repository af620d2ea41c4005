#!/usr/bin/env bash
# Runs the benchmarks of benches/ (all, or those named: logs events similarity) against the release build. Results: docs/benchmarks.
"$(dirname "$0")/setup.sh"
"$(dirname "$0")/install.sh"
. "$(dirname "$0")/common.sh"
load_env
[ $# -gt 0 ] || set -- similarity logs events
for name in "$@"; do
    say "benchmark: $name"
    "$PYTHON" "$ROOT/benches/$name.py"
done
