#!/bin/sh
# Over TCP, since the server of the first start, which only runs the initialisation, listens on the socket alone.
exec pg_isready -q -h 127.0.0.1 -p 5432 -U "${POSTGRES_USER:-postgres}" -d "${POSTGRES_DB:-${POSTGRES_USER:-postgres}}"
