#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether a language model still finds what is hidden in a long text, by method of attention.

`needle` hides one number of eight digits at some depth; `chain` hides chains of notes, each naming
the next, and asks for the number at the end of one, hop by hop. The text ends with the question and
the right answer, and each token of that is judged after the true ones before it: by its
log-probability, and by whether it comes first. An answer all of whose tokens come first is what the
model would have written, had it been asked to.

    retrieval.py needle --models smollm2 --n 2048,8192 --depths 0.1,0.3,0.5,0.7,0.9 \\
        --methods exact,published,hyper-256,multipole,sliding --results needle.jsonl
    retrieval.py chain --models qwen --n 8192,32768 --hops 1,2,4 --results chain.jsonl
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import errors
import haystacks
import hyperattn
import methods
import models
import numpy as np
import results
import running
import texts
import torch
from haystacks import Haystack
from models import Model
from results import Results, Row

FIRST_NUMBER = "48213097"  # of earlier figures

# ---- cases ---------------------------------------------------------------------------------------


def haystacks_asked(args: argparse.Namespace) -> Iterator[Row]:
    """Return what tells the haystacks of one model, text and length apart."""
    for trial in range(args.trials):
        if args.task == "needle":
            yield from ({"depth": depth, "trial": trial} for depth in args.depths)
        else:
            yield from ({"hops": hops, "others": args.others, "trial": trial}
                        for hops in args.hops)


def cases_of(args: argparse.Namespace, model: str) -> Iterator[Row]:
    """Return the cases of a model: each haystack with each method."""
    for text in args.texts:
        for n in args.n:
            for asked in haystacks_asked(args):
                for setting in args.methods:
                    yield {"task": args.task, "model": model, "text": text, "n": n, **asked,
                           "method": setting.name, "replaced": args.replaced, "seed": args.seed}


def make(model: Model, text: str, case: Row) -> Haystack:
    """Return a case's haystack, the same for every method. Trial 0 of a needle has FIRST_NUMBER."""
    rng = random.Random(f"{case['task']} {case['trial']}")
    if case["task"] == "needle":
        number = FIRST_NUMBER if case["trial"] == 0 else haystacks.digits(rng)
        return haystacks.needle(model, text, case["n"], case["depth"], number)
    return haystacks.chain(model, text, case["n"], case["hops"], case["others"], rng)


def measure(model: Model, text: str, case: Row) -> Row:
    """Return what a case gives, in a list of the hops of each: log-probability in nats, tokens that
    come first, and tokens."""
    haystack = make(model, text, case)
    replaced = len(model.layers) if case["replaced"] is None else case["replaced"]
    running.configure(model, methods.parse(case["method"]), case["n"], replaced, case["seed"])
    done = running.forward(model, haystack.ids)
    logp, right, tokens = [], [], []
    for first, end in haystack.answers:
        nats, firsts = running.judge(model, done.hidden[first - 1:end - 1],
                                     haystack.ids[first:end])
        logp.append(-float(nats.sum()))
        right.append(int(firsts.sum()))
        tokens.append(end - first)
    return {"logp": logp, "right": right, "tokens": tokens, "position": haystack.position,
            "text_sha256": texts.fingerprint(text), "library": hyperattn.version()}


def run(args: argparse.Namespace) -> None:
    """Measure the cases that are not in the results yet, and print the tables of all."""
    kept, loader = Results(args.results), models.Loader(args.cache)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[Row] = []
    for name in args.models:
        cases = list(cases_of(args, name))
        new = [case for case in cases if not kept.find(case)]
        for case in results.progress(new, args.task):
            kept.add(case, measure(loader.get(name), texts.load(case["text"], args.cache), case))
        rows += [row for row in map(kept.find, cases) if row]
    print_tables(rows, args.markdown)


# ---- tables --------------------------------------------------------------------------------------


def print_tables(rows: list[Row], markdown: bool) -> None:
    """Print a table for each model, text and length: a line for each method, a column for each
    depth or number of hops."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["text"], row["n"]), []).append(row)
    for (model, text, n), group in groups.items():
        by = "depth" if group[0]["task"] == "needle" else "hops"
        columns = sorted({row[by] for row in group})
        print(f"\n{models.SOURCES[model].title}, {Path(text).name}, {n} tokens: mean "
              "log-probability of the answer, its tokens that come first, answers found\n")
        lines = []
        for method in dict.fromkeys(row["method"] for row in group):
            of_method = [row for row in group if row["method"] == method]
            cells = (_cell([row for row in of_method if row[by] == column]) for column in columns)
            lines.append([methods.parse(method).title, *cells, _cell(of_method)])
        print(results.table(["method", *(f"{by} {column}" for column in columns), "all"], lines,
                            markdown))


def _cell(rows: list[Row]) -> str:
    """Return the mean log-probability, the tokens that come first and the answers found."""
    logp = np.mean([sum(row["logp"]) for row in rows])
    right, tokens = (sum(sum(row[what]) for row in rows) for what in ("right", "tokens"))
    found = sum(row["right"] == row["tokens"] for row in rows)
    return f"{logp:.2f}, {right}/{tokens}, {found}/{len(rows)}"


# ---- command line --------------------------------------------------------------------------------


def depths(text: str) -> list[float]:
    """Return the depths of a list, for argparse's type."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [-1.0]
    if not all(0 <= depth <= 1 for depth in found):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of depths, between 0 and 1")
    return found


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Whether a model finds what is hidden in a text.")
    commands = parser.add_subparsers(required=True, dest="task", metavar="TASK")
    needle = commands.add_parser("needle", help="a number at some depth")
    needle.add_argument("--depths", type=depths, default=depths("0.1,0.3,0.5,0.7,0.9"),
                        metavar="LIST", help="default: 0.1,0.3,0.5,0.7,0.9")
    chain = commands.add_parser("chain", help="notes, each of which names the next")
    chain.add_argument("--hops", type=results.numbers, default=[1, 2, 4], metavar="LIST",
                       help="notes of a chain (default: 1,2,4)")
    chain.add_argument("--others", type=int, default=2, metavar="N",
                       help="other chains in the text (default: 2)")
    for task in (needle, chain):
        models.add_options(task, many=True)
        texts.add_option(task, many=True)
        task.add_argument("--n", type=results.numbers, default=[2048], metavar="LIST",
                          help="tokens, question and answer included (default: 2048)")
        task.add_argument("--trials", type=int, default=1, metavar="N",
                          help="haystacks of each kind, with other numbers and names (default: 1)")
        task.add_argument("--replaced", type=int, metavar="N",
                          help="how many layers are replaced, the last ones (default: all)")
        methods.add_option(task, "exact,published,hyper-256,multipole,sliding")
        task.add_argument("--threads", type=int, metavar="N", help="default: PyTorch's")
        results.add_options(task)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return errors.run(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
