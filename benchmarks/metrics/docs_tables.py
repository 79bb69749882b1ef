"""Write the tables of docs/metrics.md from the declarations: `python -m nbench.benchmarks.metrics.docs_tables FILE`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from . import agreement, retrieval, selection, separation
from .declaration import Figure

GROUPS: dict[str, tuple[Figure, ...]] = {
    "agreement": agreement.METRICS,
    "selection": (*selection.METRICS, selection.COST_STEPS, selection.GAIN_AREA),
    "separation": separation.METRICS,
    "captions": (separation.AUROC, separation.AVERAGE_PRECISION, separation.PREFERENCE),
    "retrieval": (retrieval.RECALL,),
}
_TABLE = re.compile(r"<!-- figures: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with every part between `<!-- figures: GROUP -->` and `<!-- end -->` rewritten."""
    return _TABLE.sub(lambda part: f"<!-- figures: {part[1]} -->\n{_table(GROUPS[part[1]])}<!-- end -->", page)


def _table(figures: Iterable[Figure]) -> str:
    lines = ["| figure | definition | range | null |", "|---|---|---|---|"]
    for figure in figures:
        direction = "" if figure.higher_is_better else "**lower** is better"
        words = "; ".join(part for part in (figure.range, direction) if part)
        lines.append(f"| `{figure.name}` | {figure.definition} | {words} | {figure.null} |")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
