"""docs/monitoring: every query runs as a member of pg_monitor and gives the columns it names; the dashboard uses only metrics that they give."""
from __future__ import annotations

import decimal
import json
import re
from pathlib import Path

import pytest
import yaml

from conftest import create_database
from test_ops import drop_role, role

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
QUERIES = yaml.safe_load((FOLDER / "queries.yaml").read_text())
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())


def columns(query: dict) -> dict[str, dict]:
    assert all(len(m) == 1 for m in query["metrics"])
    return {name: spec for m in query["metrics"] for name, spec in m.items()}


def metrics() -> set[str]:
    return {f"{name}_{column}" for name, query in QUERIES.items() for column, spec in columns(query).items() if spec["usage"] != "LABEL"}


@pytest.fixture(scope="module")
def monitored(cluster):
    """A database with a bit of everything, and the exporter's role."""
    db = create_database(cluster)
    db.sql("SELECT pgedge.enqueue_event('metrics', '{}') FROM generate_series(1, 3)")
    db.sql("SELECT pgedge.record_backup('dump')")
    name = role(db, "exporter", "GRANT pg_monitor TO {role}")
    yield db, name
    drop_role(db, name)
    cluster.psql(f'DROP DATABASE "{db.name}" WITH (FORCE)')


@pytest.mark.parametrize("name", QUERIES)
def test_query_runs_as_pg_monitor(name, monitored):
    db, user = monitored
    query = QUERIES[name]
    assert set(query) <= {"query", "metrics", "cache_seconds", "master", "runonserver"} and name.startswith("pgedge_")
    with db.connect(user) as conn:
        cur = conn.execute(query["query"])
        names = [c.name for c in cur.description]
        rows = cur.fetchall()
    expected = columns(query)
    assert names == list(expected)
    labels = [i for i, c in enumerate(names) if expected[c]["usage"] == "LABEL"]
    assert len({tuple(r[i] for i in labels) for r in rows}) == len(rows), "two rows have the same labels"
    for row in rows:
        for column, value in zip(names, row):
            spec = expected[column]
            assert spec["usage"] in ("LABEL", "GAUGE", "COUNTER") and spec["description"]
            assert isinstance(value, str if spec["usage"] == "LABEL" else (int, float, decimal.Decimal)), (column, value)
    if name not in ("pgedge_slow_query", "pgedge_temperature"):
        assert rows, "nothing to show"


def test_the_queries_show_what_is_there(monitored):
    db, user = monitored
    health = dict(db.sql(QUERIES["pgedge_health"]["query"], user=user))
    assert health["tables"] == 0 and set(health.values()) <= {0, 1, 2}
    assert db.sql(QUERIES["pgedge_queue"]["query"], user=user)[0][:2] == ("metrics", 3)
    assert {r[1] for r in db.sql(QUERIES["pgedge_table"]["query"], user=user)} >= {"vectors", "claude_events"}


def test_dashboard_uses_only_these_metrics():
    expressions = [t["expr"] for p in DASHBOARD["panels"] for t in p["targets"]]
    expressions += [v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    used = set(re.findall(r"\bpgedge_\w+", " ".join(expressions)))
    assert used and used <= metrics(), used - metrics()
    # No query that nothing shows.
    assert {name for name in QUERIES if not any(u.startswith(name + "_") for u in used)} == set()


def test_dashboard_is_one_that_grafana_takes():
    assert DASHBOARD["uid"] and DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        pos = panel["gridPos"]
        cells = {(x, y) for x in range(pos["x"], pos["x"] + pos["w"]) for y in range(pos["y"], pos["y"] + pos["h"])}
        assert pos["x"] + pos["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] in ("stat", "timeseries", "bargauge") and panel["targets"]
        # One legend per series of a panel, and labels in it that the query gives.
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            metric = re.search(r"\b(pgedge_\w+)", target["expr"])[1]
            query = next(q for n, q in QUERIES.items() if metric.removeprefix(n + "_") in columns(q))
            assert wanted <= {c for c, s in columns(query).items() if s["usage"] == "LABEL"}, panel["title"]


def test_alerts_of_the_readme_use_these_metrics():
    text = (FOLDER / "README.md").read_text()
    alerts = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    used = set(re.findall(r"\bpgedge_\w+", " ".join(r["expr"] for g in alerts["groups"] for r in g["rules"])))
    assert used and used <= metrics()
