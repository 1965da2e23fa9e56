# SPDX-License-Identifier: Apache-2.0
"""One pass of a model over a text: its nats per token, and the seconds of its attention."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import band
import hyperattn.transformers as ht
import numpy as np
import torch
from errors import UserError
from methods import Setting
from models import Model
from numpy.typing import NDArray

_LOGITS = 1 << 25  # numbers that are in memory at a time


@dataclass(frozen=True)
class Pass:
    """A pass over n tokens.

    hidden: [n, width], what the last layer gave, normalised. seconds: of all of it, wall-clock.
    records: of the attention of each layer that can be replaced.
    """

    hidden: torch.Tensor
    seconds: float
    records: list[ht.Record]

    def attention_seconds(self) -> float:
        """Return the seconds of attention in these layers."""
        return sum(record.seconds for record in self.records)


def configure(model: Model, setting: Setting, n: int, replaced: int, seed: int = 0) -> None:
    """Compute the last `replaced` of the layers by a setting, as the paper does; exactly the rest.

    Raises UserError for a number of layers that the model has not.
    """
    if not 0 <= replaced <= len(model.layers):
        raise UserError(f"{model.name} has {len(model.layers)} layers to replace, not {replaced}")
    chosen = model.layers[len(model.layers) - replaced:]
    arguments = setting.arguments(n, seed)
    try:
        if "block_mask" in arguments:
            ht.configure(model.network, method="exact")
            band.configure(model.network, setting, chosen)
        else:
            ht.configure(model.network, layers=chosen, **arguments)
    except ValueError as error:
        raise UserError(f"{setting.name} at {n} tokens: {error}") from error


@torch.inference_mode()
def forward(model: Model, ids: list[int], error_rows: int = 0) -> Pass:
    """Read tokens in one pass, without a cache. error_rows: as in hyperattn.transformers.record."""
    tokens = torch.tensor([ids])
    with ht.record(error_rows) as records:
        start = time.perf_counter()
        hidden = model.network.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0]
        seconds = time.perf_counter() - start
    return Pass(hidden, seconds, [record for record in records if record.layer in model.layers])


@torch.inference_mode()
def judge(model: Model, hidden: torch.Tensor, targets: list[int]
          ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each target's negative log-probability in nats, and whether it comes first.

    hidden: [n, width], of the tokens before the targets. The logits are made of some rows at a
    time: those of a whole text would take more memory than all the rest.
    """
    head: Any = model.network.get_output_embeddings()
    rows = max(1, _LOGITS // head.weight.shape[0])
    nats, first = np.empty(len(targets)), np.empty(len(targets), bool)
    for start in range(0, len(targets), rows):
        part = slice(start, min(start + rows, len(targets)))
        logits = head(hidden[part])
        wanted = torch.tensor(targets[part])[:, None]
        of_wanted = logits.gather(1, wanted)[:, 0].double()
        nats[part] = (logits.logsumexp(dim=1).double() - of_wanted).numpy()
        first[part] = (logits.argmax(dim=1) == wanted[:, 0]).numpy()
    return nats, first


def text_nats(model: Model, hidden: torch.Tensor, ids: list[int]) -> float:
    """Return the mean nats of the tokens from the second on. hidden: [n, width], of all tokens."""
    nats, _ = judge(model, hidden[:-1], ids[1:])
    return float(nats.mean())
