"""The failures that docs/operations.md tells callers of."""

import re
from functools import cache
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
_ROW = re.compile(r"^\| ([A-Z_]+) \| ([A-Z_, ]+) \|", re.MULTILINE)


@cache
def documented_reasons() -> frozenset[str]:
    """Every "CODE REASON" that an input may come to; not INTERNAL, which is a defect's."""
    errors = _PAGE.read_text().split("## Errors", 1)[1].split("\n## ", 1)[0]
    rows = {code: reasons.split(", ") for code, reasons in _ROW.findall(errors)}
    assert rows.pop("INTERNAL") == ["INTERNAL"]
    return frozenset(f"{code} {reason}" for code, reasons in rows.items() for reason in reasons)
