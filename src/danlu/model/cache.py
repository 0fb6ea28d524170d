"""Keys and values of what was read already, so that a new token costs one token.

Shapes: B rows, G key/value heads, S the longest length, K channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Cache:
    """A static cache: allocated once, a tensor a layer with keys and values; every row has its own length.

    `rows` gives some of them as a cache of their own over the same memory.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        shape = (2, rows, heads, length, head_dim)
        self.layers_2BGSK = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.lengths = [0] * rows
        self.device = device

    def rows(self, start: int, lengths: Sequence[int]) -> Cache:
        """See rows `start`, `start + 1`, … as a cache, whose rows hold so many tokens already."""
        seen = object.__new__(Cache)
        seen.layers_2BGSK = [layer.narrow(1, start, len(lengths)) for layer in self.layers_2BGSK]
        seen.lengths, seen.device = list(lengths), self.device
        return seen

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens to another row."""
        for layer_2BGSK in self.layers_2BGSK:
            layer_2BGSK[:, target, :, :length] = layer_2BGSK[:, source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Let two rows change places, as far as their first `length` tokens."""
        for layer_2BGSK in self.layers_2BGSK:
            pair = [layer_2BGSK[:, row, :, :length] for row in (one, other)]
            first = pair[0].clone()
            pair[0].copy_(pair[1])
            pair[1].copy_(first)

    @property
    def even(self) -> bool:
        """Tell whether all rows have the same length."""
        return min(self.lengths) == max(self.lengths)

    @property
    def limit(self) -> int:
        """Return how many tokens a row can hold."""
        return self.layers_2BGSK[0].shape[3]

    def positions(self, T: int) -> Tensor:
        """Return positions_BT of the next T tokens of every row."""
        starts = torch.tensor(self.lengths, device=self.device)
        return starts[:, None] + torch.arange(T, device=self.device)

    def mask(self, T: int) -> Tensor | None:
        """Return mask_B1TS for the next T tokens, or None where nothing or plain causality needs hiding.

        None means: one token a row and even rows, or an empty cache.
        """
        if self.even and (T == 1 or self.lengths[0] == 0):
            return None
        keys = torch.arange(max(self.lengths) + T, device=self.device)
        return (keys[None, None, :] <= self.positions(T)[:, :, None])[:, None]

    def append(self, layer: int, k_BGTK: Tensor, v_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values behind each row's; return all up to the longest row's end."""
        keys, values = self.layers_2BGSK[layer].unbind()
        T = k_BGTK.shape[2]
        if self.even:
            start = self.lengths[0]
            keys[:, :, start : start + T] = k_BGTK
            values[:, :, start : start + T] = v_BGTK
        elif T == 1:
            row = torch.arange(len(self.lengths), device=self.device)
            at = torch.tensor(self.lengths, device=self.device)
            keys[row, :, at] = k_BGTK[:, :, 0]
            values[row, :, at] = v_BGTK[:, :, 0]
        else:
            for row, start in enumerate(self.lengths):
                keys[row, :, start : start + T] = k_BGTK[row]
                values[row, :, start : start + T] = v_BGTK[row]
        end = max(self.lengths) + T
        return keys[:, :, :end], values[:, :, :end]

    def append_token(self, layer: int, kv_2GK: Tensor) -> tuple[Tensor, Tensor]:
        """Store one token's keys and values of a single row; return all of that row, GSK each."""
        row_2GSK, end = self.layers_2BGSK[layer][:, 0], self.lengths[0]
        row_2GSK.select(2, end).copy_(kv_2GK)
        keys, values = row_2GSK.narrow(2, 0, end + 1).unbind()
        return keys, values

    def advance(self, T: int) -> None:
        """Count T more tokens in every row, once all layers have stored them."""
        self.lengths = [length + T for length in self.lengths]
