"""References to tensors, altered; and bytes in the store that are not those that were put."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from pydantic import SecretStr

from services.domain.tensor_ref import Seal, TensorRef
from services.rpc.tables import REFS
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.fuzz.campaign import OK, Target, refusal
from tests.fuzz.messages import altered
from triptych.domain.errors import TriptychError
from triptych.v1 import tensor_pb2

_TENANT, _REQUEST = "alice", "7" * 32
_TENSORS = {"latents": torch.arange(12.0).reshape(3, 4), "mask": torch.ones(5, dtype=torch.bool)}
# Longer than any run takes.
_TTL_SECONDS = 24 * 3600.0
UNREADABLE = "not a message"

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class _Kept:
    """Tensors in a store, and their reference."""

    store: TensorStore
    ref: TensorRef

    def read(self, ref: TensorRef, tenant: str = _TENANT, request_id: str = _REQUEST) -> str:
        """What a stage does with a reference."""
        try:
            with self.store.get(ref, tenant=tenant, request_id=request_id) as tensors:
                assert list(tensors) == [each.name for each in ref.tensors]
                for spec, tensor in zip(ref.tensors, tensors.values(), strict=True):
                    assert tuple(tensor.shape) == spec.shape
                    tensor.clone()
        except TriptychError as error:
            return refusal(error)
        return OK


@contextmanager
def handle_targets(directory: Path) -> Iterator[list[Target]]:
    """Targets over tensors that are really stored.

    Args:
        directory: on a tmpfs, for a store of its own.
    """
    ours = Seal(SecretStr("s" * 32))
    url = f"shm://{directory}?verify=true"
    store = open_store(url, seal=ours, ttl_seconds=_TTL_SECONDS)
    inline = open_store(url, seal=ours, ttl_seconds=_TTL_SECONDS, inline_bytes=1 << 20)
    try:
        kept = [
            _Kept(each, each.put(_TENSORS, tenant=_TENANT, request_id=_REQUEST))
            for each in (store, inline)
        ]
        strangers = Seal(SecretStr("t" * 32))
        yield [
            _messages(kept),
            Target("handles, signed", _signed(kept, ours, strangers), _call, 8000),
            Target("stored bytes", _spoilt(kept[0], directory), _call, 4000),
        ]
        for each in kept:
            # The reference that was put is as good as before.
            assert each.read(each.ref) == OK
        assert store.release_request(_TENANT, _REQUEST) == 1
        assert store.stats().stored_count == 0
    finally:
        inline.close()
        store.close()


def _call(attempt: Callable[[], str]) -> str:
    return attempt()


def _messages(kept: list[_Kept]) -> Target:
    """As they come off the wire: nobody who has not the secret gets anything but the original."""

    def attempt(given: tuple[_Kept, bytes]) -> str:
        owner, data = given
        try:
            message = tensor_pb2.TensorRef.FromString(data)
        except DecodeError:
            return UNREADABLE
        try:
            ref = REFS.read(message)
        except TriptychError as error:
            return refusal(error)
        came_to = owner.read(ref)
        assert came_to != OK or ref == owner.ref, "an altered reference was believed"
        return came_to

    inputs = st.sampled_from(kept).flatmap(
        lambda owner: st.tuples(st.just(owner), altered(REFS.write(owner.ref)))
    )
    return Target("handles, on the wire", inputs, attempt, 12_000)


def _signed(kept: list[_Kept], ours: Seal, strangers: Seal) -> st.SearchStrategy[Callable[[], str]]:
    """Of a good form: expired, another's, forged, and signed by us but untrue."""

    now = time.time()

    @st.composite
    def one(draw: Draw) -> Callable[[], str]:
        owner = draw(st.sampled_from(kept))
        changed = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "expire_time": st.sampled_from([1.0, now - 60, now + 3600, 1e11 - 1]),
                    "tenant": st.sampled_from([_TENANT, "bob", "A" * 64]),
                    "request_id": st.sampled_from([_REQUEST, "8" * 32]),
                    "key": st.text("0123456789abcdef", min_size=32, max_size=32),
                    "owner": st.sampled_from(["0" * 32, owner.ref.owner]),
                    "size_bytes": st.sampled_from([0, 1, 63, 2**40, owner.ref.size_bytes]),
                    "checksum_xxh3": st.sampled_from([0, 2**64 - 1]),
                    "store": st.sampled_from([f"shm:{'0' * 32}", "inline:", "memory:", "redis:"]),
                    "inline_blob": st.binary(max_size=600),
                    "tensors": _specs(owner.ref),
                },
            )
        )
        ref = owner.ref.model_copy(update=changed)
        match draw(st.integers(0, 3)):
            case 0 | 1:
                ref, true = ours.sign(ref), True
            case 2:
                ref, true = strangers.sign(ref), False
            case _:
                mac = draw(st.binary(max_size=40) | st.sampled_from([b"", bytes(32)]))
                ref, true = ref.model_copy(update={"mac": mac}), mac == owner.ref.mac
        tenant = draw(st.sampled_from([_TENANT, "bob"]))

        def attempt() -> str:
            came_to = owner.read(ref, tenant)
            assert came_to != OK or (true and tenant == ref.tenant), "a forgery was believed"
            return came_to

        return attempt

    return one()


def _specs(ref: TensorRef) -> st.SearchStrategy[tuple[Any, ...]]:
    """Other tensors than those that are there: larger, overlapping in name, of other types."""
    first = ref.tensors[0]
    shapes = st.lists(st.sampled_from([0, 1, 3, 4, 2**31, 2**62]), max_size=8).map(tuple)
    other = shapes.map(lambda shape: first.model_copy(update={"shape": shape}))
    return st.lists(other | st.sampled_from(ref.tensors), min_size=1, max_size=4).map(tuple)


def _spoilt(kept: _Kept, directory: Path) -> st.SearchStrategy[Callable[[], str]]:
    """Bytes that changed where they are kept: none is handed out that was not put."""
    (file,) = directory.glob("*/live/*")
    sound = file.read_bytes()

    @st.composite
    def one(draw: Draw) -> Callable[[], str]:
        data = bytearray(sound)
        for _ in range(draw(st.integers(0, 4))):
            data[draw(st.integers(0, len(sound) - 1))] = draw(st.integers(0, 255))

        def attempt() -> str:
            with file.open("r+b") as stored:
                stored.write(data)
            came_to = kept.read(kept.ref)
            with file.open("r+b") as stored:
                stored.write(sound)
            # Behind its end a file has room for a larger blob.
            size = kept.ref.size_bytes
            assert (came_to == OK) is (data[:size] == sound[:size])
            return came_to

        return attempt

    return one()
