#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Capture the queries, keys and values of a real language model as .npy files.

A model reads one long text in a single forward pass, by PyTorch's own attention, and in each chosen
layer the tensors that enter attention are written out: after the rotary embedding, before the
softmax scale.

Every file is a C-order array of shape [head, row, dim]. The query heads of one key/value head stand
together, as grouped-query attention expects them: query head i uses key/value head
i // (query heads / key heads).

    capture.py --layers 14 --heads 3 --dtype bf16 --output-dir sample
    capture.py --model qwen --text source --length 32768 --layers 0-4 --output-dir some
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import errors
import models
import numpy as np
import running
import texts
import torch
from errors import UserError
from models import Model
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "capture"


def parse_indices(spec: str, count: int, what: str) -> list[int]:
    """Turn "all", "3" or "0,4-6" into a sorted list of indices below count."""
    if spec == "all":
        return list(range(count))
    chosen: set[int] = set()
    for part in spec.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part, flags=re.ASCII)
        if not found:
            raise UserError(f"{what}: '{part}' is neither a number nor a range")
        low, high = int(found[1]), int(found[2] or found[1])
        if low > high or high >= count:
            raise UserError(f"{what}: '{part}' is outside 0-{count - 1}")
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def kv_heads_for(heads: list[int], group: int) -> list[int]:
    """Return the key/value heads that serve the query heads, in order.

    The written arrays carry no head map, so each of these must serve equally many of the chosen
    query heads.
    """
    members = Counter(head // group for head in heads)
    if len(set(members.values())) != 1:
        raise UserError(f"--heads: choose equally many from each group of {group} query heads "
                        "(they share a key/value head)")
    return sorted(members)


class Recorder:
    """An attention function for transformers that keeps what it is given.

    It takes the place of the model's own, so that it sees query, key and value exactly as they
    enter attention, whatever the model does to them before.
    """

    def __init__(self, layers: list[int], heads: list[int], kv_heads: list[int]) -> None:
        self._layers = frozenset(layers)
        self._heads = heads
        self._kv_heads = kv_heads
        self.captured: dict[int, dict[str, Tensor]] = {}
        self.scale: float | None = None

    def attach(self, model: Model) -> None:
        """Make this the attention of a model, with the masks of PyTorch's."""
        AttentionInterface.register(NAME, self)
        AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        model.use(NAME)

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
                 mask: Tensor | None, scaling: float | None = None, **kwargs: Any
                 ) -> tuple[Tensor, None]:
        layer: Any = module.layer_idx
        if layer in self._layers:
            self.captured[layer] = {"q": query[0, self._heads], "k": key[0, self._kv_heads],
                                    "v": value[0, self._kv_heads]}
            self.scale = scaling
        out = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
        return out[0], None


def to_array(tensor: Tensor, dtype: str) -> NDArray[Any]:
    """Convert to a C-order array; bf16 becomes its bits, as NumPy has no such type."""
    tensor = tensor.contiguous()
    if dtype == "bf16":
        tensor = tensor.to(torch.bfloat16).view(torch.uint16)
    array: NDArray[Any] = tensor.numpy()
    return array


def write_capture(recorder: Recorder, layers: list[int], dtype: str, output_dir: Path) -> None:
    """Write q.npy, k.npy and v.npy, in a directory per layer if there are several layers."""
    for layer in layers:
        directory = output_dir if len(layers) == 1 else output_dir / f"layer-{layer:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        for name, tensor in recorder.captured[layer].items():
            array = to_array(tensor, dtype)
            np.save(directory / f"{name}.npy", array)
            print(f"{directory / name}.npy  {array.dtype}  {list(array.shape)}")


def capture(args: argparse.Namespace) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    model = models.load(args.model, args.cache)
    config = model.network.config
    layers = parse_indices(args.layers, config.num_hidden_layers, "--layers")
    heads = parse_indices(args.heads, config.num_attention_heads, "--heads")
    kv_heads = kv_heads_for(heads, config.num_attention_heads // config.num_key_value_heads)
    length = model.context if args.length is None else args.length
    ids = model.encode(texts.load(args.text, args.cache), length)

    recorder = Recorder(layers, heads, kv_heads)
    recorder.attach(model)
    nats = running.text_nats(model, running.forward(model, ids).hidden, ids)
    write_capture(recorder, layers, args.dtype, args.output_dir)

    used = model.tokenizer.decode(ids, skip_special_tokens=True)
    record = {
        "model": model.title, "model_sha256": models.SOURCES[model.name].sha256,
        "text": Path(args.text).name, "text_sha256": hashlib.sha256(used.encode()).hexdigest(),
        "length": length, "layers": layers, "heads": heads, "kv_heads": kv_heads,
        "windowed_layers": [layer for layer in layers if layer not in model.layers],
        "head_dim": recorder.captured[layers[0]]["q"].shape[-1],
        "softmax_scale": recorder.scale, "dtype": args.dtype, "nats_per_token": round(nats, 4),
    }
    (args.output_dir / "capture.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{length} tokens, mean loss {nats:.4f} nats per token")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write the attention inputs of a language model as .npy files.")
    models.add_options(parser)
    texts.add_option(parser)
    add = parser.add_argument
    add("--length", type=int, metavar="N",
        help="tokens, from the start of the text (default: the model's context)")
    add("--layers", default="all", metavar="LIST",
        help="layers such as 14, 0,4-6 or all (default: all)")
    add("--heads", default="all", metavar="LIST",
        help="query heads, in the same form; their key/value heads follow (default: all)")
    add("--dtype", choices=("f32", "bf16"), default="f32",
        help="float32, or bfloat16 bits stored as uint16 (default: f32)")
    add("--output-dir", type=Path, required=True, metavar="DIR", help="where to write")
    add("--threads", type=int, metavar="N", help="default: PyTorch's")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return errors.run(lambda: capture(args))


if __name__ == "__main__":
    sys.exit(main())
