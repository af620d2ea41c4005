"""The SQL in the README and in docs/ is true: every ```sql block runs, and the ```text block after it is what psql prints.

In expected output `…` stands for anything (times, ids that depend on the machine), and the width of columns does not count. Blocks of one file run in order, in one database,
as psql reads them. A block that cannot run here is marked in the Markdown source by an HTML comment before it, `<!-- not run: why -->`.
"""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The specification has a test of its own.
FILES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "specification" not in p.name)]
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\s*)?^```sql\n(?P<sql>.*?)^```\n(?:\n?^```text\n(?P<text>.*?)^```)?", re.M | re.S)


def blocks(path: Path):
    return [m.groupdict() for m in BLOCK.finditer(path.read_text())]


def normalise(text: str) -> list[str]:
    return [re.sub(r"-{2,}", "--", re.sub(r"\s+", " ", line)).strip() for line in text.strip().splitlines()]


def matches(expected: str, got: str) -> bool:
    want, have = normalise(expected), normalise(got)
    return len(want) == len(have) and all(
        re.fullmatch(re.escape(w).replace("…", ".*"), h) for w, h in zip(want, have))


@pytest.mark.parametrize("path", [p for p in FILES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_sql_of(path, cluster, empty_db):
    if path.name != "README.md":
        cluster.psql("CREATE EXTENSION pgedge CASCADE", empty_db.name)
    wrong = []
    for number, block in enumerate(blocks(path), 1):
        if block["why"]:
            print(f"{path.name} block {number} not run: {block['why']}")
            continue
        got = cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty_db.name, "-P", "pager=off", "-c", "SET client_min_messages = warning",
                           "-f", "-", input=block["sql"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if got.returncode or block["text"] and not matches(block["text"], got.stdout):
            wrong.append(f"{path.name} block {number}:\n{block['sql']}--- printed\n{got.stdout}--- expected\n{block['text'] or 'no error'}")
    assert not wrong, "\n\n".join(wrong)


def test_the_reference_is_that_of_the_catalog(db):
    """scripts/reference.py makes it."""
    import reference

    readme = (ROOT / "README.md").read_text()
    with db.connect() as conn:
        assert reference.with_reference(readme, conn) == readme, "run scripts/reference.py"
