#!/usr/bin/env bash
# make package: dist/postgresql-16-pgedge_VERSION_ARCH.deb for PGDG's and Debian's PostgreSQL 16, and dist/pgedge-VERSION.zip, the source as PGXN takes it.
#   scripts/package.sh control [LIBRARY]    prints the package's control file
. "$(dirname "$0")/common.sh"
cd "$ROOT"
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
NAME=postgresql-$PG_MAJOR-pgedge
DIST=${PGEDGE_DIST:-$ROOT/dist}
# Of the commit, so that the same source gives the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

# The oldest C library that has all the symbols that a library asks for.
libc_version() { readelf -VW "$1" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 | cut -d_ -f2; }

control() { # [LIBRARY [KB]]
    cat <<-CONTROL
	Package: $NAME
	Source: pgedge
	Version: $VERSION-1
	Architecture: $(dpkg --print-architecture)
	Maintainer: the pgedge authors <pgedge@localhost>
	Installed-Size: ${2:-0}
	Depends: postgresql-$PG_MAJOR, postgresql-$PG_MAJOR-pgvector (>= 0.8.0)${1:+, libc6 (>= $(libc_version "$1")), libgcc-s1}
	Recommends: postgresql-$PG_MAJOR-pgvector (>= 0.8.3)
	Section: database
	Priority: optional
	Description: $(sed -n 's/^ *"abstract": "\(.*\)",$/\1/p' META.json | head -n 1)
	 Raw log lines become patterns with counts and parameters, events are claimed
	 once and leased over a plain table, and many queries are compared exactly with
	 all embeddings of pgvector in one pass. Health checks, monitoring views, roles
	 and backups around them.
	CONTROL
}

copyright() {
    cat <<-COPYRIGHT
	Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
	Upstream-Name: pgedge

	Files: *
	Copyright: 2026, the pgedge authors
	License: PostgreSQL

	License: PostgreSQL
	COPYRIGHT
    # Blank lines are dots in this format.
    sed -e '1,/^Copyright/d' -e 's/^$/./' -e 's/^/ /' LICENSE
}

deb() {
    local tree=$BUILD/package/$NAME made=$BUILD/package/pgrx lib share
    say "Debian package"
    rm -rf "$tree" "$made"
    cargo pgrx package --pg-config "$PG_CONFIG" --no-default-features --features "pg$PG_MAJOR" --out-dir "$made" >"$BUILD/package.log" 2>&1 \
        || { tail -20 "$BUILD/package.log"; die "the build failed"; }
    # Debian's folders, wherever the server is against which it was built.
    lib=$tree/usr/lib/postgresql/$PG_MAJOR/lib share=$tree/usr/share/postgresql/$PG_MAJOR/extension
    install -d "$lib" "$share" "$tree/usr/bin" "$tree/usr/share/doc/$NAME" "$tree/DEBIAN"
    install -m 644 "$made$("$PG_CONFIG" --pkglibdir)/pgedge.so" "$lib/"
    strip --strip-unneeded "$lib/pgedge.so"
    install -m 644 "$made$("$PG_CONFIG" --sharedir)"/extension/pgedge* "$share/"
    install -m 755 docker/bin/pgedge-backup "$tree/usr/bin/"
    copyright >"$tree/usr/share/doc/$NAME/copyright"
    gzip -9n <CHANGELOG.md >"$tree/usr/share/doc/$NAME/changelog.gz"
    cp README.md "$tree/usr/share/doc/$NAME/"
    chmod -R u=rwX,go=rX "$tree"
    control "$lib/pgedge.so" "$(du -sk "$tree/usr" | cut -f1)" >"$tree/DEBIAN/control"
    (cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group -Zxz --build "$tree" "$DIST" >/dev/null
    note "$DIST/${NAME}_$VERSION-1_$(dpkg --print-architecture).deb"
}

# What building and installing needs, and what a reader wants; tests and examples stay in the repository.
pgxn() {
    say "PGXN archive"
    git ls-files META.json README.md LICENSE CHANGELOG.md CONTRIBUTING.md Makefile Cargo.toml Cargo.lock pgedge.control rustfmt.toml .cargo crates src sql docs docker \
        scripts tests/requirements.txt benches |
        python3 "$ROOT/scripts/zip.py" "$DIST/pgedge-$VERSION.zip" "pgedge-$VERSION"
    note "$DIST/pgedge-$VERSION.zip"
}

if [ "${1:-}" = control ]; then
    control "${2:-}"
    exit
fi
load_env
command -v dpkg-deb >/dev/null || die "no dpkg-deb here" "Debian packages are made on Debian"
mkdir -p "$DIST" "$BUILD/package"
deb
pgxn
