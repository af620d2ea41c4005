#!/bin/sh
# Makes a cross toolchain and an emulator for aarch64 in a folder (default .build/arm), from Debian packages and without touching the system:
# rustc and the arm64 standard library, the cross linker, the arm64 runtime, qemu-user. Needs apt and dpkg on amd64 Debian bookworm.
# `. scripts/arm-env.sh` then sets the environment for `cargo … --target aarch64-unknown-linux-gnu`.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
A=${1:-$root/.build/arm}
if [ -e "$A/done" ]; then
    exit 0
fi
mkdir -p "$A/apt/state/lists/partial" "$A/apt/cache/archives/partial" "$A/apt/dpkg" "$A/xroot" "$A/sysroot" "$A/armroot" "$A/qemu"
: >"$A/apt/dpkg/status"
cat >"$A/apt/apt.conf" <<CONF
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
Dir::State "$A/apt/state";
Dir::State::status "$A/apt/dpkg/status";
Dir::Cache "$A/apt/cache";
APT::Sandbox::User "root";
CONF
export APT_CONFIG="$A/apt/apt.conf"
apt-get -q update
apt-get -q -y install --download-only --no-install-recommends rustc-web cargo-web libstd-rust-web-dev:arm64 \
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6:arm64 libgcc-s1:arm64 zlib1g:arm64 libstdc++6:arm64
(cd "$A/apt/cache/archives" && apt-get -q download qemu-user-static)

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
"$A/qemu/usr/bin/qemu-aarch64-static" --version | head -n 1
LD_LIBRARY_PATH="$A/xroot/usr/lib/x86_64-linux-gnu" "$A/xroot/usr/bin/rustc" --version
touch "$A/done"
