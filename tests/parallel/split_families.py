"""Draws with tiny networks of the families named, whole and over the processes of torchrun, and prints what differs.
For torchrun; the first process prints a JSON line per family."""

import json
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from stagevar.calling import expand
from stagevar.engine.loop.cache import KVCache
from stagevar.families.blocks import layer_norm
from stagevar.families.linear import Linear
from stagevar.families.tiny import tiny
from stagevar.parallel.group import Group
from stagevar.parallel.ranks import Ranks
from stagevar.parallel.tensor import norm_over_devices, split
from stagevar.pipeline import Pipeline

CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"smooth": False},
    "online": {"smooth": False, "accelerator": "stagevar"},
    "watched": {"smooth": False, "accelerator": "toprovar"},
}


class Counted(KVCache):
    """A cache that notes the most bytes that any cache has held."""

    most = 0

    def _grow(self, *given: Any) -> tuple[Tensor, Tensor]:
        new = super()._grow(*given)
        held = sum(part.nbytes for store in self._stores if store for part in store)
        Counted.most = max(Counted.most, held)
        return new


def drawn(pipe: Pipeline, settings: dict[str, Any]) -> tuple[list[Tensor], Tensor, int]:
    """Codes of all scales, latents, and the most bytes of the cache."""
    codes: list[Tensor] = []
    Counted.most = 0

    def tap(name: str, k: int, tensor: Tensor) -> None:
        if name == "codes":
            codes.append(tensor.clone())

    requests = expand(list(pipe.model.samples[:2]), seed=3, **settings)
    *_, event = pipe.events(requests, output_type="latent", tap=tap)
    return codes, event.latent, Counted.most


def held(blocks: nn.ModuleList) -> int:
    """Bytes of the blocks' parameters in this process."""
    whole = (p.to_local() if hasattr(p, "to_local") else p for p in blocks.parameters())
    return sum(parameter.untyped_storage().nbytes() for parameter in whole)


def main() -> None:
    warnings.simplefilter("error")
    group = Group.join(2, CPU)
    vars(sys.modules["stagevar.engine.loop.cohort"])["KVCache"] = Counted
    for family in sys.argv[1:]:
        model, ours = tiny(family), tiny(family)
        whole, bytes_whole = Pipeline(model), held(model.blocks)
        split(ours, group.mesh, CPU, torch.float32)
        shared, found = Pipeline(ours, group=group), {"family": family, "weights": held(ours.blocks) / bytes_whole}
        for name, settings in SETTINGS.items():
            codes, latent, cache = drawn(whole, settings)
            our_codes, our_latent, our_cache = drawn(shared, settings)
            found[f"{name} codes"] = len(codes) == len(our_codes) and all(map(torch.equal, codes, our_codes))
            found[f"{name} latent"] = float((latent - our_latent).abs().max())
            found[f"{name} cache"] = our_cache / cache if cache else None
        packed = [layer for layer in ours.blocks.modules() if isinstance(layer, Linear) and layer._packed is not None]
        found["packed"] = len(packed)
        [fresh] = shared(ours.samples[0], output_type="latent").seeds
        assert group.same(fresh) == fresh
        if Ranks.here().rank == 0:
            print(json.dumps(found), flush=True)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    own = x.chunk(2, -1)[group.mesh.get_local_rank()]
    normed = layer_norm(x, 1e-6).chunk(2, -1)[group.mesh.get_local_rank()]
    torch.testing.assert_close(norm_over_devices(group.mesh, own, 1e-6), normed)


main()
