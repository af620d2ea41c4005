#!/bin/sh
# In the stand-in base, as root: the Debian package of /dist by apt with what it depends on, every family used once, and the package gone again.
set -eu
apt-get -q update
apt-get -q install -y --no-install-recommends /dist/postgresql-16-pgedge_*.deb
dpkg -s postgresql-16-pgedge | grep -E '^(Status|Version|Depends)'
cd /tmp
install -d -o postgres -g postgres /tmp/backup
as_postgres() { gosu postgres env PATH="/usr/lib/postgresql/16/bin:$PATH" PGHOST=/tmp "$@"; }
as_postgres initdb -D /tmp/data -A trust >/dev/null
as_postgres pg_ctl -D /tmp/data -l /tmp/log -w -o '-k /tmp -c listen_addresses=' start >/dev/null
as_postgres psql -X -At -v ON_ERROR_STOP=1 -d postgres <<'SQL'
CREATE EXTENSION pgedge CASCADE;
SELECT 'version ' || extversion FROM pg_extension WHERE extname = 'pgedge';
SELECT message_pattern, occurrences FROM pgedge.aggregate_logs(ARRAY['User 1 logged in', 'User 2 logged in']);
SELECT pgedge.enqueue_event('packaged', '{}');
SELECT event_type FROM pgedge.claim_events();
SELECT pgedge.batch_similarity('[1,0]', ARRAY['[1,0]', '[0,1]']::vector[]);
SELECT status FROM pgedge.health() WHERE check_name = 'tables';
SQL
as_postgres pgedge-backup dump /tmp/backup
as_postgres pg_ctl -D /tmp/data -w -m fast stop >/dev/null
apt-get -q remove -y postgresql-16-pgedge
if find / -xdev -name '*pgedge*' -not -path '/dist/*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' -not -path '/var/lib/apt/*' | grep .; then
    echo 'left behind by apt-get remove' >&2
    exit 1
fi
