#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Scores on LongBench's tasks against the number of layers whose attention is replaced.

LongBench (arXiv 2308.14508) is on no registry, so its JSONL files are read from a folder. --make
writes small tasks of the same six kinds there instead, of texts that are at hand. They are ours:
their scores show what a method costs a model, and compare with nothing else.

    longbench.py --make tasks --items 20 --words 1500
    longbench.py --data tasks --methods published-1024,multipole --last 0,10,20,30 \\
        --results longbench.jsonl --plot longbench

The prompt is read by the methods; the answer is decoded, greedily, with exact attention to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import errors
import longbench_make
import methods
import models
import numpy as np
import results
import running
import texts
import torch
from errors import UserError
from heads import parse_numbers
from longbench_cases import cases, group_means, group_of, means, truncated
from longbench_tasks import Item, data_sets
from methods import Setting
from models import Model
from results import Results, Row


@torch.inference_mode()
def answer(model: Model, ids: Sequence[int], tokens: int) -> str:
    """Return what the model writes behind a prompt, by the likeliest token each time."""
    prompt = torch.tensor([list(ids)])
    out = model.network.generate(prompt, attention_mask=torch.ones_like(prompt),
                                 max_new_tokens=tokens, do_sample=False,
                                 pad_token_id=model.tokenizer.eos_token_id)
    text: str = model.tokenizer.decode(out[0, len(ids):], skip_special_tokens=True)
    return text


def evaluate(model: Model, item: Item, setting: Setting, case: Row, context: int) -> Row:
    """Return a case's prediction and its score."""
    limit = context - item.task.tokens
    if limit < 2:
        raise UserError(f"--context must hold {item.dataset}'s answers of {item.task.tokens} "
                        "tokens, and a prompt")
    ids = truncated(model.tokenizer(item.prompt()).input_ids, limit)
    running.configure(model, setting, len(ids), case["last"], case["seed"])
    prediction = answer(model, ids, item.task.tokens)
    return {"tokens": len(ids), "prediction": prediction, "score": item.score(prediction)}


def run(data: Mapping[str, Sequence[Item]], args: argparse.Namespace, done: Results) -> list[Row]:
    """Return the rows of all cases, of which those that are missing are computed."""
    settings = {setting.name: setting for setting in [*args.methods, methods.parse("exact")]}
    by_id = {(task, item.id): item for task, items in data.items() for item in items}
    model: Model | None = None
    rows = []
    for case in results.progress(cases(data, args), "longbench"):
        row = done.find(case)
        if row is None:
            model = model or models.load(args.model, args.cache)
            context = min(args.context or model.context, model.context)
            row = done.add(case, evaluate(model, by_id[case["task"], case["item"]],
                                          settings[case["method"]], case, context))
        rows.append(row)
    return rows


# ---- summary -------------------------------------------------------------------------------------


def print_table(rows: Sequence[Row], markdown: bool) -> None:
    """Print a line for each method and number of layers, a column for each task."""
    of_ways = means(rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    head = ["method", "layers", *(f"{group_of(task)}: {task}" for task in tasks), "mean of groups"]
    lines = [[method, str(last), *(f"{scores[task]:.1f}" for task in tasks),
              f"{np.mean(list(group_means(scores).values())):.1f}"]
             for (method, last), scores in sorted(of_ways.items(), key=lambda way: way[0][::-1])]
    print(results.table(head, lines, markdown))


def plot(rows: Sequence[Row], names: Sequence[str], stem: Path) -> None:
    """Draw the scores of the groups over the number of replaced layers, a panel a method."""
    of_ways = means(rows)
    figure, panels = results.new_plot(len(names), f"{rows[0]['model']}: scores of tasks")
    for panel, name in zip(panels, names, strict=True):
        lasts = sorted(last for method, last in of_ways if method == name or last == 0)
        curves = [group_means(of_ways.get((name, last)) or of_ways["exact", last])
                  for last in lasts]
        for group in curves[0]:
            panel.plot(lasts, [curve[group] for curve in curves], "o-", label=group)
        panel.set(xlabel="last layers replaced", ylabel="score", ylim=(-3, 103), xticks=lasts,
                  title=methods.parse(name).title)
    panels[0].legend(fontsize=8)
    for path in results.save_plot(figure, stem):
        print(path)


# ---- program -------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="folder of JSONL files, one a task")
    what.add_argument("--make", type=Path, metavar="DIR", help="write our own tasks there, and end")
    parser.add_argument("--items", type=int, default=20, metavar="N",
                        help="with --make: items of each task (default: 20)")
    parser.add_argument("--words", type=int, default=1500, metavar="N",
                        help="with --make: about so many in each context (default: 1500)")
    parser.add_argument("--tasks", type=lambda text: text.split(","), metavar="LIST",
                        help="names of files (default: all that are known)")
    parser.add_argument("--last", type=parse_numbers, default=[0], metavar="LIST",
                        help="numbers of last layers that are replaced, such as 0,10,20 "
                        "(default: 0)")
    parser.add_argument("--context", type=int, metavar="N",
                        help="most tokens of prompt and answer; of longer prompts the middle is "
                        "left out (default: the model's context)")
    parser.add_argument("--plot", type=Path, metavar="STEM", help="write STEM.svg and STEM.png")
    models.add_options(parser)
    methods.add_option(parser, "published-1024,multipole")
    results.add_options(parser)
    return parser.parse_args()


def make(args: argparse.Namespace) -> None:
    """Write our own tasks."""
    if args.items < 1 or args.words < 100:
        raise UserError("--items must be 1 or more, --words 100 or more")
    of_texts = longbench_make.Texts(texts.load("bible", args.cache),
                                    texts.load("source", args.cache), args.words)
    made = longbench_make.make(of_texts, args.items, args.seed)
    longbench_make.write(args.make, made)
    print(f"{args.items} items in each of {', '.join(made)}: our own tasks, not LongBench's")


def program(args: argparse.Namespace) -> None:
    """Make tasks, or run the cases, print a table and draw the plot."""
    if args.make:
        make(args)
        return
    rows = run(data_sets(args.data, args.tasks), args, Results(args.results))
    print_table(rows, args.markdown)
    if args.plot:
        plot(rows, [setting.name for setting in args.methods], args.plot)


if __name__ == "__main__":
    given = arguments()
    sys.exit(errors.run(lambda: program(given)))
