"""Every back end of attention that is here computes the same, over all that a cache hands to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stagevar.engine.loop import attention
from stagevar.engine.loop.attention import fastest_attention, fastest_first
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.loop.graphs import HeldCache
from stagevar.families.tiny import tiny

CPU = torch.device("cpu")
Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def by_hand(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    weights = (q.float() @ k.float().mT * scale).softmax(-1)
    return weights @ v.float()


def by(backend: SDPBackend) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)

    return attend


def flexible(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Without compilation, as the CPU runs it."""
    from torch.nn.attention.flex_attention import flex_attention

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = flex_attention(q, k, v, scale=scale)
    assert isinstance(found, Tensor)
    return found


ATTENTIONS: dict[str, Attention] = {
    "default": lambda q, k, v, scale: F.scaled_dot_product_attention(q, k, v, scale=scale),
    "math": by(SDPBackend.MATH),
    "flash": by(SDPBackend.FLASH_ATTENTION),
    "flex": flexible,
}


def rows(count: int, dtype: torch.dtype, images: int = 4) -> list[Tensor]:
    """Queries, keys and values as the blocks make them: heads are a transposed axis."""
    return [torch.randn(images, count, 3, 16).to(dtype).transpose(1, 2) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_back_ends_agree_over_a_growing_a_narrowed_and_a_released_cache(
    name: str, held: bool, dtype: torch.dtype
) -> None:
    cache: KVCache = (HeldCache if held else KVCache)(1, 32)
    for scale, count in enumerate((1, 4, 9, 16, 25)):
        if scale == 3:
            cache.narrow(torch.arange(2))
        q, k, v = rows(count, dtype, images=2 if scale >= 3 else 4)
        keys, values = cache.extend(0, k, v, keep=scale not in (2, 4), release=scale == 4)
        found = ATTENTIONS[name](q, keys, values, 1.0 if scale % 2 else 0.25)
        assert found.dtype == dtype and found.shape == q.shape
        wanted = by_hand(q, keys, values, 1.0 if scale % 2 else 0.25)
        tight = dtype == torch.float32
        torch.testing.assert_close(found.float(), wanted, atol=1e-5 if tight else 3e-2, rtol=1e-4 if tight else 3e-2)
    assert cache.length(0) == 0


def test_the_probe_sorts_the_back_ends_that_are_right_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 1.0, 2.0, 5.0])
    monkeypatch.setattr(attention, "_seconds", lambda action, device: action() is not None and next(times))
    fastest_first.cache_clear()
    assert fastest_first(CPU, torch.float32, 2, 8, 64) == (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION)
    assert fastest_first(CPU, torch.bfloat16, 2, 8, 64) == (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)
    fastest_first.cache_clear()


def test_the_probe_takes_its_own_times_and_refuses_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest_first.cache_clear()
    assert set(fastest_first(CPU, torch.float32, 2, 8, 64)) == {SDPBackend.MATH, SDPBackend.FLASH_ATTENTION}
    fastest_first.cache_clear()
    monkeypatch.setattr(attention, "TOLERANCE", 1e-5)
    assert fastest_first(CPU, torch.bfloat16, 2, 8, 64) == ()
    fastest_first.cache_clear()


def test_the_cpu_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "fastest_first", None)
    with fastest_attention(tiny("var")):
        pass
