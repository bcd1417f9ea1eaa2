"""Entries of the conditioning cache, which whoever reaches the store can write to."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import open_store
from tests.fuzz.campaign import OK, Target

_TENSORS = {"prompt_embeds": torch.arange(12.0).reshape(3, 4), "prompt_mask": torch.ones(3)}
_KEY, _OTHER_KEY = ("alice", "a red circle"), ("alice", "a green star")
_FORGOTTEN = "not there"

Draw = Callable[[st.SearchStrategy[Any]], Any]


def same(tensors: Mapping[str, torch.Tensor]) -> bool:
    return tensors.keys() == _TENSORS.keys() and all(
        torch.equal(tensor, _TENSORS[name]) for name, tensor in tensors.items()
    )


@contextmanager
def entry_target(directory: Path) -> Iterator[Target]:
    """Over entries that are really kept.

    Args:
        directory: on a tmpfs, for a store of its own.
    """
    seal = Seal(SecretStr("s" * 32))
    with closing(open_store(f"shm://{directory}", seal=seal, ttl_seconds=60)) as store:
        cache = store.open_cache(1 << 20, 24 * 3600.0)
        assert cache is not None
        cache.put(_OTHER_KEY, {"prompt_embeds": torch.zeros(3, 4), "prompt_mask": torch.ones(3)})
        (other,) = (directory / "cache").iterdir()
        cache.put(_KEY, _TENSORS)
        (file,) = set((directory / "cache").iterdir()) - {other}
        sound = file.read_bytes()

        def attempt(data: bytes) -> str:
            file.write_bytes(data)
            with capture_logs() as said:
                found = cache.get(_KEY)
            assert len(said) <= 1
            assert (found is not None) is (data == sound), "what nobody put was believed"
            cache.put(_KEY, _TENSORS)
            assert found is None or same(found)
            assert file.read_bytes() == sound, "what is spoilt is in the way"
            return _FORGOTTEN if found is None else OK

        yield Target("cached entries", _spoilt(sound, other.read_bytes()), attempt, 4000)


@st.composite
def _spoilt(draw: Draw, sound: bytes, other: bytes) -> bytes:
    """An entry as it was, damaged, cut or longer; parts of another's; or nothing of the kind."""
    if not draw(st.integers(0, 9)):
        return draw(st.sampled_from([b"", other]) | st.binary(max_size=100))
    data = bytearray(sound)
    for _ in range(draw(st.integers(0, 3))):
        # The MAC, the length, the description and the numbers are hit alike.
        place = draw(st.one_of(st.integers(0, 40), st.integers(0, len(data) - 1)))
        data[place] = draw(st.integers(0, 255))
    if not draw(st.integers(0, 4)):
        data[:32] = other[:32]
    if not draw(st.integers(0, 4)):
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=40))
    return bytes(data)
