"""The forward pass of small language models in numpy, from a GGUF file.

Attention is called from outside, so that a library can take its place. Weights are dequantised
where they are used, so that the memory needed is that of the activations.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Array = np.ndarray
# (layer, q, k, v) to out, all of shape [heads, tokens, head_dim], q and k after the rotary
# embedding.
Attend = Callable[[int, Array, Array, Array], Array]

TOKEN_CHUNK = 1024  # rows of the feed-forward layer and of the logits that are held at once
VOCABULARY_CHUNK = 16384


class ModelError(Exception):
    """The file is not one of the models that are known here."""


class Model:
    """A decoder with RMSNorm, rotary embedding, grouped queries and SwiGLU: llama or qwen2."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self._arch = self._required("general.architecture")
        if self._arch not in ("llama", "qwen2"):
            raise ModelError(f"{path}: architecture '{self._arch}': known are llama and qwen2")
        self.layers = int(self._required("block_count"))
        self.context = int(self._required("context_length"))
        self.heads = int(self._required("attention.head_count"))
        self.heads_kv = int(self._optional("attention.head_count_kv", self.heads))
        self.head_dim = int(self._required("embedding_length")) // self.heads
        self._epsilon = np.float32(self._required("attention.layer_norm_rms_epsilon"))
        for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
            if self._optional(key, self.head_dim) != self.head_dim:
                raise ModelError(f"{path}: {key} is not embedding_length / attention.head_count")

    def forward(self, ids: list[int], attend: Attend) -> Array:
        """Return the final states [tokens, embedding], normalised for logits."""
        hidden = self._weight("token_embd.weight", np.asarray(ids))
        rotation = self._rotation(len(ids))
        for layer in range(self.layers):
            block = f"blk.{layer}."
            normed = self._norm(hidden, block + "attn_norm.weight")
            q = self._rotate(self._heads(normed, block + "attn_q", self.heads), rotation)
            k = self._rotate(self._heads(normed, block + "attn_k", self.heads_kv), rotation)
            v = self._heads(normed, block + "attn_v", self.heads_kv)
            out = attend(layer, q, k, v).transpose(1, 0, 2).reshape(len(ids), -1)
            hidden += out @ self._weight(block + "attn_output.weight").T
            self._feed_forward(hidden, block)
        return self._norm(hidden, "output_norm.weight")

    def logits(self, states: Array) -> Array:
        """Return [rows, vocabulary] for a few final states."""
        return np.concatenate([states @ weight.T for weight in self._vocabulary()], axis=1)

    def nats(self, states: Array, targets: list[int]) -> Array:
        """Return -log p(target) for each final state, without holding all logits."""
        largest = np.full(len(states), -np.inf)
        total = np.zeros(len(states))
        for weight in self._vocabulary():
            for start in range(0, len(states), TOKEN_CHUNK):
                rows = slice(start, start + TOKEN_CHUNK)
                logits = states[rows] @ weight.T
                top = np.maximum(largest[rows], logits.max(axis=1))
                logits -= top[:, None].astype(np.float32)
                added = np.exp(logits, out=logits).sum(axis=1, dtype=np.float64)
                total[rows] = total[rows] * np.exp(largest[rows] - top) + added
                largest[rows] = top
        wanted = self._weight(self._output_name(), np.asarray(targets))
        return largest + np.log(total) - np.einsum("ij,ij->i", states, wanted)

    def _optional(self, key: str, default: Any) -> Any:
        field = self.reader.get_field(f"{self._arch}.{key}")
        return default if field is None else field.contents()

    def _required(self, key: str) -> Any:
        name = key if key.startswith("general.") else f"{self._arch}.{key}"
        field = self.reader.get_field(name)
        if field is None:
            raise ModelError(f"the model has no {name}")
        return field.contents()

    def _weight(self, name: str, rows: Array | slice = slice(None)) -> Array:
        """Return a tensor, or some rows of it, as float32."""
        if name not in self._tensors:
            raise ModelError(f"the model has no tensor {name}")
        tensor = self._tensors[name]
        return gguf.quants.dequantize(tensor.data[rows], tensor.tensor_type)

    def _output_name(self) -> str:
        """The embedding serves as output too, unless the file has an output of its own."""
        return "output.weight" if "output.weight" in self._tensors else "token_embd.weight"

    def _vocabulary(self) -> Iterator[Array]:
        name = self._output_name()
        for start in range(0, len(self._tensors[name].data), VOCABULARY_CHUNK):
            yield self._weight(name, slice(start, start + VOCABULARY_CHUNK))

    def _norm(self, hidden: Array, name: str) -> Array:
        square = np.einsum("ij,ij->i", hidden, hidden) / np.float32(hidden.shape[1])
        return hidden / np.sqrt(square + self._epsilon)[:, None] * self._weight(name)

    def _heads(self, normed: Array, name: str, heads: int) -> Array:
        """Project to [heads, tokens, head_dim]."""
        weight = self._weight(name + ".weight")
        if self._arch == "llama" and not name.endswith("attn_v"):
            # llama's files hold the two halves that are rotated together in alternating rows.
            pairs = weight.reshape(heads, self.head_dim // 2, 2, -1)
            weight = pairs.swapaxes(1, 2).reshape(weight.shape)
        out = normed @ weight.T
        if name + ".bias" in self._tensors:
            out += self._weight(name + ".bias")
        return np.ascontiguousarray(out.reshape(len(normed), heads, -1).transpose(1, 0, 2))

    def _rotation(self, tokens: int) -> tuple[Array, Array]:
        """Return cosine and sine [tokens, head_dim / 2] of the rotary embedding."""
        kind = self._optional("rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise ModelError(f"rope.scaling.type is '{kind}': known are none and linear")
        factor = self._optional("rope.scaling.factor", 1.0) if kind == "linear" else 1.0
        exponents = np.arange(0, self.head_dim, 2) / self.head_dim
        frequencies = float(self._optional("rope.freq_base", 10000.0)) ** -exponents / factor
        if "rope_freqs.weight" in self._tensors:
            frequencies /= self._weight("rope_freqs.weight")
        angles = np.arange(tokens)[:, None] * frequencies
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def _rotate(self, x: Array, rotation: tuple[Array, Array]) -> Array:
        cosine, sine = rotation
        half = self.head_dim // 2
        out = np.empty_like(x)
        out[..., :half] = x[..., :half] * cosine - x[..., half:] * sine
        out[..., half:] = x[..., half:] * cosine + x[..., :half] * sine
        return out

    def _feed_forward(self, hidden: Array, block: str) -> None:
        """Add the SwiGLU layer to the residual stream in place."""
        gate, up, down = (self._weight(f"{block}ffn_{n}.weight") for n in ("gate", "up", "down"))
        for start in range(0, len(hidden), TOKEN_CHUNK):
            rows = hidden[start : start + TOKEN_CHUNK]
            normed = self._norm(rows, block + "ffn_norm.weight")
            opened = normed @ gate.T
            # x / (1 + exp(-x)), with the argument bounded where float32's exp would overflow.
            opened /= 1 + np.exp(-np.maximum(opened, np.float32(-80)))
            rows += (opened * (normed @ up.T)) @ down.T
