"""Encoded prompts and pictures, for all processes that share a store, by what they were made of.

An entry is its MAC, then what the tensors are, then their blob. Whoever can write to the store
without knowing the cluster's secret can make an entry useless, but none that is believed.
"""

import hmac
import json
from collections.abc import Mapping, Sequence

import torch
from pydantic import TypeAdapter

from services.domain.store_control import EntryUsage
from services.domain.tensor_ref import Seal, TensorSpec
from services.observability.logs import get_logger
from services.tensor_store import codec
from services.tensor_store.blob_layout import DATA_ALIGNMENT_BYTES, BlobLayout
from services.tensor_store.entry_store import EntryStore
from triptych.domain.errors import TriptychError

Key = Sequence[object]
"""All that decides an entry's tensors, as JSON values."""

_MAC_BYTES = 32
_LENGTH_BYTES = 8
_SPECS_OFFSET = _MAC_BYTES + _LENGTH_BYTES
_SPECS = TypeAdapter(tuple[TensorSpec, ...])

_log = get_logger(__name__)


class ConditioningCache:
    """Never makes a request fail: what cannot be read was never there. Thread-safe.

    Args:
        entries: where the bytes are kept.
        seal: the cluster's. It also names the entries, so that names tell nothing of prompts.
    """

    def __init__(self, entries: EntryStore, seal: Seal) -> None:
        self._entries = entries
        self._seal = seal
        self.usage: EntryUsage | None = None
        """As of the last sweep; None before the first, and while the store is not reached."""

    def get(self, key: Key) -> dict[str, torch.Tensor] | None:
        """Tensors on the CPU that are the caller's own, or None."""
        name = self._name(key)
        try:
            entry = self._entries.read(name)
            # Copied once: tensors want memory that can be written to.
            return None if entry is None else self._opened(name, memoryview(bytearray(entry)))
        except TriptychError as error:
            _log.warning("conditioning cache not read", cause=str(error))
            return None

    def put(self, key: Key, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keeps a copy, if there is room for it."""
        name = self._name(key)
        try:
            kept = self._entries.write(name, self._closed(name, tensors))
        except TriptychError as error:
            _log.warning("conditioning cache not written", cause=str(error))
            return
        if not kept:
            _log.debug("conditioning cache has no room", entry=name)

    def sweep(self) -> None:
        """Forgets what nobody asked for in a while, and looks how much there is."""
        try:
            self._entries.sweep()
            self.usage = self._entries.usage()
        except TriptychError as error:
            _log.warning("conditioning cache not swept", cause=str(error))
            self.usage = None

    def _name(self, key: Key) -> str:
        return self._seal.tag(b"conditioning", json.dumps(key).encode()).hex()

    def _closed(self, name: str, tensors: Mapping[str, torch.Tensor]) -> memoryview:
        layout = BlobLayout.of(codec.describe(tensors))
        specs = _SPECS.dump_json(layout.specs)
        begin = _blob_offset(len(specs))
        entry = memoryview(bytearray(begin + layout.size_bytes))
        entry[_MAC_BYTES:_SPECS_OFFSET] = len(specs).to_bytes(_LENGTH_BYTES, "little")
        entry[_SPECS_OFFSET : _SPECS_OFFSET + len(specs)] = specs
        codec.encode(tensors, layout, entry[begin:])
        entry[:_MAC_BYTES] = self._mac(name, entry)
        return entry

    def _opened(self, name: str, entry: memoryview) -> dict[str, torch.Tensor] | None:
        """None if it is not what was put; then it is dropped."""
        if not hmac.compare_digest(self._mac(name, entry), entry[:_MAC_BYTES]):
            _log.warning("conditioning cache entry dropped: not signed by this cluster", entry=name)
            self._entries.discard(name)
            return None
        length = int.from_bytes(entry[_MAC_BYTES:_SPECS_OFFSET], "little")
        specs = _SPECS.validate_json(bytes(entry[_SPECS_OFFSET : _SPECS_OFFSET + length]))
        return codec.decode(BlobLayout.of(specs), entry[_blob_offset(length) :])

    def _mac(self, name: str, entry: memoryview) -> bytes:
        return self._seal.tag(b"conditioning entry", name.encode(), entry[_MAC_BYTES:])


def _blob_offset(specs_bytes: int) -> int:
    head = _SPECS_OFFSET + specs_bytes
    return head + -head % DATA_ALIGNMENT_BYTES
