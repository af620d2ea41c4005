#!/usr/bin/env bash
# First start of the container, run by the base image's entrypoint while the server listens on its socket only: the extensions in
# POSTGRES_DB, the settings for this machine, and a certificate when none is mounted.
#   PGEDGE_TUNE=off      keeps docker/postgresql.conf as it is
#   PGEDGE_RAM=1700MB    the server's share of the memory, when that is not the container's limit
#   PGEDGE_MEMORY=2g     the limit that the container was given, for a kernel that does not enforce it
#   PGEDGE_STORAGE=sd    ssd, sd or hdd, when it cannot be seen
#   PGEDGE_TLS=off       no certificate; connections are not encrypted
#   PGEDGE_TLS_DIR=/…    where server.crt and server.key are mounted, /etc/postgresql/tls
set -euo pipefail

database=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}

sql() { psql -X -q -v ON_ERROR_STOP=1 --no-password -U "${POSTGRES_USER:-postgres}" -d "$database" "$@"; }

extensions() {
    sql <<-'SQL'
	CREATE EXTENSION IF NOT EXISTS pgedge CASCADE;
	SELECT format('CREATE EXTENSION IF NOT EXISTS %I', name) FROM pg_available_extensions
	WHERE name IN ('pg_net', 'pg_stat_statements') ORDER BY name \gexec
	SQL
}

settings() {
    # The worker of pg_net serves one database.
    sql -v database="$database" <<-'SQL'
	SELECT format('ALTER SYSTEM SET pg_net.database_name = %L', :'database') FROM pg_extension WHERE extname = 'pg_net' \gexec
	SQL
    [ "${PGEDGE_TUNE:-on}" != off ] || return 0
    # Lists are not quoted: shared_preload_libraries would become one library with a comma in its name.
    # A Raspberry Pi's kernel starts without memory control groups, and the engine then drops the limit: all of the machine would seem to be ours.
    sql -v ram="${PGEDGE_RAM:-}" -v memory="${PGEDGE_MEMORY:-}" -v storage="${PGEDGE_STORAGE:-}" <<-'SQL'
	SELECT coalesce(nullif(:'ram', ''), (
	    SELECT pg_size_bytes(m[1] || m[2] || 'B')::text FROM regexp_match(:'memory', '^([0-9.]*[1-9][0-9.]*) *([kmgt]?)i?b?$', 'i') m, pgedge._host() h
	    WHERE pg_size_bytes(m[1] || m[2] || 'B') < h.ram_bytes), '') AS ram \gset
	SELECT format('ALTER SYSTEM SET %I = %s', name, CASE name WHEN 'shared_preload_libraries' THEN recommended ELSE quote_literal(recommended) END)
	FROM pgedge.recommended_settings(nullif(:'ram', ''), NULL, nullif(:'storage', ''))
	WHERE recommended IS DISTINCT FROM current \gexec
	SQL
}

# What PostgreSQL demands of a key; the server would not start with another, and nobody would see why.
usable_key() {
    local owner mode
    [ -r "$1/server.key" ] && [ -r "$1/server.crt" ] || { echo "pgedge: user $(id -un) cannot read $1/server.crt and $1/server.key" >&2; exit 1; }
    owner=$(stat -Lc %u "$1/server.key") mode=$(stat -Lc %a "$1/server.key")
    if [ "$owner" = "$(id -u)" ] && [ $((0$mode & 077)) = 0 ]; then return; fi
    if [ "$owner" = 0 ] && [ $((0$mode & 037)) = 0 ]; then return; fi
    echo "pgedge: $1/server.key must have mode 600 and belong to user id $(id -u), or mode 640, root as its owner and group id $(id -g)" >&2
    exit 1
}

certificate() {
    [ "${PGEDGE_TLS:-on}" != off ] || return 0
    if [ -z "$(sql -At -c 'SHOW ssl_library')" ]; then
        echo 'pgedge: this PostgreSQL is built without TLS, so connections are not encrypted'
        return 0
    fi
    local mounted=${PGEDGE_TLS_DIR:-/etc/postgresql/tls}
    if [ -e "$mounted/server.key" ] || [ -e "$mounted/server.crt" ]; then
        usable_key "$mounted"
        # Where they are, so that a renewed certificate needs a reload and nothing else.
        sql -v folder="$mounted" <<-'SQL'
	SELECT format('ALTER SYSTEM SET %s = %L', name, :'folder' || '/' || file) FROM (VALUES ('ssl_cert_file', 'server.crt'), ('ssl_key_file', 'server.key')) f(name, file) \gexec
	SQL
    elif [ ! -e "$PGDATA/server.key" ]; then
        # Ten years: nobody renews it on a box that nobody visits. It encrypts; to prove who the server is, mount a certificate of your own.
        openssl req -new -x509 -days 3650 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj "/CN=${HOSTNAME:-pgedge}" \
            -addext "subjectAltName=DNS:${HOSTNAME:-pgedge}" -keyout "$PGDATA/server.key" -out "$PGDATA/server.crt" 2>/dev/null
        chmod 600 "$PGDATA/server.key"
    fi
    sql -c 'ALTER SYSTEM SET ssl = on'
}

extensions
settings
certificate
