#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time of a prefill: PyTorch's own attention, the library's exact one, and its approximations.

`model` times a whole pass of a language model over the first n tokens of a text, attention in the
layers that can be replaced apart from all the rest; no logits are made. `shapes` times attention
alone, of one layer of models whose weights are not to be had, on queries, keys and values that are
independent and normal, as random weights make them. There attention is nearly uniform, so that its
time is that of the shape; of MULTIPOLE's, which looks for the keys that count, it says little.

    prefill.py model --models smollm2,qwen --n 8192,16384,32768 --results prefill.jsonl
    prefill.py shapes --n 8192,16384,32768 --results prefill.jsonl
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from hyperattn.transformers._record import recorded
from models import Model
from results import Results, Row
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

SDPA = "sdpa"  # beside the names of methods: PyTorch's own attention


@dataclass(frozen=True)
class Shape:
    """The attention of one layer; query heads share the key heads evenly."""

    layers: int  # of the model
    heads: int
    key_heads: int
    dim: int


SHAPES = {"phi-1.5": Shape(24, 32, 32, 64), "chatglm2-6b": Shape(28, 32, 2, 128)}

# ---- whole models --------------------------------------------------------------------------------


def _timed_sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
                mask: Tensor | None, **kwargs: Any) -> tuple[Tensor, None]:
    """Compute a layer as transformers does by default; hyperattn.transformers.record() sees it."""
    def attend() -> Tensor:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]

    layer: Any = module.layer_idx
    return recorded(attend, None, layer, SDPA, query.shape[2], key.shape[2]), None


def use_sdpa(model: Model) -> None:
    """Give a model PyTorch's attention. running.configure() undoes it."""
    AttentionInterface.register("timed-sdpa", _timed_sdpa)
    AttentionMaskInterface.register("timed-sdpa", ALL_MASK_ATTENTION_FUNCTIONS[SDPA])
    model.use("timed-sdpa")


def measure_model(model: Model, text: str, case: Row, repeat: int) -> Row:
    """Return the seconds of the passes, and of attention in all layers that can be replaced."""
    n = case["n"]
    ids = model.encode(text, n)
    if case["method"] == SDPA:
        use_sdpa(model)
    else:
        running.configure(model, methods.parse(case["method"]), n, len(model.layers), case["seed"])
    passes = [running.forward(model, ids) for _ in range(repeat)]
    return {"seconds": [one.seconds for one in passes],
            "attention": [one.attention_seconds() for one in passes], "layers": len(model.layers),
            "text_sha256": texts.fingerprint(text)}


def run_models(args: argparse.Namespace) -> None:
    """Time the cases that are not in the results yet, and print the tables of all."""
    kept, loader = Results(args.results), models.Loader(args.cache)
    rows: list[Row] = []
    for name in args.models:
        cases = [{"task": "model", "model": name, "text": args.text, "n": n, "method": method,
                  "seed": args.seed} for n in args.n for method in methods_asked(args)]
        new = [case for case in cases if not kept.find(case)]
        for case in results.progress(new, "prefill"):
            found = measure_model(loader.get(name), texts.load(args.text, args.cache), case,
                                  args.repeat)
            kept.add(case, {**found, **surroundings()})
        rows += [row for row in map(kept.find, cases) if row]
    for (name, n), group in by(rows, "model", "n"):
        title = models.SOURCES[name].title
        print(f"\n{title}, {Path(args.text).name}, {n} tokens, {group[0]['layers']} layers\n")
        print_table(group, args.markdown)


# ---- shapes --------------------------------------------------------------------------------------


def measure_shape(shape: Shape, case: Row, repeat: int) -> Row:
    """Return the seconds of attention of one layer, causal, float32."""
    n = case["n"]
    generator = torch.Generator().manual_seed(case["seed"])
    q, k, v = (torch.randn((1, heads, n, shape.dim), generator=generator)
               for heads in (shape.heads, shape.key_heads, shape.key_heads))
    attend: Callable[[], Any]
    if case["method"] == SDPA:
        def attend() -> Any:
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True,
                                                              enable_gqa=True)
    else:
        arguments = methods.parse(case["method"]).arguments(n, case["seed"])
        context = hyperattn.Context(threads=torch.get_num_threads())

        def attend() -> Any:
            return hyperattn.attention(q, k, v, causal=True, context=context, **arguments)
    with torch.inference_mode():
        return {"seconds": [_seconds(attend) for _ in range(repeat)]}


def _seconds(attend: Callable[[], Any]) -> float:
    start = time.perf_counter()
    attend()
    return time.perf_counter() - start


def run_shapes(args: argparse.Namespace) -> None:
    """Time the cases that are not in the results yet, and print the tables of all."""
    kept = Results(args.results)
    cases = [{"task": "shapes", "shape": name, "n": n, "method": method, "seed": args.seed}
             for name in args.shapes for n in args.n for method in methods_asked(args)]
    new = [case for case in cases if not kept.find(case)]
    for case in results.progress(new, "prefill"):
        found = measure_shape(SHAPES[case["shape"]], case, args.repeat)
        kept.add(case, {**found, **surroundings()})
    rows = [row for row in map(kept.find, cases) if row]
    for (name, n), group in by(rows, "shape", "n"):
        shape = SHAPES[name]
        print(f"\n{name}, one layer of {shape.layers}: {shape.heads} heads on {shape.key_heads}, "
              f"dimension {shape.dim}, {n} tokens\n")
        print_table(group, args.markdown)


# ---- both ----------------------------------------------------------------------------------------


def methods_asked(args: argparse.Namespace) -> list[str]:
    """Return the names of PyTorch's attention, of exact attention and of the methods asked for."""
    return list(dict.fromkeys([SDPA, "exact", *(setting.name for setting in args.methods)]))


def surroundings() -> Row:
    """Return what besides the case makes the time."""
    return {"threads": torch.get_num_threads(), "library": hyperattn.version(),
            "instructions": hyperattn.default_context().isa, "torch": torch.__version__}


def by(rows: list[Row], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Return the rows with the same values of these names, and the values."""
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        yield key, [row for row in rows if tuple(row[name] for name in names) == key]


def print_table(rows: list[Row], markdown: bool) -> None:
    """Print medians: of the whole, of attention and of the rest, and the speed-ups over exact."""
    exact = next((row for row in rows if row["method"] == "exact"), None)
    if exact is None:
        raise UserError("the results have no exact attention beside a method")
    head, lines = ["method", "s", "speed-up"], []
    if "attention" in exact:
        head = ["method", "prefill, s", "speed-up", "attention, s", "speed-up", "rest, s"]
    for row in rows:
        name = "PyTorch's sdpa" if row["method"] == SDPA else methods.parse(row["method"]).title
        cells = [name, *_times(row["seconds"], exact["seconds"])]
        if "attention" in row:
            rest = np.subtract(row["seconds"], row["attention"])
            cells += [*_times(row["attention"], exact["attention"]), f"{np.median(rest):.2f}"]
        lines.append(cells)
    print(results.table(head, lines, markdown))


def _times(seconds: list[float], exact: list[float]) -> tuple[str, str]:
    return f"{np.median(seconds):.3g}", f"{np.median(exact) / np.median(seconds):.2f}"


# ---- command line --------------------------------------------------------------------------------


def shapes(text: str) -> list[str]:
    """Return the names in a list of SHAPES, for argparse's type."""
    for name in text.split(","):
        if name not in SHAPES:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(SHAPES)}")
    return text.split(",")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time of a prefill by method of attention.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = commands.add_parser("model", help="whole language models")
    models.add_options(model, many=True)
    texts.add_option(model)
    model.set_defaults(program=run_models)
    alone = commands.add_parser("shapes", help="attention alone, on random inputs")
    alone.add_argument("--shapes", type=shapes, default=list(SHAPES), metavar="LIST",
                       help=f"default: {','.join(SHAPES)}")
    alone.set_defaults(program=run_shapes)
    for command in (model, alone):
        command.add_argument("--n", type=results.numbers, default=[8192], metavar="LIST",
                             help="tokens (default: 8192)")
        methods.add_option(command, "published,hyper-256,multipole,sliding")
        command.add_argument("--repeat", type=int, default=3, metavar="N",
                             help="runs of each, of which the median counts (default: 3)")
        command.add_argument("--threads", type=int, metavar="N", help="default: PyTorch's")
        results.add_options(command)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    if args.repeat < 1:
        raise UserError(f"--repeat is {args.repeat}, must be at least 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.program(args)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return errors.run(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
