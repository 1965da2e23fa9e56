# SPDX-License-Identifier: Apache-2.0
"""What longbench.py asks of a model, and what the scores say; without the model."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence

import methods
import numpy as np
from longbench_tasks import GROUPS, TASKS, Item
from results import Row
from texts import fingerprint


def truncated(ids: Sequence[int], limit: int) -> list[int]:
    """Return the tokens, or the first and the last ones of more than `limit`, half of each."""
    if len(ids) <= limit:
        return list(ids)
    return [*ids[:limit // 2], *ids[len(ids) - (limit - limit // 2):]]


def cases(data: Mapping[str, Sequence[Item]], args: argparse.Namespace) -> list[Row]:
    """Return what is asked for, item by item. Without a replaced layer all methods are exact."""
    exact = methods.parse("exact").name
    ways = dict.fromkeys((exact if last == 0 else setting.name, last)
                         for last in args.last for setting in args.methods)
    return [{"model": args.model, "context": args.context, "task": task, "item": item.id,
             "prompt": fingerprint(item.prompt()), "method": method, "last": last,
             "seed": args.seed}
            for task, items in data.items() for item in items for method, last in ways]


def means(rows: Sequence[Row]) -> dict[tuple[str, int], dict[str, float]]:
    """Return the score of each task, from 0 to 100, for each method and number of layers."""
    scores: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        scores[row["method"], row["last"]][row["task"]].append(row["score"])
    return {way: {task: 100 * float(np.mean(values)) for task, values in of_way.items()}
            for way, of_way in scores.items()}


def group_of(task: str) -> str:
    """Return a task's group; the task is the name of a file."""
    return TASKS[task.removesuffix("_e")].group


def group_means(of_tasks: Mapping[str, float]) -> dict[str, float]:
    """Return the mean score of the tasks in each group that has some."""
    found = {group: [score for task, score in of_tasks.items() if group_of(task) == group]
             for group in GROUPS}
    return {group: float(np.mean(scores)) for group, scores in found.items() if scores}
