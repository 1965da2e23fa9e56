#!/usr/bin/env python3
"""Measure what an approximation of attention costs a language model.

A model in a GGUF file reads a text in one forward pass, with attention in the chosen layers
computed by a method of libhyperattn and exactly in the others. Printed are the nats per token, or
with --needle how well a number that is hidden in the text is found again.

    nats.py --model m.gguf --text bible.txt --tokens 8192 --against-exact \\
        --method hyper --set window=256
    nats.py --model m.gguf --text bible.txt --tokens 8192 --needle --method hyper
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from header import HeaderError
from library import Library, LibraryError
from model import Model, ModelError
from needle import ask, hide
from replaced import LayerRecord, Replaced
from tokenizer import Tokenizer, TokenizerError

HEADER = Path(__file__).resolve().parents[2] / "include" / "hyperattn.h"


def parse_layers(spec: str, count: int) -> list[int]:
    """Turn "all", "3" or "0,4-6" into a sorted list of layers below count."""
    if spec == "all":
        return list(range(count))
    chosen: set[int] = set()
    for part in spec.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--layers: '{part}' is neither a number nor a range")
        low, high = int(first), int(last or first)
        if low > high or high >= count:
            raise ValueError(f"--layers: '{part}' is not within 0-{count - 1}")
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def parse_depths(spec: str) -> list[float]:
    depths = [float(part) for part in spec.split(",")]
    if not all(0 <= depth <= 1 for depth in depths):
        raise argparse.ArgumentTypeError("depths are between 0 and 1")
    return depths


def parse_number(text: str) -> str:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError("the number consists of digits")
    return text


def print_layers(records: list[LayerRecord]) -> None:
    for record in records:
        worst = int(record.errors.argmax())
        print(f"layer {record.layer:2}: relF median {np.median(record.errors):.4f}, "
              f"worst {record.errors[worst]:.4f} (head {worst}), "
              f"{record.seconds:.3f} s, exact {record.exact_seconds:.3f} s")
    errors = np.concatenate([record.errors for record in records])
    print(f"{len(errors)} heads: relF median {np.median(errors):.4f}, "
          f"90 % {np.quantile(errors, 0.9):.4f}, worst {errors.max():.4f}")


def run_text(args: argparse.Namespace, model: Model, tokenizer: Tokenizer, replaced: Replaced,
             exact: Replaced) -> None:
    """Print the nats per token over the text."""
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8"), args.tokens)
    if len(ids) < args.tokens:
        raise ValueError(f"{args.text}: has only {len(ids)} tokens")

    def mean_nats(attend: Replaced) -> float:
        return float(model.nats(model.forward(ids, attend)[:-1], ids[1:]).mean())

    nats = mean_nats(replaced)
    line = f"{args.label}, {args.tokens} tokens: {nats:.4f} nats per token"
    if args.against_exact:
        reference = mean_nats(exact)
        line += f", {nats - reference:+.4f} against exact ({100 * (nats / reference - 1):+.2f} %)"
    seconds = float(np.mean([record.seconds for record in replaced.records]))
    print(f"{line}, attention {seconds:.3f} s per layer")
    if args.per_layer:
        print_layers(replaced.records)


def run_needles(args: argparse.Namespace, model: Model, tokenizer: Tokenizer, replaced: Replaced,
                exact: Replaced) -> None:
    """Print, for each depth, the log-probability of the number and how much of it is right."""
    text = args.text.read_text(encoding="utf-8")
    cases = {"exact": exact} if args.against_exact else {}
    cases[args.label] = replaced
    for depth in args.depths:
        haystack = hide(tokenizer, text, args.tokens, depth, args.number)
        found = []
        for label, attend in cases.items():
            logp, right = ask(model, haystack, attend)
            found.append(f"{label} {logp:.3f}, {right} of {haystack.digits} right")
        print(f"depth {depth:.2f} (token {haystack.position}): {'; '.join(found)}", flush=True)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure what an approximation of attention costs a language model.")
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FILE", help="GGUF file, llama or qwen2")
    add("--text", type=Path, required=True, metavar="FILE", help="UTF-8 text")
    add("--tokens", type=int, metavar="N",
        help="tokens from the start of the text (default: the model's context)")
    add("--layers", default="all", metavar="LIST",
        help="layers that are replaced, such as 14, 0,4-6 or all (default: all)")
    add("--method", default="exact", metavar="NAME",
        help="a name of hyperattn_method, such as hyper (default: exact)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
        help="a field of hyperattn_params; may be repeated")
    add("--against-exact", action="store_true",
        help="run exact attention too and print the difference to it, with --needle its answers")
    add("--per-layer", action="store_true",
        help="print each replaced layer's error against exact attention of the same inputs")
    add("--needle", action="store_true", help="hide a number in the text and ask for it")
    add("--depths", type=parse_depths, default=[0.1, 0.3, 0.5, 0.7, 0.9], metavar="LIST",
        help="where the needle lies, 0 to 1 (default: 0.1,0.3,0.5,0.7,0.9)")
    add("--number", type=parse_number, default="48213097", metavar="DIGITS",
        help="the number to hide (default: 48213097)")
    add("--library", type=Path, default=Path("libhyperattn.so.0"), metavar="FILE",
        help="libhyperattn (default: the installed one)")
    add("--header", type=Path, default=HEADER, metavar="FILE",
        help="the hyperattn.h that the library was built with (default: that of this tree)")
    add("--threads", type=int, default=0, metavar="N",
        help="threads of attention (default: what OpenMP takes)")
    args = parser.parse_args(argv)
    if args.needle and args.per_layer:
        parser.error("--per-layer is not for --needle")
    args.label = " ".join([args.method, *args.settings])
    return args


def measure(args: argparse.Namespace) -> None:
    model = Model(args.model)
    args.tokens = model.context if args.tokens is None else args.tokens
    if not 2 <= args.tokens <= model.context:
        raise ValueError(f"--tokens: must be 2-{model.context}")
    layers = parse_layers(args.layers, model.layers)
    tokenizer = Tokenizer(model.reader)
    with Library(args.library, args.header, args.threads) as library:
        params = library.params(args.method, args.settings)
        replaced = Replaced(library, params, layers, args.per_layer)
        exact = Replaced(library, library.params("exact", []), [], False)
        (run_needles if args.needle else run_text)(args, model, tokenizer, replaced, exact)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        measure(args)
    except (HeaderError, LibraryError, ModelError, TokenizerError, OSError, ValueError) as error:
        print(f"nats.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
