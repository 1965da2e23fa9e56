#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What an approximation costs a language model: nats per token, by method and replaced layers.

A model reads the first n tokens of a text in one pass, with attention in its last layers computed
by a method and exactly in the others, as in arXiv 2310.05869. `run` measures cases and prints
tables, `plot` draws that paper's Figure 3 of the same results: perplexity and the speed-up of
attention against the number of replaced layers.

    perplexity.py run --models smollm2 --texts bible,source --n 2048,8192 --replaced 0,10,20,all \\
        --methods published,hyper-256,multipole,sliding --results perplexity.jsonl
    perplexity.py plot --results perplexity.jsonl --output perplexity
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import errors
import hyperattn
import methods
import models
import numpy as np
import results
import running
import texts
import torch
from errors import UserError
from models import Model
from results import Results, Row

# ---- run -----------------------------------------------------------------------------------------


def counts(text: str) -> list[str]:
    """Return a list of numbers of layers, "all" or "steps:K" (K equal steps to all)."""
    for part in text.split(","):
        number = part.removeprefix("steps:")
        if part != "all" and not (number.isascii() and number.isdecimal() and number != "0"
                                  or part == "0"):
            raise argparse.ArgumentTypeError(f"'{part}' is neither a number, all nor steps:K")
    return text.split(",")


def layer_counts(asked: list[str], count: int) -> list[int]:
    """Return the numbers that counts() gave, for a model with `count` layers, ascending."""
    found: set[int] = set()
    for part in asked:
        if part == "all":
            found.add(count)
        elif part.startswith("steps:"):
            steps = int(part.removeprefix("steps:"))
            found.update(round(i * count / steps) for i in range(steps + 1))
        else:
            found.add(int(part))
    return sorted(found)


def cases_of(args: argparse.Namespace, model: Model) -> Iterator[Row]:
    """Return a model's cases; exact attention is one of each text and length, whatever is asked."""
    counts_asked = layer_counts(args.replaced, len(model.layers))
    for text in args.texts:
        for n in args.n:
            common = {"model": model.name, "text": text, "n": n, "seed": args.seed,
                      "error_rows": args.per_layer}
            yield {**common, "method": "exact", "replaced": 0}
            for setting in args.methods:
                if setting.family != "exact":
                    yield from ({**common, "method": setting.name, "replaced": count}
                                for count in counts_asked if count)


def measure(model: Model, text: str, case: Row) -> Row:
    """Return what a case gives.

    nats: per token. seconds: of the pass without logits. layer_seconds: of attention in each layer
    that can be replaced. errors: of the heads of each replaced layer, by layer.
    """
    n = case["n"]
    ids = model.encode(text, n)
    running.configure(model, methods.parse(case["method"]), n, case["replaced"], case["seed"])
    done = running.forward(model, ids, case["error_rows"])
    return {
        "nats": running.text_nats(model, done.hidden, ids), "seconds": done.seconds,
        "layers": len(model.layers), "layer_seconds": [record.seconds for record in done.records],
        "errors": {str(record.layer): list(record.head_errors) for record in done.records
                   if record.head_errors and record.method != "exact"},
        "text_sha256": texts.fingerprint(text), "threads": torch.get_num_threads(),
        "library": hyperattn.version(),
    }


def run(args: argparse.Namespace) -> None:
    """Measure the cases that are not in the results yet, and print the tables of all."""
    kept, loader = Results(args.results), models.Loader(args.cache)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for name in args.models:
        model = loader.get(name)
        cases = list(cases_of(args, model))
        new = [case for case in cases if not kept.find(case)]
        for case in results.progress(new, "perplexity"):
            kept.add(case, measure(model, texts.load(case["text"], args.cache), case))
        rows += [row for row in map(kept.find, cases) if row]
    print_tables(rows, args.markdown)


# ---- tables --------------------------------------------------------------------------------------


def groups(rows: list[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Return the rows of each model, text and length."""
    found: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["text"], row["n"]), []).append(row)
    return found


def exact_row(rows: list[Row]) -> Row:
    """Return the row of a group in which no layer is replaced."""
    for row in rows:
        if row["replaced"] == 0:
            return row
    raise UserError("the results have no exact attention beside a method")


def speed_up(row: Row, exact: Row) -> float:
    """Return by how much attention in all layers is faster than exact."""
    return float(sum(exact["layer_seconds"]) / sum(row["layer_seconds"]))


def print_tables(rows: list[Row], markdown: bool) -> None:
    """Print nats and times of each group, and the errors of heads where they were asked for."""
    for (model, text, n), group in groups(rows).items():
        exact = exact_row(group)
        print(f"\n{models.SOURCES[model].title}, {Path(text).name}, {n} tokens\n")
        print(results.table(
            ["method", "layers", "nats", "to exact", "", "e^nats", "2^nats", "s per layer",
             "speed-up"], [_line(row, exact) for row in group], markdown))
        for row in group:
            if row["errors"]:
                print(f"\n{methods.parse(row['method']).title}, errors of heads, last "
                      f"{row['replaced']} layers\n")
                print(_errors_table(row, exact, markdown))


def _line(row: Row, exact: Row) -> list[str]:
    nats, more = row["nats"], row["nats"] - exact["nats"]
    return [methods.parse(row["method"]).title, f"{row['replaced']} of {row['layers']}",
            f"{nats:.4f}", f"{more:+.4f}", f"{100 * more / exact['nats']:+.2f} %",
            f"{math.exp(nats):.3f}", f"{2**nats:.3f}", f"{np.mean(row['layer_seconds']):.3f}",
            f"{speed_up(row, exact):.2f}"]


def _errors_table(row: Row, exact: Row, markdown: bool) -> str:
    """Return a line for each replaced layer, and one for all of their heads."""
    lines, first = [], row["layers"] - row["replaced"]
    for place, (layer, found) in enumerate(row["errors"].items(), start=first):
        worst = int(np.argmax(found))
        lines.append([layer, f"{np.median(found):.4f}", f"{found[worst]:.4f}", str(worst),
                      f"{row['layer_seconds'][place]:.3f}",
                      f"{exact['layer_seconds'][place]:.3f}"])
    every = np.concatenate(list(row["errors"].values()))
    lines.append(["all", f"{np.median(every):.4f}", f"{every.max():.4f}", "",
                  f"{sum(row['layer_seconds'][first:]):.3f}",
                  f"{sum(exact['layer_seconds'][first:]):.3f}"])
    return results.table(["layer", "median", "worst", "its head", "s", "exact, s"], lines, markdown)


# ---- plot ----------------------------------------------------------------------------------------


def plot(args: argparse.Namespace) -> None:
    """Draw a figure for each model, text and length of the results."""
    found = groups(results.read(args.results))
    for (model, text, n), group in found.items():
        name = f"{args.output.name}-{model}-{Path(text).stem}-{n}"
        stem = args.output if len(found) == 1 else args.output.with_name(name)
        title = f"{models.SOURCES[model].title}, {Path(text).name}, {n} tokens"
        for path in draw(group, title, stem, args.base):
            print(path)


def draw(rows: list[Row], title: str, stem: Path, base: str) -> list[Path]:
    """Draw perplexity and speed-up against replaced layers; return the paths of the figure."""
    figure, (left, right) = results.new_plot(2, title)
    exact, number = exact_row(rows), math.e if base == "e" else float(base)
    names = dict.fromkeys(row["method"] for row in rows if row["replaced"])
    highest = 0.0
    for name, marker in zip(names, "osD^vPX*<>" * len(names), strict=False):
        line = sorted((row for row in rows if row["method"] == name), key=lambda r: r["replaced"])
        line = [exact, *line]
        layers = [row["replaced"] for row in line]
        perplexity = [number ** row["nats"] for row in line]
        highest = max(highest, *perplexity)
        style = {"marker": marker, "markersize": 5, "label": methods.parse(name).title}
        left.plot(layers, perplexity, **style)
        right.plot(layers, [speed_up(row, exact) for row in line], **style)
    left.axhline(number ** exact["nats"], color="black", linewidth=1, linestyle="--",
                 label="exact")
    if highest > 4 * number ** exact["nats"]:
        left.set_yscale("log")
    left.set_ylabel(f"perplexity, {base}^(nats per token)")
    right.set_ylabel("speed-up of attention, all layers")
    right.axhline(1, color="black", linewidth=1, linestyle="--")
    for panel in (left, right):
        panel.set_xlabel("replaced layers, the last ones")
        panel.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize=9)
    return results.save_plot(figure, stem)


# ---- command line --------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Nats per token of a model whose last layers have "
                                     "another attention.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("run", help="measure and print tables")
    models.add_options(one, many=True)
    texts.add_option(one, many=True)
    one.add_argument("--n", type=results.numbers, default=[2048], metavar="LIST",
                     help="tokens, from the start of the text (default: 2048)")
    one.add_argument("--replaced", type=counts, default=["all"], metavar="LIST",
                     help="how many layers are replaced, the last ones: numbers, all, or steps:K "
                     "for K equal steps from 0 to all (default: all)")
    methods.add_option(one, "published,hyper-256,multipole,sliding")
    one.add_argument("--per-layer", type=int, nargs="?", const=128, default=0, metavar="ROWS",
                     help="the errors of the replaced layers' heads against exact attention on the "
                     "same inputs, on so many rows of each (128)")
    one.add_argument("--threads", type=int, metavar="N", help="default: PyTorch's")
    results.add_options(one)
    one.set_defaults(program=run)
    two = commands.add_parser("plot", help="draw Figure 3 of the paper")
    two.add_argument("--results", type=Path, required=True, metavar="FILE", help="of run")
    two.add_argument("--output", type=Path, required=True, metavar="STEM",
                     help="writes STEM.svg and STEM.png; with several models, texts or lengths, "
                     "STEM-MODEL-TEXT-N.svg and .png")
    two.add_argument("--base", choices=("2", "e"), default="2",
                     help="of the perplexity; the paper has 2 (default: 2)")
    two.set_defaults(program=plot)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return errors.run(lambda: args.program(args))


if __name__ == "__main__":
    sys.exit(main())
