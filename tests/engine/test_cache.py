import gc
import weakref

import torch

from stagevar.engine.loop.cache import KVCache


def rows(count, seed, images=2):
    return torch.randn(images, 3, count, 4, generator=torch.Generator().manual_seed(seed))


def test_history_is_returned_in_order_and_old_rows_never_change():
    cache, seen = KVCache(1, 10), []
    for step, count in enumerate((1, 4, 3)):
        k, v = rows(count, step), rows(count, 10 + step)
        seen.append((k, v))
        keys, values = cache.extend(0, k, v, keep=True)
        assert torch.equal(keys, torch.cat([pair[0] for pair in seen], 2))
        assert torch.equal(values, torch.cat([pair[1] for pair in seen], 2))
    assert cache.length(0) == 8


def test_the_last_scale_stores_nothing_and_releases_the_history():
    cache = KVCache(2, 4)
    for layer in range(2):
        cache.extend(layer, rows(3, 0), rows(3, 1), keep=True)
    storage = weakref.ref(cache._stores[0][0].untyped_storage())
    keys, _ = cache.extend(0, rows(5, 2), rows(5, 3), keep=False, release=True)
    assert keys.shape[2] == 8 and cache.length(0) == 0 and cache.length(1) == 3
    gc.collect()
    assert storage() is None


def test_storage_is_made_once_if_the_capacity_was_announced_and_grows_otherwise():
    cache = KVCache(1, 8)
    cache.extend(0, rows(3, 0), rows(3, 1), keep=True)
    before = cache._stores[0][0].data_ptr()
    cache.extend(0, rows(5, 2), rows(5, 3), keep=True)
    assert cache._stores[0][0].data_ptr() == before
    keys, values = cache.extend(0, rows(2, 4), rows(2, 5), keep=True)
    assert torch.equal(keys, torch.cat([rows(3, 0), rows(5, 2), rows(2, 4)], 2))
    assert torch.equal(values, torch.cat([rows(3, 1), rows(5, 3), rows(2, 5)], 2))


def test_narrow_keeps_the_given_rows_in_storage_of_their_size():
    cache = KVCache(1, 6)
    cache.extend(0, rows(3, 0), rows(3, 1), keep=True)
    cache.narrow(torch.tensor([1]))
    assert cache.rows == 1 and cache._stores[0][0].untyped_storage().nbytes() == 1 * 3 * 6 * 4 * 4
    keys, _ = cache.extend(0, rows(2, 2, images=1), rows(2, 3, images=1), keep=True)
    assert torch.equal(keys, torch.cat([rows(3, 0)[1:], rows(2, 2, images=1)], 2))


def test_take_copies():
    cache = KVCache(1, 6)
    cache.extend(0, rows(3, 0), rows(3, 1), keep=True)
    taken = cache.take(torch.tensor([1, 0]), [6])
    taken.extend(0, rows(1, 2), rows(1, 3), keep=True)
    assert cache.length(0) == 3 and taken.length(0) == 4
    assert torch.equal(taken._stores[0][0][:, :, :3], rows(3, 0).flip(0))


def test_a_store_of_another_dtype_rounds_once_and_reads_in_the_dtype_that_came():
    cache = KVCache(1, 6, torch.bfloat16)
    k, v = rows(3, 0), rows(3, 1)
    keys, _ = cache.extend(0, k, v, keep=True)
    assert cache._stores[0][0].untyped_storage().nbytes() == 2 * 3 * 6 * 4 * 2
    assert keys.dtype == torch.float32 and torch.equal(keys, k.bfloat16().float())
    new = rows(2, 2)
    keys, _ = cache.extend(0, new, new, keep=False)
    assert torch.equal(keys, torch.cat([k.bfloat16().float(), new], 2)), "rows of the last scale are not rounded"
    taken = cache.take(torch.tensor([1]), [6], torch.bfloat16)
    assert torch.equal(taken.keys(0), k[1:].bfloat16().float())
