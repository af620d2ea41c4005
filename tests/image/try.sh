#!/usr/bin/env bash
# Runs what scripts/test-image.sh built, in a network of its own, as an engine would by the image's configuration: first start on an empty
# volume, health check, the demo's work, stop by its STOPSIGNAL, second start, data still there.
# Environment: STORE RUN CONTAINER ROOTFS DATA (the volume's folder) WITH_PG_NET ROOT PYTHON.
set -euo pipefail
ip link set lo up
# From 127.0.0.1 initdb lets everyone in; from elsewhere the entrypoint asks for a password.
ip address add 192.0.2.1/32 dev lo
# Whatever fails, the server does not stay.
trap '[ ! -e "$DATA/postmaster.pid" ] || kill -QUIT "$(head -n 1 "$DATA/postmaster.pid")"' EXIT
b() { local command=$1; shift; buildah --root "$STORE" --runroot "$RUN" "$command" "$@"; }
note() { printf '   %s\n' "$*"; }
die() { printf '   FAILED: %s\n' "$*" >&2; tail -n 40 "$DATA.log" >&2 || true; exit 1; }
config() { b inspect --format "$1" "$CONTAINER"; }
stop_signal=$(config '{{.Docker.Config.StopSignal}}')
health=$(b inspect --type container "$CONTAINER" | "$PYTHON" -c 'import json, sys; print(" ".join(json.load(sys.stdin)["Docker"]["config"]["Healthcheck"]["Test"][1:]))')
mapfile -t command < <(b inspect --type container "$CONTAINER" | "$PYTHON" -c 'import json, sys; c = json.load(sys.stdin)["Docker"]["config"]; print("\n".join(c["Entrypoint"] + c["Cmd"]))')
mount=(-v "$DATA:/var/lib/postgresql/data")
env=(--env POSTGRES_USER=ai_platform_user --env POSTGRES_PASSWORD=secret --env POSTGRES_DB=ai_platform_db --env PGEDGE_RAM=1GB --env PGEDGE_STORAGE=sd
    --env POSTGRES_INITDB_ARGS=--data-checksums)
inside() { b run "${env[@]}" "${mount[@]}" "$CONTAINER" -- "$@"; }
sql() { inside env PGPASSWORD=secret psql -X -At -v ON_ERROR_STOP=1 -h 192.0.2.1 -U ai_platform_user -d ai_platform_db -c "$1"; }
is() { local got; got=$(sql "$2"); [ "$got" = "$3" ] || die "$1: got \"$got\" instead of \"$3\""; note "ok: $1"; }

start() {
    b run "${env[@]}" "${mount[@]}" "$CONTAINER" -- "${command[@]}" >>"$DATA.log" 2>&1 &
    server=$!
    local n
    for n in $(seq 300); do
        if inside $health; then note "ok: healthy after $n looks"; return; fi
        kill -0 "$server" 2>/dev/null || die 'the server ended'
        sleep 1
    done
    die 'never healthy'
}

stop() {
    kill -s "$stop_signal" "$(head -n 1 "$DATA/postmaster.pid")"
    wait "$server" || true
    [ ! -e "$DATA/postmaster.pid" ] || die 'it did not stop cleanly'
    note "ok: $stop_signal stops it"
}

rm -rf "$DATA" && mkdir -p "$DATA"
: >"$DATA.log"
for gone in gcc cargo rustc git make; do
    if inside sh -c "command -v $gone" >/dev/null; then die "$gone is in the final image"; fi
done
[ ! -d "$ROOTFS/usr/include/postgresql" ] && [ ! -d "$ROOTFS/usr/local/rustup" ] && [ ! -d "$ROOTFS/src" ] || die 'the final image holds what only the build needs'
note "ok: nothing of the toolchain; $(du -sm --one-file-system "$ROOTFS" | cut -f1) MB, pgedge.so $(du -k "$ROOTFS/usr/lib/postgresql/16/lib/pgedge.so" | cut -f1) kB"
if inside $health; then die 'healthy before it was started'; fi

start
[ "$(head -n 1 "$DATA/PG_VERSION")" = 16 ] || die 'no cluster in the volume'
if [ -n "${WITH_PG_NET:-}" ]; then libraries=pg_net,pg_stat_statements; else libraries=pg_stat_statements; fi
is 'shared_preload_libraries' 'SHOW shared_preload_libraries' "$libraries"
is 'extensions' "SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension WHERE extname <> 'plpgsql'" \
    "${WITH_PG_NET:+pg_net }pg_stat_statements pgedge vector"
is 'settings for 1 GB' "SELECT string_agg(name, ' ') FROM pgedge.recommended_settings('1GB', NULL, 'sd') WHERE current IS DISTINCT FROM recommended" ''
is 'the configuration file' "SHOW config_file" /etc/postgresql/postgresql.conf
is 'checksums' 'SHOW data_checksums' on
is 'nothing critical but what this machine cannot show' "SELECT string_agg(check_name || ': ' || detail, '; ') FROM pgedge.health() WHERE status = 'critical' AND check_name <> 'disk_space'" ''
if [ -n "${WITH_PG_NET:-}" ]; then
    is 'the worker of pg_net runs' "SELECT status FROM pgedge.health() WHERE check_name = 'pg_net'" ok
fi
if [ "$(sql 'SHOW ssl_library')" = OpenSSL ]; then is 'TLS' 'SHOW ssl' on; else note 'not tried: TLS, which this stand-in of a server lacks'; fi
if inside env PGPASSWORD=wrong psql -X -h 192.0.2.1 -U ai_platform_user -d ai_platform_db -c '' 2>/dev/null; then die 'a wrong password is let in'; fi

note 'the demo, in the container'
PGEDGE_DSN='host=192.0.2.1 port=5432 user=ai_platform_user password=secret dbname=ai_platform_db' "$PYTHON" "$ROOT/scripts/demo.py" >"$DATA.demo" || { cat "$DATA.demo"; die 'the demo failed'; }
before=$(sql "SELECT (SELECT sum(count) FROM aggregated_logs), (SELECT count(*) FROM claude_events WHERE status = 'processed'), (SELECT count(*) FROM vectors)")
note "ok: lines, events, embeddings: $before"
inside mkdir -p /var/lib/postgresql/data/backup
inside env PGPASSWORD=secret PGHOST=192.0.2.1 pgedge-backup dump /var/lib/postgresql/data/backup >/dev/null
is 'a backup is known' "SELECT status FROM pgedge.health() WHERE check_name = 'backup_age'" ok
stop

start
is 'the data after a restart' "SELECT (SELECT sum(count) FROM aggregated_logs), (SELECT count(*) FROM claude_events WHERE status = 'processed'), (SELECT count(*) FROM vectors)" "$before"
sql "SELECT pgedge.enqueue_event('after', '{}')" >/dev/null
is 'the queue goes on' "SELECT event_type FROM pgedge.claim_events(1, '1 minute', ARRAY['after'])" after
stop
