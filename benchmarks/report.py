"""Writes what was measured, for people (.md) and for programs (.json)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results"

Row = Mapping[str, str | int | float]


def write(name: str, title: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Writes `results/<name>.md` and `results/<name>.json`.

    Args:
        name: of the files.
        title: heading of the page.
        rows: all with the same keys, which become the columns; floats are shown with three digits.
        notes: what is measured and how, a sentence or paragraph each.

    Returns:
        The page.
    """
    text = page(title, rows, notes)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    content = {"title": title, "machine": describe(), "notes": list(notes), "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return text


def page(title: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """What `write` writes for people."""
    columns = list(rows[0])
    table = [_line(columns), _line(["---"] * len(columns))]
    table += [_line([_cell(row[column]) for column in columns]) for row in rows]
    where = [f"- {key}: {value}" for key, value in describe().items()]
    return "\n\n".join([f"# {title}", "\n".join(table), *notes, "\n".join(where)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: str | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
