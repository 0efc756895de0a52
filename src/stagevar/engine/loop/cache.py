"""Keys and values of the scales that have run, preallocated, one store per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Keys and values of R rows (one row per image and branch) in up to ``capacity`` positions: one number, or one per
    layer.

    Storage is made at the first ``extend`` of a layer, in ``dtype`` or else that of what arrives, and grows only if a
    plan turns out longer than announced. What is read comes in the dtype of what arrived. Nothing is ever modified in
    place once written.
    """

    def __init__(self, depth: int, capacity: int | Sequence[int], dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self._read_in: torch.dtype | None = None
        self.capacities = [capacity] * depth if isinstance(capacity, int) else list(capacity)
        self._stores: list[tuple[Tensor, Tensor] | None] = [None] * depth
        self._lengths = [0] * depth

    def length(self, layer: int) -> int:
        """Positions held by ``layer``."""
        return self._lengths[layer]

    @property
    def mean_length(self) -> int:
        """Positions held, a mean over the layers."""
        return round(sum(self._lengths) / len(self._lengths))

    @property
    def rows(self) -> int:
        """Rows held (0 while empty)."""
        return next((store[0].shape[0] for store in self._stores if store is not None), 0)

    def extend(
        self, layer: int, k_RHMD: Tensor, v_RHMD: Tensor, *, keep: bool, release: bool = False
    ) -> tuple[Tensor, Tensor]:
        """History of ``layer`` followed by the new rows, both (R, H, length + M, D).

        With ``keep`` the new rows are stored. Without it nothing is; ``release`` then frees the layer's history too
        (the last scale that runs).
        """
        store, length, self._read_in = self._stores[layer], self._lengths[layer], k_RHMD.dtype
        if not keep:
            if release:
                self._stores[layer], self._lengths[layer] = None, 0
            if store is None:
                return k_RHMD, v_RHMD
            keys, values = (part[:, :, :length].to(k_RHMD.dtype) for part in store)
            return torch.cat([keys, k_RHMD], 2), torch.cat([values, v_RHMD], 2)
        end = length + k_RHMD.shape[2]
        if store is None or end > store[0].shape[2]:
            store = self._grow(layer, k_RHMD, v_RHMD, end)
        store[0][:, :, length:end] = k_RHMD
        store[1][:, :, length:end] = v_RHMD
        self._lengths[layer] = end
        return store[0][:, :, :end].to(k_RHMD.dtype), store[1][:, :, :end].to(k_RHMD.dtype)

    def _grow(self, layer: int, k_RHMD: Tensor, v_RHMD: Tensor, end: int) -> tuple[Tensor, Tensor]:
        old, length = self._stores[layer], self._lengths[layer]
        self.capacities[layer] = max(self.capacities[layer], end)
        R, H, _, D = k_RHMD.shape
        room = R, H, self.capacities[layer], D
        new = k_RHMD.new_empty(room, dtype=self.dtype), v_RHMD.new_empty(room, dtype=self.dtype)
        if old is not None:
            new[0][:, :, :length], new[1][:, :, :length] = old[0][:, :, :length], old[1][:, :, :length]
        self._stores[layer] = new
        return new

    def keys(self, layer: int) -> Tensor:
        """The keys that ``layer`` holds, (R, H, length, D)."""
        store = self._stores[layer]
        assert store is not None
        return store[0][:, :, : self._lengths[layer]].to(self._read_in)

    def evict(self, layer: int, slots_RHl: Tensor) -> None:
        """Keep the given entries only, in new storage."""
        store, length = self._stores[layer], slots_RHl.shape[-1]
        assert store is not None
        shape = (*store[0].shape[:2], max(self.capacities[layer], length), store[0].shape[3])
        kept = store[0].new_empty(shape), store[1].new_empty(shape)
        for new, old in zip(kept, store, strict=True):
            new[:, :, :length] = old.gather(2, slots_RHl[..., None].expand(-1, -1, -1, old.shape[3]))
        self._stores[layer], self._lengths[layer] = kept, length

    def take(self, rows: Tensor, capacity: Sequence[int], dtype: torch.dtype | None = None) -> KVCache:
        """A cache of the given rows only, in storage of its own."""
        taken = KVCache(len(self._stores), capacity, dtype)
        taken._read_in = self._read_in
        for layer, length in enumerate(self._lengths):
            taken._stores[layer] = self._copied(layer, rows, max(taken.capacities[layer], length))
            taken._lengths[layer] = length
        return taken

    def narrow(self, rows: Tensor) -> None:
        """Keep only the given rows and free the others at once, one layer after the other."""
        for layer in range(len(self._stores)):
            self._stores[layer] = self._copied(layer, rows, self.capacities[layer])

    def _copied(self, layer: int, rows: Tensor, room: int) -> tuple[Tensor, Tensor] | None:
        """The filled positions of the given rows, in new storage of ``room`` positions."""
        store, length = self._stores[layer], self._lengths[layer]
        if store is None:
            return None
        keys, values = (part.new_empty(len(rows), part.shape[1], room, part.shape[3]) for part in store)
        keys[:, :, :length], values[:, :, :length] = store[0][rows, :, :length], store[1][rows, :, :length]
        return keys, values
