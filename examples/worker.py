"""A worker for pgedge's event queue: psycopg 3, LISTEN and claim. Run as many as you like; kill any at any time.

    python worker.py "host=… dbname=…" [type …]
"""
import sys
import time

import psycopg


def handle(event_type: str, payload) -> None:
    print(event_type, payload, flush=True)  # your work; it may run again after a crash, so make it repeatable


def work(dsn: str, types: list[str] | None) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("LISTEN pgedge_events")
        while True:
            events = conn.execute("SELECT id, event_type, payload, lease_token FROM pgedge.claim_events(10, '1 minute', %s, 'worker.py')", (types,)).fetchall()
            for event, event_type, payload, token in events:
                try:
                    handle(event_type, payload)
                    conn.execute("SELECT pgedge.complete_events(ARRAY[%s]::bigint[], %s)", (event, token))
                except psycopg.Error:
                    raise
                except Exception as error:  # tried again later
                    conn.execute("SELECT pgedge.fail_events(ARRAY[%s]::bigint[], %s, %s)", (event, token, str(error)))
            if not events:  # sleep until a notification, or look for what became due
                list(conn.notifies(timeout=5, stop_after=1))


while True:
    try:
        work(sys.argv[1], sys.argv[2:] or None)
    except psycopg.OperationalError as error:  # the server restarts: what was claimed comes back by itself
        print(error, file=sys.stderr)
        time.sleep(1)
