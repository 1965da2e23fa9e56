#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How hard a model's heads are for HyperAttention, by layer and length, and how methods err.

    hardness.py --heads-dir smollm2-bible,qwen-source --n 512,1024,2048,4096,8192 \\
        --results hardness.jsonl --plot hardness

Theorem 1 asks for a small alpha, the number of keys times the largest squared column norm of the
softmax matrix, and a small kappa, the ratio of row sums without large entries. The paper's appendix
says that alpha grows slower than n. All rows are looked at. A length is that of the text's start.

Three matrices of a head: "causal", all of it under the mask; "quarter", the later half's rows
against the earlier half's keys, the largest of the unmasked rectangles to which Algorithm 4 applies
the theorem; and "none", all of it without the mask, which the model never sees.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import errors
import layerwise
import methods
import numpy as np
import results
from heads import Heads, chosen_layers, parse_numbers, read_layer
from methods import Setting
from results import Results, Row

MASKS = ("causal", "quarter", "none")
MEASURES = {"alpha": "alpha", "alpha_beside": "alpha beside the sinks", "kappa": "kappa"}
HARDNESS = "hardness"  # in place of a method: what the heads are


def matrix(layer: Heads, mask: str) -> Heads:
    """Return the queries and keys of one of MASKS."""
    half = layer.n // 2
    return layer.rows(half, layer.n, 0, half) if mask == "quarter" else layer


def fits(setting: Setting, mask: str) -> bool:
    """Return whether a method is one without the causal mask too."""
    windowed = setting.family == "sliding" or (setting.family == "hyper" and setting.number)
    return mask == "causal" or not (setting.strict or windowed)


class Inputs:
    """The matrix, with its exact output, that is at work: cases come matrix by matrix."""

    def __init__(self, folders: dict[int, Path]) -> None:
        self._folders = folders
        self._key: tuple[int, int, str] | None = None

    def _read(self, key: tuple[int, int, str]) -> None:
        if key != self._key:
            layer, n, mask = key
            self._heads = matrix(read_layer(self._folders[layer], n), mask)
            self._causal = mask == "causal"
            self._exact = layerwise.attend(self._heads, self._causal, {"method": "exact"})
            self._key = key

    def measure(self, case: Row, setting: Setting | None) -> Row:
        """Return a case's measures of each head, or the relative errors of a method."""
        self._read((case["layer"], case["n"], case["mask"]))
        if setting is None:
            found = layerwise.hardness(self._heads, self._causal, methods.SINKS, self._exact)
            return {name: [getattr(head, name) for head in found] for name in MEASURES}
        params = setting.arguments(self._heads.n, case["seed"])
        out = layerwise.attend(self._heads, self._causal, params)
        return {"errors": layerwise.relative_errors(out, self._exact)}


def cases(folder: Path, layers: Sequence[int], args: argparse.Namespace) -> Iterator[Row]:
    """Yield what is asked for of one capture, layer by layer."""
    for layer in layers:
        for n in args.n:
            for mask in args.masks:
                case = {"heads": folder.resolve().name, "layer": layer, "n": n, "mask": mask}
                yield {**case, "what": HARDNESS}
                for setting in args.methods:
                    if fits(setting, mask):
                        yield {**case, "what": setting.name, "seed": args.seed}


def run(folder: Path, args: argparse.Namespace, done: Results) -> list[Row]:
    """Return the rows of one capture, of which those that are missing are computed."""
    folders = chosen_layers(folder, args.layers)
    settings = {setting.name: setting for setting in args.methods}
    inputs = Inputs(folders)
    rows = []
    for case in results.progress(list(cases(folder, list(folders), args)), folder.name):
        rows.append(done.find(case)
                    or done.add(case, inputs.measure(case, settings.get(case["what"]))))
    return rows


# ---- summary -------------------------------------------------------------------------------------


def finite_median(values: Sequence[float]) -> float:
    """Return the median of the finite values, NaN if there are none."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float:
    """Return x of the power law c n^x that fits best in logarithms; NaN for fewer than two."""
    usable = [(n, value) for n, value in zip(lengths, values, strict=True)
              if np.isfinite(value) and value > 0]
    if len(usable) < 2:
        return float("nan")
    log_n, log_value = np.log(np.array(usable, float)).T
    return float(np.polyfit(log_n, log_value, 1)[0])


def medians(rows: Sequence[Row], layer: int, lengths: Sequence[int], name: str) -> list[float]:
    """Return the median over the heads of a layer, for each length."""
    by_n = {row["n"]: row for row in rows if row["layer"] == layer and row["what"] == HARDNESS}
    return [finite_median(by_n[n][name]) for n in lengths]


def layer_line(rows: Sequence[Row], layer: int, lengths: Sequence[int],
               settings: Sequence[Setting]) -> list[str]:
    """Return a line of the table: measures at the greatest length, exponents, errors."""
    line = [str(layer)]
    for name in MEASURES:
        values = medians(rows, layer, lengths, name)
        line += [f"{values[-1]:.3g}", f"{exponent(lengths, values):.2f}"]
    for setting in settings:
        row, = (row for row in rows if row["layer"] == layer and row["n"] == lengths[-1]
                and row["what"] == setting.name)
        line.append(f"{np.median(row['errors']):.3g} {max(row['errors']):.3g}")
    return line


def print_mask(rows: Sequence[Row], args: argparse.Namespace, mask: str) -> None:
    """Print the table of one capture and mask, and what it says of the claim about alpha."""
    layers = sorted({row["layer"] for row in rows})
    settings = [setting for setting in args.methods if fits(setting, mask)]
    head = ["layer"]
    for title in MEASURES.values():
        head += [title, "as n^"]
    head += [f"{setting.title}: median, worst" for setting in settings]
    print(f"\n{rows[0]['heads']}, {mask}, n = {args.n[-1]}: medians over the heads of a layer; "
          f"exponents from n = {args.n[0]} on\n")
    print(results.table(head, [layer_line(rows, layer, args.n, settings) for layer in layers],
                        args.markdown))
    for name, title in MEASURES.items():
        found = [exponent(args.n, medians(rows, layer, args.n, name)) for layer in layers]
        known = [value for value in found if np.isfinite(value)]
        if known:
            slower = sum(value < 1 for value in known)
            print(f"{title}: n^{np.median(known):.2f} in the median, n^{min(known):.2f} to "
                  f"n^{max(known):.2f}; slower than n in {slower} of {len(known)} layers")


def plot(rows: Sequence[Row], lengths: Sequence[int], title: str, stem: Path) -> None:
    """Draw the measures over the length, a line a layer, beside one that grows as n."""
    import matplotlib

    figure, panels = results.new_plot(len(MEASURES), title)
    layers = sorted({row["layer"] for row in rows})
    shade = matplotlib.colors.Normalize(0, max(layers[-1], 1))
    colours = matplotlib.colormaps["viridis"]
    for panel, (name, label) in zip(panels, MEASURES.items(), strict=True):
        lines = [medians(rows, layer, lengths, name) for layer in layers]
        for layer, values in zip(layers, lines, strict=True):
            panel.plot(lengths, values, lw=1.2, color=colours(shade(layer)))
        start = finite_median([values[0] for values in lines])
        panel.plot(lengths, [start * n / lengths[0] for n in lengths], "k--", lw=1.5,
                   label="grows as n")
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(yscale="log", xlabel="n", ylabel=f"{label}, median of the heads")
        panel.legend(fontsize=9)
    figure.colorbar(matplotlib.cm.ScalarMappable(shade, colours), ax=panels[-1], label="layer")
    for path in results.save_plot(figure, stem):
        print(path)


def list_of(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Return argparse's type for a list of some of these words."""
    def parse(text: str) -> list[str]:
        words = text.split(",")
        for word in words:
            if word not in allowed:
                raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(allowed)}")
        return words
    return parse


def arguments() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--heads-dir", required=True, metavar="LIST",
                        type=lambda text: [Path(name) for name in text.split(",")],
                        help="folders that capture.py wrote, one a model and text")
    parser.add_argument("--layers", type=parse_numbers, metavar="LIST",
                        help="layers such as 0,4-6 (default: all)")
    parser.add_argument("--n", type=parse_numbers, default=[512, 1024, 2048, 4096, 8192],
                        metavar="LIST", help="lengths (default: 512,1024,2048,4096,8192)")
    parser.add_argument("--masks", type=list_of(MASKS), default=list(MASKS), metavar="LIST",
                        help="of causal, quarter and none (default: all)")
    parser.add_argument("--plot", type=Path, metavar="STEM",
                        help="write STEM-HEADS-MASK.svg and .png")
    methods.add_option(parser, "published-1024,hyper,multipole")
    results.add_options(parser)
    return parser.parse_args()


def program(args: argparse.Namespace) -> None:
    """Run the cases; print and draw each capture and mask by itself."""
    done = Results(args.results)
    for folder in args.heads_dir:
        rows = run(folder, args, done)
        for mask in args.masks:
            of_mask = [row for row in rows if row["mask"] == mask]
            print_mask(of_mask, args, mask)
            if args.plot:
                name = rows[0]["heads"]
                plot(of_mask, args.n, f"{name}, {mask}",
                     args.plot.with_name(f"{args.plot.name}-{name}-{mask}"))


if __name__ == "__main__":
    given = arguments()
    sys.exit(errors.run(lambda: program(given)))
