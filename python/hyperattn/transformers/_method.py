# SPDX-License-Identifier: Apache-2.0
"""How one layer is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

ATTRIBUTE = "hyperattn_method"  # of an attention module


@dataclass(frozen=True)
class Method:
    """The arguments of hyperattn.torch.attention for a layer.

    min_rows: calls with fewer query rows are computed exactly. params: target_error and the other
    fields that were given, as (name, value).
    """

    method: str
    min_rows: int
    seed: int
    params: Tuple[Tuple[str, Any], ...]

    @classmethod
    def of(cls, min_rows: int, method: str, seed: int, **params: Any) -> "Method":
        """Return it with params in the order of their names, without those that are None."""
        given = tuple(sorted((k, v) for k, v in params.items() if v is not None))
        return cls(method, min_rows, seed, given)

    def for_rows(self, rows: int) -> "Method":
        """Return this, or EXACT where a call has too few query rows for it."""
        return self if rows >= self.min_rows else EXACT


EXACT = Method("exact", 0, 0, ())
