#!/usr/bin/env bash
# Makes what it takes to build for aarch64 and to run and measure the result on an x86-64 Debian bookworm, in a folder (default .build/arm)
# and without touching the system: rustc with the arm64 standard library, the cross linker, the arm64 runtime, qemu-user, llvm-mca.
# Debian packages only (about 500 MB to fetch, 3 GB unpacked). Wants root, or a user whom apt allows to fetch; without apt it says so and exits 75.
# `. scripts/arm-env.sh` then sets the environment for `cargo … --target aarch64-unknown-linux-gnu`.
. "$(dirname "$0")/common.sh"
A=${1:-$BUILD/arm}
STAMP=$A/made-2
[ ! -e "$STAMP" ] || exit 0
for tool in apt-get dpkg; do
    if ! command -v $tool >/dev/null; then
        note "skipped: no $tool here. The aarch64 toolchain is made of Debian packages; on another system, run this in a debian:bookworm container."
        exit 75
    fi
done
if [ "$(dpkg --print-architecture)" != amd64 ]; then
    note "skipped: this toolchain is for amd64 machines, this one is $(dpkg --print-architecture) (on arm64, make test runs the same tests without it)"
    exit 75
fi

say "aarch64 toolchain and emulator (Debian packages, into $A)"
mkdir -p "$A/apt/state/lists/partial" "$A/apt/cache/archives/partial" "$A/apt/dpkg" "$A/xroot" "$A/sysroot" "$A/armroot" "$A/qemu"
: >"$A/apt/dpkg/status"
cat >"$A/apt/apt.conf" <<CONF
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
Dir::State "$A/apt/state";
Dir::State::status "$A/apt/dpkg/status";
Dir::Cache "$A/apt/cache";
APT::Sandbox::User "$(id -un)";
CONF
export APT_CONFIG=$A/apt/apt.conf
{
    apt-get -q update
    apt-get -q -y install --download-only --no-install-recommends rustc-web cargo-web libstd-rust-web-dev:arm64 llvm-22 \
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6:arm64 libgcc-s1:arm64 zlib1g:arm64 libstdc++6:arm64
    (cd "$A/apt/cache/archives" && apt-get -q download qemu-user-static)
} >"$A/apt.log" 2>&1 || die "apt could not fetch the packages: $(grep -m 3 '^E:' "$A/apt.log" | tr '\n' ' ')" \
    "needs the Debian bookworm main and security archives in the apt sources and, unless root, read access to them; all of it is in $A/apt.log"

for deb in "$A"/apt/cache/archives/*.deb; do
    case $(basename "$deb") in
    qemu-user-static_*) dpkg -x "$deb" "$A/qemu" ;;
    libstd-rust-web-dev_*_arm64.deb) dpkg -x "$deb" "$A/sysroot" ;;
    *_arm64.deb) dpkg -x "$deb" "$A/armroot" ;;
    *) dpkg -x "$deb" "$A/xroot" ;;
    esac
done
lib=usr/lib/rustlib/aarch64-unknown-linux-gnu
mkdir -p "$A/xroot/usr/lib/rustlib"
cp -a "$A/sysroot/$lib" "$A/xroot/usr/lib/rustlib/"
# They are large, and unpacked.
rm -rf "$A/apt/cache/archives" "$A/sysroot"
note "$("$A/qemu/usr/bin/qemu-aarch64-static" --version | head -n 1)"
note "$(LD_LIBRARY_PATH="$A/xroot/usr/lib/x86_64-linux-gnu" "$A/xroot/usr/bin/rustc" --version)"
touch "$STAMP"
