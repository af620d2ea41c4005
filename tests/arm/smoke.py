"""The extension in an emulated aarch64 server (scripts/test-arm-extension.sh): what SQL gives must be what it gives elsewhere.

PG_BIN holds the server's programs, QEMU_CPU names the emulated core.
"""
from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from cluster import Cluster  # noqa: E402

LEVELS = {"cortex-a72": "neon", "cortex-a76": "neon+dotprod+fp16", "max": "neon+dotprod+fp16"}
DIM = 384  # of the table vectors

VECTORS = f"""
SELECT setseed(0.5);
INSERT INTO vectors (content, embedding)
SELECT 'text ' || i, (SELECT array_agg(random() - 0.5 + 0 * (i + j)) FROM generate_series(1, {DIM}) j)::vector FROM generate_series(1, 1500) i;
INSERT INTO vectors (content, embedding) SELECT content, embedding FROM vectors WHERE substr(content, 6)::int % 50 = 0;
CREATE TABLE asked AS SELECT DISTINCT ON (n) n / 16 AS no, embedding FROM (SELECT substr(content, 6)::int AS n, embedding FROM vectors) v WHERE n % 16 = 0;
ANALYZE vectors;
"""

# Rows of ours and of pgvector's exact scan that differ. `k` of each, ties by id. pgvector sums in f32, so equal ranks may swap within its error.
DIFFERENCES = """
WITH ours AS (SELECT query_no, rank, id::uuid AS id, similarity FROM pgedge.batch_search((SELECT array_agg(embedding ORDER BY no) FROM asked WHERE no <= {queries}),
        k => 10, metric => '{metric}')),
theirs AS (SELECT a.no AS query_no, t.* FROM asked a, LATERAL (SELECT row_number() OVER (ORDER BY embedding {operator} a.embedding, id) AS rank, id,
        {score} AS similarity FROM vectors ORDER BY embedding {operator} a.embedding, id LIMIT 10) t WHERE a.no <= {queries})
SELECT count(*) FILTER (WHERE o.id IS NULL OR t.id IS NULL OR abs(o.similarity - t.similarity) > 1e-4)
    || ' of ' || count(*) || ', ids differ ' || count(*) FILTER (WHERE o.id <> t.id AND abs(o.similarity - t.similarity) > 1e-6 * greatest(1, abs(t.similarity)))
FROM ours o FULL JOIN theirs t USING (query_no, rank)
"""
METRICS = {
    "cosine": ("<=>", "1 - (embedding <=> a.embedding)"),
    "l2": ("<->", "embedding <-> a.embedding"),
    "ip": ("<#>", "-(embedding <#> a.embedding)"),
}


def expect(what: str, got: str, want: str) -> None:
    if got != want:
        raise SystemExit(f"{what}: got {got!r}, expected {want!r}")
    print(f"   {what}: {got}", flush=True)


def similarity(c: Cluster) -> None:
    expect("simd_level()", c.psql("SELECT pgedge.simd_level()"), LEVELS[os.environ["QEMU_CPU"]])
    c.psql(VECTORS)
    # Three queries take the pass over single rows, twenty the f32 tiles, ninety the int8 tiles.
    for metric, (operator, score) in METRICS.items():
        for queries in (3, 20, 90):
            got = c.psql(DIFFERENCES.format(queries=queries, metric=metric, operator=operator, score=score))
            expect(f"batch_search, {metric}, {queries} queries, beside pgvector's scan: rows that differ", got,
                   f"0 of {queries * 10}, ids differ 0")
    expect("in parallel the same",
           c.psql("""SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
                     CREATE TEMP TABLE par AS SELECT * FROM pgedge.batch_search((SELECT array_agg(embedding ORDER BY no) FROM asked), k => 5);
                     SET max_parallel_workers_per_gather = 0;
                     SELECT count(*) FROM (TABLE par EXCEPT SELECT * FROM pgedge.batch_search((SELECT array_agg(embedding ORDER BY no) FROM asked), k => 5)) d"""), "0")
    expect("similarity_matrix", c.psql("SELECT pgedge.similarity_matrix(ARRAY['[1,0]', '[0,2]']::vector[], metric => 'l2')"),
           "{{0,2.236068},{2.236068,0}}")
    expect("halfvec", c.psql("SELECT pgedge.batch_similarity('[1,0]'::halfvec, ARRAY['[1,0]', '[0,1]', NULL]::halfvec[])"), "{1,0,NULL}")


def logs(c: Cluster) -> None:
    if c.psql("SELECT count(*) FROM pg_proc WHERE proname = 'aggregate_logs'") == "0":
        print("   skipped: this build has no pgedge.aggregate_logs")
        return
    # The id ends the lines so that only it varies.
    got = c.psql("""SELECT occurrences FROM pgedge.aggregate_logs(
        (SELECT array_agg('connection from 10.0.0.' || i % 200 || ' closed after ' || i || ' ms') FROM generate_series(1, 1000) i), 'INFO', 'sshd')""")
    expect("aggregate_logs, 1000 lines of one kind: occurrences of each pattern", got, "1000")
    expect("aggregated_logs", c.psql("SELECT count(*) FROM aggregated_logs"), "1")


def events(c: Cluster) -> None:
    c.psql("SELECT pgedge.enqueue_event('build', jsonb_build_object('n', n)) FROM generate_series(1, 5) n")
    got = c.psql("""CREATE TEMP TABLE mine AS SELECT * FROM pgedge.claim_events(3, '1 minute', worker => 'arm');
                    SELECT count(*), (SELECT count(*) FROM pgedge.claim_events(10)) FROM mine;
                    SELECT count(*) FROM mine m, LATERAL pgedge.complete_events(ARRAY[m.id], m.lease_token)""")
    expect("events: claimed, claimed by another, completed", got.replace("\n", ", ").replace("|", ", "), "3, 2, 3")
    expect("events: processed", c.psql("SELECT count(*) FROM claude_events WHERE status = 'processed'"), "3")


def main() -> None:
    started = time.monotonic()
    with Cluster({"shared_buffers": "32MB", "max_connections": "20", "jit": "off"}) as c:
        print(f"   {c.psql('SELECT version()')}", flush=True)
        c.psql("CREATE EXTENSION pgedge CASCADE")
        for part in (similarity, logs, events):
            part(c)
    print(f"   {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
