#!/usr/bin/env bash
# First start of the container, run by the base image's entrypoint while the server listens on its socket only: the extensions in
# POSTGRES_DB, the settings for this machine, and a certificate when none is mounted.
#   PGEDGE_TUNE=off      keeps docker/postgresql.conf as it is
#   PGEDGE_RAM=1700MB    the server's share of the memory, when the container has no limit
#   PGEDGE_STORAGE=sd    ssd, sd or hdd, when it cannot be seen
#   PGEDGE_TLS=off       no certificate; connections are not encrypted
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
    sql -v ram="${PGEDGE_RAM:-}" -v storage="${PGEDGE_STORAGE:-}" <<-'SQL'
	SELECT format('ALTER SYSTEM SET %I = %s', name, CASE name WHEN 'shared_preload_libraries' THEN recommended ELSE quote_literal(recommended) END)
	FROM pgedge.recommended_settings(nullif(:'ram', ''), NULL, nullif(:'storage', ''))
	WHERE recommended IS DISTINCT FROM current \gexec
	SQL
}

certificate() {
    [ "${PGEDGE_TLS:-on}" != off ] || return 0
    if [ -z "$(sql -At -c 'SHOW ssl_library')" ]; then
        echo 'pgedge: this PostgreSQL is built without TLS, so connections are not encrypted'
        return 0
    fi
    if [ ! -e "$PGDATA/server.key" ]; then
        # Ten years: nobody renews it on a box that nobody visits. It encrypts; to prove who the server is, mount a certificate of your own.
        openssl req -new -x509 -days 3650 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj "/CN=${HOSTNAME:-pgedge}" \
            -keyout "$PGDATA/server.key" -out "$PGDATA/server.crt" 2>/dev/null
        chmod 600 "$PGDATA/server.key"
    fi
    sql -c 'ALTER SYSTEM SET ssl = on'
}

extensions
settings
certificate
