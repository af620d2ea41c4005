#!/usr/bin/env bash
# Runs what scripts/test-image.sh built, in a network of its own, as an engine would by the image's configuration: first start on an empty
# volume, health check, the demo's work, TLS as docs/image.md says, stop by its STOPSIGNAL, second start, data still there; then first starts that
# are told otherwise.
# Environment: STORE RUN CONTAINER (the server's) TOOLS (another of the same image) ROOTFS DATA (the volume's folder) ENTRYPOINT (another, or empty) WITH_PG_NET ROOT PYTHON.
set -euo pipefail
ip link set lo up
# From 127.0.0.1 initdb lets everyone in; from elsewhere the entrypoint asks for a password.
ip address add 192.0.2.1/32 dev lo
volume=$DATA
b() { local command=$1; shift; buildah --root "$STORE" --runroot "$RUN" "$command" "$@"; }
note() { printf '   %s\n' "$*"; }
die() { printf '   FAILED: %s\n' "$*" >&2; tail -n 40 "$volume.log" >&2 || true; exit 1; }
config() { b inspect --type container "$CONTAINER" | "$PYTHON" -c "import json, sys; c = json.load(sys.stdin)['Docker']['config']; print($1)"; }
stop_signal=$(config "c['StopSignal']")
health=$(config "' '.join(c['Healthcheck']['Test'][1:])")
mapfile -t command < <(config "'\n'.join(c['Entrypoint'] + c['Cmd'])")

# What a container is started with; the volume comes first.
options() {
    env=(--env POSTGRES_USER=ai_platform_user --env POSTGRES_PASSWORD=secret --env POSTGRES_DB=ai_platform_db --env POSTGRES_INITDB_ARGS=--data-checksums "$@")
    mount=(-v "$volume:/var/lib/postgresql/data")
    [ -z "${ENTRYPOINT:-}" ] || mount+=(-v "$ENTRYPOINT:/usr/local/bin/docker-entrypoint.sh:ro")
}
# Beside the server, as docker exec.
inside() { b run "${env[@]}" "${mount[@]}" "$TOOLS" -- "$@"; }
# sql STATEMENT [MORE OF THE CONNECTION STRING]
sql() { inside env PGPASSWORD=secret psql -X -At -v ON_ERROR_STOP=1 -d "host=192.0.2.1 user=ai_platform_user dbname=ai_platform_db ${2:-}" -c "$1"; }
is() { local got; got=$(sql "$2" "${4:-}") || die "$1: the statement failed"; [ "$got" = "$3" ] || die "$1: got \"$got\" instead of \"$3\""; note "ok: $1"; }
refused() { if sql 'SELECT 1' "$2" >/dev/null 2>&1; then die "$1 is let in"; fi; note "ok: refused: $1"; }
# Whatever fails, the server does not stay.
trap 'for pid in "$DATA"*/postmaster.pid; do [ ! -e "$pid" ] || kill -QUIT "$(head -n 1 "$pid")"; done' EXIT

empty_volume() { volume=$DATA$1; rm -rf "$volume" && mkdir -p "$volume"; : >"$volume.log"; }

start() {
    b run "${env[@]}" "${mount[@]}" "$CONTAINER" -- "${command[@]}" >>"$volume.log" 2>&1 &
    server=$!
    local n
    for n in $(seq 300); do
        if inside $health 2>/dev/null; then note "ok: healthy after $n looks"; return; fi
        kill -0 "$server" 2>/dev/null || die 'the server ended'
        sleep 1
    done
    die 'never healthy'
}

stop() {
    kill -s "$stop_signal" "$(head -n 1 "$volume/postmaster.pid")"
    wait "$server" || true
    [ ! -e "$volume/postmaster.pid" ] || die 'it did not stop cleanly'
    note "ok: $stop_signal stops it"
}

nothing_of_the_toolchain() {
    local gone
    for gone in gcc cargo rustc git make; do
        if inside sh -c "command -v $gone" >/dev/null 2>&1; then die "$gone is in the final image"; fi
    done
    [ ! -d "$ROOTFS/usr/include/postgresql" ] && [ ! -d "$ROOTFS/usr/local/rustup" ] && [ ! -d "$ROOTFS/src" ] || die 'the final image holds what only the build needs'
    note "ok: nothing of the toolchain; $(du -sm --one-file-system "$ROOTFS" | cut -f1) MB, pgedge.so $(du -k "$ROOTFS/usr/lib/postgresql/16/lib/pgedge.so" | cut -f1) kB"
}

first_start() {
    # A look from within the initialisation, whose server listens on the socket alone.
    printf '%s\n' '#!/bin/sh' 'pgedge-healthcheck; echo "health check said $?" >"$PGDATA/looked"; pg_isready >>"$PGDATA/looked"' >"$DATA.look"
    chmod 755 "$DATA.look"
    mount+=(-v "$DATA.look:/docker-entrypoint-initdb.d/99-look.sh:ro")
    if inside $health 2>/dev/null; then die 'healthy before it was started'; fi
    start
    [ "$(head -n 1 "$volume/PG_VERSION")" = 16 ] || die 'no cluster in the volume'
    grep -q 'health check said 2' "$volume/looked" && grep -q 'accepting' "$volume/looked" || die "the health check does not tell the initialisation: $(cat "$volume/looked")"
    note 'ok: not healthy while the initialisation runs'
    local libraries=pg_stat_statements
    [ -z "${WITH_PG_NET:-}" ] || libraries=pg_net,pg_stat_statements
    is 'shared_preload_libraries' 'SHOW shared_preload_libraries' "$libraries"
    is 'extensions' "SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension WHERE extname <> 'plpgsql'" "${WITH_PG_NET:+pg_net }pg_stat_statements pgedge vector"
    is 'settings for 1 GB' "SELECT string_agg(name, ' ') FROM pgedge.recommended_settings('1GB', NULL, 'sd') WHERE current IS DISTINCT FROM recommended" ''
    is 'shared_buffers for 1 GB' 'SHOW shared_buffers' 256MB
    is 'the configuration file' 'SHOW config_file' /etc/postgresql/postgresql.conf
    is 'checksums' 'SHOW data_checksums' on
    is 'nothing critical but what this machine cannot show' "SELECT string_agg(check_name || ': ' || detail, '; ') FROM pgedge.health() WHERE status = 'critical' AND check_name <> 'disk_space'" ''
    refused 'a wrong password' 'password=wrong'
}

tls() {
    local name
    name=$(inside openssl x509 -in /var/lib/postgresql/data/server.crt -noout -subject -nameopt multiline | sed -n 's/.*commonName *= //p' | tr -d '\r')
    [ "$(stat -c %a "$volume/server.key")" = 600 ] || die 'others may read the key'
    is 'TLS' "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()" 't|TLSv1.3' sslmode=require
    is 'still without, before it is required' 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()' f sslmode=disable
    is 'the certificate verifies itself' 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()' t "host=$name hostaddr=192.0.2.1 sslmode=verify-full sslrootcert=/var/lib/postgresql/data/server.crt"
    refused 'another name than the certificate has' 'host=impostor hostaddr=192.0.2.1 sslmode=verify-full sslrootcert=/var/lib/postgresql/data/server.crt'
    # As docs/image.md has it, word for word.
    local line
    line=$(sed -n "s/^docker compose exec postgres \(sed .*pg_hba.conf\)$/\1/p" "$ROOT/docs/image.md")
    [ -n "$line" ] || die 'docs/image.md does not say how to require TLS'
    inside sh -c "$line"
    sql 'SELECT pg_reload_conf()' >/dev/null
    is 'no line lets in without TLS but from this machine' "SELECT count(*) FROM pg_hba_file_rules WHERE type = 'host' AND address NOT IN ('127.0.0.1', '::1') AND 'all' = ANY (database)" 0
    refused 'a connection without TLS, now that it is required' sslmode=disable
    is 'TLS, required' 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()' t sslmode=require
}

work() {
    note 'the demo, in the container'
    PGEDGE_DSN='host=192.0.2.1 port=5432 user=ai_platform_user password=secret dbname=ai_platform_db' "$PYTHON" "$ROOT/scripts/demo.py" >"$DATA.demo" || { cat "$DATA.demo"; die 'the demo failed'; }
    inside mkdir -p /var/lib/postgresql/data/backup
    inside env PGPASSWORD=secret PGHOST=192.0.2.1 pgedge-backup dump /var/lib/postgresql/data/backup >/dev/null
    is 'a backup is known' "SELECT status FROM pgedge.health() WHERE check_name = 'backup_age'" ok
    is 'slow_queries fills' "SELECT count(*) > 0 FROM pgedge.slow_queries WHERE query LIKE '%aggregate_logs%'" t
}

counts="SELECT (SELECT sum(count) FROM aggregated_logs), (SELECT count(*) FROM claude_events WHERE status = 'processed'), (SELECT count(*) FROM vectors)"

restart() {
    local before
    before=$(sql "$counts")
    note "ok: lines, events, embeddings: $before"
    stop
    start
    is 'the data after a restart' "$counts" "$before"
    sql "SELECT pgedge.enqueue_event('after', '{}')" >/dev/null
    is 'the queue goes on' "SELECT event_type FROM pgedge.claim_events(1, '1 minute', ARRAY['after'])" after
}

# With pg_net: its worker serves this database, fetches, and health() sees when it does not.
pg_net() {
    [ -n "${WITH_PG_NET:-}" ] || { note 'not tried: pg_net (PGEDGE_PG_NET)'; return 0; }
    local line="SELECT status FROM pgedge.health() WHERE check_name = 'pg_net'"
    is 'the worker of pg_net runs' "$line" ok
    "$PYTHON" -m http.server --bind 192.0.2.1 --directory "$ROOT/docs/monitoring" 8080 >/dev/null 2>&1 &
    local web=$! request n
    request=$(sql "SELECT net.http_get('http://192.0.2.1:8080/queries.yaml')")
    for n in $(seq 30); do
        [ "$(sql "SELECT status_code FROM net._http_response WHERE id = $request")" != 200 ] || break
        [ "$n" != 30 ] || die 'pg_net fetches nothing'
        sleep 1
    done
    kill "$web"
    note 'ok: net.http_get'
    sql "ALTER SYSTEM SET pg_net.database_name = 'postgres'" >/dev/null
    stop
    start
    is 'health() sees that it serves another database' "SELECT status || ': ' || detail FROM pgedge.health() WHERE check_name = 'pg_net'" \
        'warning: created, but its worker does not run for this database; webhooks need it'
    sql "ALTER SYSTEM SET pg_net.database_name = 'ai_platform_db'" >/dev/null
    stop
    start
    is 'and that it serves this one again' "$line" ok
}

# Told to leave the settings, and given a certificate.
told_otherwise() {
    empty_volume .told
    options --env PGEDGE_TUNE=off
    mkdir -p "$DATA.tls"
    openssl req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=edge.example -addext subjectAltName=DNS:edge.example \
        -keyout "$DATA.tls/server.key" -out "$DATA.tls/server.crt" 2>/dev/null
    mount+=(-v "$DATA.tls:/etc/postgresql/tls:ro")
    chown 0:999 "$DATA.tls/server.key"
    chmod 644 "$DATA.tls/server.key"
    if b run "${env[@]}" "${mount[@]}" "$CONTAINER" -- "${command[@]}" >>"$volume.log" 2>&1; then die 'a key that all may read is taken'; fi
    grep -q 'pgedge: .*server.key must have mode 600' "$volume.log" || die 'nobody says what is wrong with the key'
    note 'ok: refused: a key that all may read'
    # An engine ends what is left in a container; here the initialisation's server is still there.
    local left
    left=$(head -n 1 "$volume/postmaster.pid")
    kill -INT "$left"
    while kill -0 "$left" 2>/dev/null; do sleep 0.2; done
    rm -rf "${volume:?}"/*
    chmod 640 "$DATA.tls/server.key"
    start
    is 'the file alone, without recommended settings' "SELECT string_agg(name, ' ') FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf' AND name NOT LIKE 'ssl%' AND name NOT LIKE 'pg_net%'" ''
    is 'shared_buffers of the file' 'SHOW shared_buffers' 512MB
    is 'the mounted certificate' 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()' t 'host=edge.example hostaddr=192.0.2.1 sslmode=verify-full sslrootcert=/etc/postgresql/tls/server.crt'
    [ ! -e "$volume/server.key" ] || die 'a certificate is made although one is mounted'
    stop
    empty_volume .plain
    options --env PGEDGE_TLS=off
    start
    is 'no TLS, as told' 'SHOW ssl' off
    stop
}

empty_volume ''
options --env PGEDGE_RAM=1GB --env PGEDGE_STORAGE=sd
nothing_of_the_toolchain
first_start
tls
work
restart
pg_net
stop
told_otherwise
