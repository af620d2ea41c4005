#!/usr/bin/env bash
# The tests of the pure crates on ARM: built once for aarch64, run under qemu as the cores of a Raspberry Pi 4 (cortex-a72, which lacks SDOT),
# a Raspberry Pi 5 (cortex-a76) and with everything qemu has (max). The same binaries on all three: the kernels are chosen at run time.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
code=0
scripts/arm-toolchain.sh || code=$?
if [ $code = 75 ]; then exit 0; elif [ $code != 0 ]; then exit $code; fi
. scripts/arm-env.sh
started=$(date +%s)
say "building the tests of crates/ for aarch64"
arm_cargo test --no-run --message-format=json --tests -p pgedge-similarity -p pgedge-logminer \
    --target "$ARM_TARGET" --target-dir target/arm >"$BUILD/arm-tests.json" || die "the build for aarch64 failed"
mapfile -t binaries < <(python3 - "$BUILD/arm-tests.json" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("executable") and message["profile"]["test"]:
        print(message["executable"], message["manifest_path"])
PY
)
[ ${#binaries[@]} -ge 4 ] || die "too few test programs were built: ${binaries[*]}"
for cpu in cortex-a72:neon cortex-a76:neon+dotprod max:neon+dotprod; do
    level=${cpu#*:} cpu=${cpu%:*}
    say "$cpu"
    for entry in "${binaries[@]}"; do
        program=${entry% *}
        # As cargo does, so that tests find their data.
        (cd "$(dirname "${entry#* }")" && PGEDGE_EXPECT_LEVEL=$level run_arm "$cpu" "$program" -q --nocapture >"$BUILD/arm-test.log" 2>&1) \
            || { cat "$BUILD/arm-test.log"; die "$(basename "$program") failed on $cpu"; }
        note "$(basename "$program"): $(grep '^test result' "$BUILD/arm-test.log")"
        grep '^skipped' "$BUILD/arm-test.log" | sort | uniq -c | sed 's/^/     /' || true
    done
done
say "all passed on three cores ($(($(date +%s) - started)) s)"
