"""A stand-in for the extension pg_net, for servers without it: its interface and its ways of failing, written for these tests.

The tables are UNLOGGED, ids restart with them, every role may do everything to them. What is missing is the background worker; `Sender` is
one outside: in one transaction it takes a batch out of the queue, sends it, follows redirects (a POST becomes a GET), and writes the answers.
"""
from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import psycopg

MARK = "stand-in for pg_net, of the tests of pgedge"
CONTROL = f"comment = '{MARK}'\ndefault_version = '0.0'\nrelocatable = false\n"
SCRIPT = """
CREATE SCHEMA IF NOT EXISTS net;
CREATE UNLOGGED TABLE net.http_request_queue (
    id bigserial, method text NOT NULL, url text NOT NULL, headers jsonb, body bytea, timeout_milliseconds int NOT NULL);
CREATE UNLOGGED TABLE net._http_response (
    id bigint, status_code int, content_type text, headers jsonb, content text, timed_out boolean, error_msg text, created timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION net.http_post(url text, body jsonb DEFAULT '{}', params jsonb DEFAULT '{}', headers jsonb DEFAULT '{"Content-Type": "application/json"}',
                              timeout_milliseconds int DEFAULT 5000) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    request bigint;
BEGIN
    IF url LIKE '%/refused-by-pg-net' THEN RAISE 'no such address: %', url USING ERRCODE = 'XX000'; END IF;
    INSERT INTO net.http_request_queue (method, url, headers, body, timeout_milliseconds)
    VALUES ('POST', http_post.url, http_post.headers, convert_to(http_post.body::text, 'UTF8'), http_post.timeout_milliseconds) RETURNING id INTO request;
    RETURN request;
END $$;
GRANT USAGE ON SCHEMA net TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA net TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA net TO PUBLIC;
"""


class StandIn:
    """The extension's files in a server's folder, taken away again at the end."""

    def __init__(self, bindir: Path):
        share = subprocess.run([str(bindir / "pg_config"), "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
        self.control, self.script = (Path(share, "extension", name) for name in ("pg_net.control", "pg_net--0.0.sql"))

    @property
    def real(self) -> bool:
        return self.control.exists() and MARK not in self.control.read_text()

    def __enter__(self) -> "StandIn":
        self.control.write_text(CONTROL)
        self.script.write_text(SCRIPT)
        return self

    def __exit__(self, *_) -> None:
        if not self.real:
            self.control.unlink(missing_ok=True)
            self.script.unlink(missing_ok=True)


def post(url: str, headers: dict, body: bytes | None, seconds: float, method: str = "POST", hops: int = 5) -> tuple:
    """One request: status, headers, timed out, what went wrong."""
    parts = urlsplit(url)
    conn = http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
    try:
        conn.request(method, parts.path or "/", body, headers)
        answer = conn.getresponse()
        answer.read()
        if answer.status in (301, 302, 303) and answer.getheader("location") and hops:
            return post(urljoin(url, answer.getheader("location")), {k: v for k, v in headers.items() if k.lower() != "content-type"}, None, seconds, "GET", hops - 1)
        return answer.status, dict(answer.getheaders()), False, None
    except (TimeoutError, socket.timeout):
        return None, None, True, f"Timeout of {int(seconds * 1000)} ms reached"
    except OSError as problem:
        return None, None, False, f"Couldn't connect to server ({problem.errno})"
    finally:
        conn.close()


class Sender(threading.Thread):
    """pg_net's worker. It outlives the server, as pg_net's is started again with it."""

    def __init__(self, dsn: str, batch: int = 200, pause: float = 0.02):
        super().__init__(daemon=True)
        self.dsn, self.batch, self.pause, self.stopped = dsn, batch, pause, threading.Event()

    def turn(self, conn: psycopg.Connection) -> None:
        with conn.transaction(), ThreadPoolExecutor(32) as pool:
            rows = conn.execute("DELETE FROM net.http_request_queue q USING (SELECT id FROM net.http_request_queue ORDER BY id LIMIT %s) b WHERE q.id = b.id"
                                " RETURNING q.id, q.url, q.headers, q.body, q.timeout_milliseconds", (self.batch,)).fetchall()
            answers = pool.map(lambda r: post(r[1], r[2], bytes(r[3]), r[4] / 1000), rows)
            for row, (status, headers, timed_out, problem) in zip(rows, answers):
                conn.execute("INSERT INTO net._http_response (id, status_code, headers, timed_out, error_msg) VALUES (%s, %s, %s, %s, %s)",
                             (row[0], status, json.dumps(headers) if headers is not None else None, timed_out, problem))

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                with psycopg.connect(self.dsn, autocommit=True) as conn:
                    while not self.stopped.wait(self.pause):
                        self.turn(conn)
            except psycopg.Error:
                time.sleep(0.1)

    def __enter__(self) -> "Sender":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.join(30)


class Receiver:
    """An HTTP server that notes every request and answers as told: by path a status, or a function of the number of requests there so far
    that returns a status, or (status, headers)."""

    def __init__(self):
        self.requests: list[tuple] = []
        self.answers: dict = {}
        self.hold = threading.Event()  # "/slow" answers when it is set
        self.lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def serve(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                with receiver.lock:
                    n = sum(1 for r in receiver.requests if r[1] == self.path)
                    receiver.requests.append((self.command, self.path, dict(self.headers), body, time.time()))
                answer = receiver.answers.get(self.path, 200)
                answer = answer(n) if callable(answer) else answer
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                if self.path == "/slow":
                    receiver.hold.wait(20)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # the client has gone

            do_POST = do_GET = serve

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def at(self, path: str) -> list[tuple]:
        with self.lock:
            return [r for r in self.requests if r[1] == path]

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()
