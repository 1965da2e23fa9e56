#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Relative error against cost on captured heads: the library's methods and those of others.

    others.py --heads-dir capture --layers 1,9,17,25 --n 8192 --results others.jsonl --plot others

KDEformer, Reformer and Performer are baselines in NumPy (baselines.py): their cost is counted in
multiply-adds, the library's is measured, as a share of the time of its own exact attention.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import errors
import layerwise
import numpy as np
import results
from contenders import Contender, contenders
from heads import Array, Heads, chosen_layers, parse_numbers, read_layer
from results import Results, Row

MASKS = {"causal": True, "none": False}


class Inputs:
    """The layer, and its exact output, that is at work: cases come layer by layer."""

    def __init__(self, folders: dict[int, Path], n: int | None, one_per_group: bool) -> None:
        self._folders, self._n, self._one_per_group = folders, n, one_per_group
        self._layer: tuple[int, Heads] | None = None
        self._exact: dict[bool, Array] = {}

    def layer(self, number: int) -> Heads:
        """Return a layer's heads."""
        if self._layer is None or self._layer[0] != number:
            heads = read_layer(self._folders[number], self._n)
            self._layer = number, heads.of_groups() if self._one_per_group else heads
            self._exact = {}
        return self._layer[1]

    def exact(self, number: int, causal: bool) -> Array:
        """Return the exact output of a layer's heads."""
        heads = self.layer(number)
        if causal not in self._exact:
            self._exact[causal] = layerwise.attend(heads, causal, {"method": "exact"})
        return self._exact[causal]


def measure(inputs: Inputs, case: Row, contender: Contender, repeat: int) -> Row:
    """Return what a case gives: the error of each head, and the layer's seconds."""
    exact = inputs.exact(case["layer"], case["causal"])
    out, seconds = contender.run(inputs.layer(case["layer"]), case["seed"], repeat)
    return {"keys": contender.keys, "seconds": seconds,
            "errors": layerwise.relative_errors(out, exact)}


def run(args: argparse.Namespace, done: Results) -> list[Row]:
    """Return the rows of all cases, of which those that are missing are computed."""
    folders = chosen_layers(args.heads_dir, args.layers)
    inputs = Inputs(folders, args.n, args.one_per_group)
    first = inputs.layer(next(iter(folders)))
    n, d = first.n, first.q.shape[2]
    methods = {(causal, c.method, c.budget): c for causal in (MASKS[mask] for mask in args.masks)
               for c in contenders(n, d, causal) if c.method == "exact" or _is_wanted(c, args.only)}
    cases = [{"heads": args.name or args.heads_dir.resolve().name, "n": n, "layer": layer,
              "one_per_group": args.one_per_group, "seed": args.seed, "causal": causal,
              "method": method, "budget": budget}
             for layer in folders for causal, method, budget in methods]
    rows = []
    for case in results.progress(cases, "others"):
        contender = methods[case["causal"], case["method"], case["budget"]]
        rows.append(done.find(case)
                    or done.add(case, measure(inputs, case, contender, args.repeat)))
    return rows


def _is_wanted(contender: Contender, only: Sequence[str] | None) -> bool:
    return only is None or any(word in contender.method.lower() for word in only)


# ---- summary -------------------------------------------------------------------------------------


def summary(rows: Sequence[Row], causal: bool) -> list[Row]:
    """Return a row for each method and budget, over all heads of all layers.

    by_time: keys that exact attention reads in the same time; None for baselines.
    """
    by_setting: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row["causal"] == causal:
            by_setting[row["method"], row["budget"]].append(row)
    exact = next(group for (method, _), group in by_setting.items() if method == "exact")
    of_exact = sum(row["seconds"] for row in exact)
    found = []
    for (method, budget), group in by_setting.items():
        values = [value for row in group for value in row["errors"]]
        timed = all(row["seconds"] is not None for row in group)
        share = sum(row["seconds"] for row in group) / of_exact if timed else None
        found.append({"method": method, "budget": budget, "keys": group[0]["keys"],
                      "by_time": share and share * exact[0]["keys"], "heads": len(values),
                      "median": float(np.median(values)), "most": float(np.quantile(values, 0.9)),
                      "worst": max(values)})
    return found


def print_table(rows: Sequence[Row], markdown: bool) -> None:
    """Print the summary of one kind of mask."""
    head = ["method", "budget", "keys a query", "by time", "median error", "90 %", "worst"]

    def keys(value: float | None) -> str:
        return "" if value is None else f"{value:.0f}"

    lines = [[row["method"], str(row["budget"]), keys(row["keys"]), keys(row["by_time"]),
              *(f"{row[name]:.3g}" for name in ("median", "most", "worst"))] for row in rows]
    print(results.table(head, lines, markdown))


def plot(rows: Sequence[Row], masks: Sequence[str], title: str, stem: Path) -> None:
    """Draw the median and the worst error over the cost: by time where that is known."""
    figure, panels = results.new_plot(len(masks), title)
    for panel, mask in zip(panels, masks, strict=True):
        lines: dict[str, list[Row]] = defaultdict(list)
        for row in summary(rows, MASKS[mask]):
            if row["method"] != "exact" and row["median"] > 1e-5:  # else it is exact after all
                lines[row["method"]].append(row)
        for method, points in lines.items():
            cost = [row["by_time"] or row["keys"] for row in points]
            line, = panel.plot(cost, [row["median"] for row in points], "o-", label=method)
            panel.plot(cost, [row["worst"] for row in points], ":", color=line.get_color(), lw=1)
        exact = next(row for row in summary(rows, MASKS[mask]) if row["method"] == "exact")
        panel.axvline(exact["keys"], color="black", lw=1, ls="--")
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(yscale="log", xlabel="cost in keys per query (dashed: exact)",
                  ylabel="relative error: median (worst dotted)",
                  title="causal" if MASKS[mask] else "no mask")
        panel.legend(fontsize=7)
    for path in results.save_plot(figure, stem):
        print(path)


def arguments() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--heads-dir", type=Path, required=True, metavar="DIR",
                        help="what capture.py wrote: q.npy, k.npy and v.npy, or a folder a layer")
    parser.add_argument("--name", metavar="TEXT", help="of these heads (default: the folder's)")
    parser.add_argument("--layers", type=parse_numbers, metavar="LIST",
                        help="layers such as 0,4-6 (default: all)")
    parser.add_argument("--n", type=int, metavar="N", help="first positions (default: all)")
    parser.add_argument("--one-per-group", action="store_true",
                        help="only the first query head of each key head")
    parser.add_argument("--masks", type=lambda text: text.split(","), default=list(MASKS),
                        metavar="LIST", help="of causal and none (default: both)")
    parser.add_argument("--only", type=lambda text: text.lower().split(","), metavar="LIST",
                        help="methods whose names hold one of these words (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--repeat", type=int, default=2, metavar="N",
                        help="timed calls of the library after the first (default: 2)")
    parser.add_argument("--plot", type=Path, metavar="STEM", help="write STEM.svg and STEM.png")
    results.add_options(parser)
    args = parser.parse_args()
    for mask in args.masks:
        if mask not in MASKS:
            parser.error(f"argument --masks: '{mask}' is none of {', '.join(MASKS)}")
    return args


def program(args: argparse.Namespace) -> None:
    """Run the cases, print a table for each mask, draw the plot."""
    rows = run(args, Results(args.results))
    for mask in args.masks:
        found = summary(rows, MASKS[mask])
        print(f"\n{rows[0]['heads']}, n = {rows[0]['n']}, "
              f"{'causal' if MASKS[mask] else 'no mask'}, {found[0]['heads']} heads\n")
        print_table(found, args.markdown)
    if args.plot:
        plot(rows, args.masks, f"{rows[0]['heads']}, n = {rows[0]['n']}", args.plot)


if __name__ == "__main__":
    given = arguments()
    sys.exit(errors.run(lambda: program(given)))
