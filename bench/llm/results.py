# SPDX-License-Identifier: Apache-2.0
"""Cases that were run: kept as JSON lines, so that a run goes on where it ended; tables; plots."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Results:
    """Rows of a JSON-lines file, each a case and what it gave; without a path, in memory only.

    A case is a dict of what was asked for; two are the same if the values of all its names agree.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.rows: list[Row] = []
        if path and path.exists():
            self.rows = read(path)
            _drop_broken_line(path)

    def find(self, case: Row) -> Row | None:
        """Return the row of a case, or None if it was not run."""
        for row in self.rows:
            if all(name in row and row[name] == value for name, value in case.items()):
                return row
        return None

    def add(self, case: Row, found: Row) -> Row:
        """Keep what a case gave, on disk at once; return its row."""
        row = {**case, **found}
        self.rows.append(row)
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row


def read(path: Path) -> list[Row]:
    """Return the rows of a file, without a last line that has no end: its run was cut off."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _drop_broken_line(path: Path) -> None:
    """Cut a file after its last end of a line, so that what is appended begins a line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --results and --markdown."""
    parser.add_argument("--results", type=Path, metavar="FILE",
                        help="JSON lines: cases that are in it are not run, others are appended")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a list such as "2048,8192". For argparse's type."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of whole numbers")
    return [int(part) for part in parts]


def progress(cases: Sequence[Row], name: str) -> Iterator[Row]:
    """Return the cases one by one, with a bar on standard error where that is a terminal."""
    from tqdm import tqdm

    with tqdm(cases, desc=name, unit="case", disable=None, file=sys.stderr) as bar:
        for case in bar:
            bar.set_postfix_str(" ".join(str(value) for value in case.values()))
            yield case


# ---- tables --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool = False) -> str:
    """Return a table, its first column left-aligned and the others right-aligned."""
    cells = [list(head), *(list(row) for row in rows)]
    if markdown:
        rule = ["---"] + ["---:"] * (len(head) - 1)
        return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ("  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width
                                                   in zip(row[1:], widths[1:], strict=True))])
             for row in cells)
    return "\n".join(line.rstrip() for line in lines)


# ---- plots ---------------------------------------------------------------------------------------


def new_plot(panels: int, title: str) -> tuple[Any, list[Any]]:
    """Return a matplotlib figure and its panels, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 11, "axes.grid": True, "grid.alpha": 0.3,
                                "axes.spines.top": False, "axes.spines.right": False,
                                "svg.fonttype": "none", "svg.hashsalt": "hyperattn"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, panels, figsize=(5.6 * panels, 4.2), squeeze=False,
                                   layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure, list(axes[0])


def save_plot(figure: Any, stem: Path) -> list[Path]:
    """Write a figure as STEM.svg and STEM.png; return the two paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths
