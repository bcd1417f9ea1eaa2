from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from services.domain.store_control import EntryUsage
from services.domain.tensor_ref import Seal
from services.tensor_store.conditioning_cache import ConditioningCache
from services.tensor_store.entry_store import EntryStore
from services.tensor_store.memory import MemoryBlobStore, MemoryOptions
from triptych.domain.errors import Unavailable

SEAL = Seal(SecretStr("a secret of at least 32 characters"))
OTHER_SEAL = Seal(SecretStr("another secret of 32 characters or more"))
KEY = ("model", "someone", False, ("a red circle", 64), [])
OTHER_KEY = ("model", "someone", False, ("a red circle", 65), [])
TENSORS = {
    "prompt_embeds": torch.linspace(-1, 1, 21).reshape(1, 7, 3).transpose(1, 2),
    "pooled_prompt_embeds": torch.tensor([[float("nan"), -0.0]], dtype=torch.bfloat16),
    "mask": torch.tensor([True, False, True]),
    "nothing": torch.empty(1, 0, 4),
}


@pytest.fixture
def entries() -> Iterator[EntryStore]:
    with closing(MemoryBlobStore(MemoryOptions())) as blobs:
        yield blobs.entries(1 << 20, 60)


@pytest.fixture
def cache(entries: EntryStore) -> ConditioningCache:
    return ConditioningCache(entries, SEAL)


def name_of(cache: ConditioningCache, key: tuple[object, ...]) -> str:
    return cache._name(key)


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[object, ...]]:
    return {
        name: (each.dtype, each.shape, each.contiguous().view(torch.uint8).flatten().tolist())
        for name, each in tensors.items()
    }


def test_what_was_put_is_found_with_the_same_bits(cache: ConditioningCache) -> None:
    cache.put(KEY, TENSORS)
    found = cache.get(KEY)
    assert found is not None
    assert list(found) == list(TENSORS)
    assert bits(found) == bits(TENSORS)


def test_what_is_found_is_the_callers_own(cache: ConditioningCache) -> None:
    cache.put(KEY, TENSORS)
    first = cache.get(KEY)
    assert first is not None
    for each in first.values():
        each.zero_()
    second = cache.get(KEY)
    assert second is not None
    assert bits(second) == bits(TENSORS)


def test_nothing_is_found_by_a_key_of_which_one_value_differs(cache: ConditioningCache) -> None:
    cache.put(KEY, TENSORS)
    assert cache.get(OTHER_KEY) is None


def test_a_text_is_not_taken_for_a_number_or_two_texts_for_one(cache: ConditioningCache) -> None:
    cache.put(("a", ("1",)), TENSORS)
    assert cache.get(("a", (1,))) is None
    assert cache.get(('a", ["1',)) is None


def test_entries_of_a_cluster_with_another_secret_are_neither_found_nor_believed(
    cache: ConditioningCache, entries: EntryStore
) -> None:
    stranger = ConditioningCache(entries, OTHER_SEAL)
    stranger.put(KEY, TENSORS)
    assert cache.get(KEY) is None
    forged = entries.read(name_of(stranger, KEY))
    assert forged is not None
    entries.write(name_of(cache, KEY), memoryview(forged))
    assert cache.get(KEY) is None
    assert entries.read(name_of(cache, KEY)) is None, "it is dropped"


def test_an_entry_under_anothers_name_is_not_believed(
    cache: ConditioningCache, entries: EntryStore
) -> None:
    cache.put(KEY, TENSORS)
    entry = entries.read(name_of(cache, KEY))
    assert entry is not None
    entries.write(name_of(cache, OTHER_KEY), memoryview(entry))
    assert cache.get(OTHER_KEY) is None
    assert cache.get(KEY) is not None


def test_an_entry_with_any_bit_changed_or_cut_short_anywhere_is_not_believed(
    cache: ConditioningCache, entries: EntryStore
) -> None:
    cache.put(KEY, TENSORS)
    name = name_of(cache, KEY)
    whole = entries.read(name)
    assert whole is not None
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        assert _get_of(cache, entries, name, bytes(damaged)) is None
    for length in range(1, len(whole)):
        assert _get_of(cache, entries, name, whole[:length]) is None


def _get_of(
    cache: ConditioningCache, entries: EntryStore, name: str, entry: bytes | memoryview
) -> dict[str, torch.Tensor] | None:
    entries.write(name, memoryview(entry))
    return cache.get(KEY)


def test_names_of_entries_tell_nothing_to_those_without_the_secret(
    cache: ConditioningCache, entries: EntryStore
) -> None:
    assert name_of(cache, KEY) != name_of(ConditioningCache(entries, OTHER_SEAL), KEY)


def test_a_sweep_looks_how_much_is_remembered(cache: ConditioningCache) -> None:
    assert cache.usage is None
    cache.put(KEY, TENSORS)
    cache.sweep()
    usage = cache.usage
    assert usage is not None
    assert (usage.count, usage.limit_bytes) == (1, 1 << 20)
    assert usage.size_bytes >= sum(each.nbytes for each in TENSORS.values())


def test_what_does_not_fit_is_not_remembered_and_costs_nobody_anything(
    entries: EntryStore, cache: ConditioningCache
) -> None:
    cache.put(KEY, TENSORS)
    cache.put(OTHER_KEY, {"latents": torch.zeros(1 << 20)})
    assert cache.get(OTHER_KEY) is None
    assert cache.get(KEY) is not None


class Gone(EntryStore):
    """On a host that is not reached."""

    def read(self, name: str) -> bytes | None:
        raise Unavailable("gone")

    def write(self, name: str, data: memoryview) -> bool:
        raise Unavailable("gone")

    def discard(self, name: str) -> None:
        raise Unavailable("gone")

    def sweep(self) -> int:
        raise Unavailable("gone")

    def clear(self) -> int:
        raise Unavailable("gone")

    def usage(self) -> EntryUsage:
        raise Unavailable("gone")


def test_a_store_that_is_gone_is_as_good_as_empty() -> None:
    cache = ConditioningCache(Gone(), SEAL)
    cache.put(KEY, TENSORS)
    assert cache.get(KEY) is None
    cache.sweep()
    assert cache.usage is None
