#!/usr/bin/env bash
# Cycles a pair of each NEON inner loop, as compiled, by llvm-mca's models of Cortex-A72 and Neoverse N1 (the server sibling of Cortex-A76,
# for which LLVM has no model of its own), beside the core's peak. The table goes into docs/benchmarks/arm.md. Arguments go to benches/inner_loops.py.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
code=0
scripts/arm-toolchain.sh || code=$?
if [ $code = 75 ]; then exit 0; elif [ $code != 0 ]; then exit $code; fi
. scripts/arm-env.sh
say "building the kernels for aarch64, as they ship"
arm_cargo build --release --example throughput -p pgedge-similarity --target "$ARM_TARGET" --target-dir target/arm || die "the build for aarch64 failed"
say "inner loops"
mca=$(echo "$A"/xroot/usr/lib/llvm-*/bin/llvm-mca)
with_arm python3 benches/inner_loops.py --objdump "$A/xroot/usr/bin/aarch64-linux-gnu-objdump" --mca "$mca" \
    --binary "target/arm/$ARM_TARGET/release/examples/throughput" --markdown docs/benchmarks/arm.md "$@"
