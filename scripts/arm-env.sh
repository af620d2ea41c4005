# Sourced: the environment to build for aarch64 with the toolchain of arm-toolchain.sh and to run what was built under qemu.
# ARM names its folder (default: arm in the build folder of common.sh), QEMU_CPU the processor (default cortex-a72).
A=${ARM:-${BUILD:-$(pwd)/.build}/arm}
ARM_TARGET=aarch64-unknown-linux-gnu
# Runs a command of the toolchain. Its libraries must not meet the other programs of the system.
with_arm() {
    env LD_LIBRARY_PATH="$A/xroot/usr/lib/x86_64-linux-gnu" RUSTC="$A/xroot/usr/bin/rustc" \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$A/xroot/usr/bin/aarch64-linux-gnu-gcc" \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C link-arg=--sysroot=$A/xroot" "$@"
}
arm_cargo() { with_arm nice -n 5 "$A/xroot/usr/bin/cargo" "$@"; }
# run_arm CPU PROGRAM ARGUMENTS…
run_arm() {
    local cpu=$1
    shift
    nice -n 5 "$A/qemu/usr/bin/qemu-aarch64-static" -cpu "$cpu" -L "$A/armroot" "$@"
}
