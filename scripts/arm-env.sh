# Sourced: the environment to build for aarch64 with the toolchain of arm-toolchain.sh and to run what was built under qemu.
# ARM names its folder (default .build/arm), QEMU_CPU the processor (default cortex-a72).
A=${ARM:-$(pwd)/.build/arm}
export LD_LIBRARY_PATH="$A/xroot/usr/lib/x86_64-linux-gnu"
export RUSTC="$A/xroot/usr/bin/rustc"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$A/xroot/usr/bin/aarch64-linux-gnu-gcc"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C link-arg=--sysroot=$A/xroot"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$A/qemu/usr/bin/qemu-aarch64-static -cpu ${QEMU_CPU:-cortex-a72} -L $A/armroot"
