"""Sets of named tensors, put by one stage and got by another."""

import math
import mmap
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
import xxhash

from services.domain.store_control import (
    EntryUsage,
    Fullness,
    StoreControl,
    StoreStats,
    SweepReport,
)
from services.domain.tensor_ref import INLINE, MAX_INLINE_BYTES, Seal, TensorRef
from services.observability.tracing import span
from services.tensor_store import codec
from services.tensor_store.blob_layout import BlobLayout
from services.tensor_store.blob_store import BlobName, BlobStore
from services.tensor_store.conditioning_cache import ConditioningCache
from services.tensor_store.opening import open_blob_store
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    ConfigurationError,
    TensorCorrupted,
    TensorNotFound,
    TensorRefused,
    TriptychError,
)

# Spans, and what they say.
PUT, GET = "tensor_store.put", "tensor_store.get"
BYTES = "triptych.tensor.bytes"


class TensorStore(StoreControl):
    """Seals what goes in and checks what comes out; the blob store keeps the bytes.

    Who puts tensors hands their reference to whoever releases them; what nobody releases expires.
    Blocking and thread-safe.
    """

    def __init__(
        self,
        blobs: BlobStore,
        seal: Seal,
        *,
        ttl_seconds: float,
        inline_bytes: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Owns `blobs` from now on.

        Args:
            blobs: where the bytes are kept.
            seal: the cluster's; signs references and checks them.
            ttl_seconds: life of tensors that nobody releases, at least.
            inline_bytes: blobs up to this size, MAX_INLINE_BYTES at most, travel inside their
                reference.
            clock: seconds since the epoch.

        Raises:
            ConfigurationError: more would travel inside a reference than one may carry.
        """
        if inline_bytes > MAX_INLINE_BYTES:
            raise ConfigurationError(
                f"inline_bytes: is {inline_bytes}; allowed are at most {MAX_INLINE_BYTES}"
            )
        self._blobs = blobs
        self._seal = seal
        self._ttl_seconds = ttl_seconds
        self._inline_bytes = inline_bytes
        self._clock = clock
        self.cache: ConditioningCache | None = None

    @property
    def identity(self) -> str:
        """See StoreControl."""
        return self._blobs.identity

    def put(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        tenant: str,
        request_id: str,
        deadline: Deadline | None = None,
    ) -> TensorRef:
        """Stores a copy of tensors of any strides, on any device.

        Args:
            tensors: by name.
            tenant: on whose behalf.
            request_id: for which request.
            deadline: until when they may be wanted; they do not expire before.

        Raises:
            Unsupported: the tensors cannot be stored; says which and why.
            StoreFull: there is no room now; nothing was stored.
            TensorRefused: the tenant or request id is malformed.
            Unavailable: the store is closed.
        """
        with span(PUT) as begun:
            life = self._ttl_seconds
            if deadline is not None:
                life = max(life, deadline.remaining_seconds())
            # Whole seconds, so that the time is the same after any wire format.
            expire_time = math.ceil(self._clock() + life)
            ref = self._put(tensors, tenant, request_id, expire_time)
            begun.set_attribute(BYTES, ref.size_bytes)
            return ref

    def keep(self, ref: TensorRef) -> TensorRef:
        """Has tensors that this process put outlive it, should it be killed.

        Returns:
            Their reference from now on.

        Raises:
            StoreFull: there is no room for more of such; they are released.
            TensorNotFound: they were released, where that is noticed.
            Unavailable: the store cannot be reached.
        """
        if ref.store == INLINE:
            return ref
        try:
            kept = self._blobs.keep(BlobName.of(ref))
        except TriptychError:
            self._blobs.release(ref)
            raise
        return self._seal.sign(ref.model_copy(update={"owner": kept.owner, "key": kept.key}))

    def _put(
        self,
        tensors: Mapping[str, torch.Tensor],
        tenant: str,
        request_id: str,
        expire_time: float,
    ) -> TensorRef:
        layout = BlobLayout.of(codec.describe(tensors))
        if layout.size_bytes <= self._inline_bytes:
            name = BlobName(secrets.token_hex(16), tenant, request_id, secrets.token_hex(16))
            blob = bytearray(layout.size_bytes)
            checksum = codec.encode(tensors, layout, memoryview(blob))
            return self._ref(INLINE, name, layout, checksum, expire_time, bytes(blob))
        with self._blobs.reserve(tenant, request_id, layout.size_bytes, expire_time) as reservation:
            checksum = codec.encode(tensors, layout, reservation.buffer)
            # Still inside: a reference that cannot be made leaves nothing stored.
            return self._ref(self.identity, reservation.name, layout, checksum, expire_time)

    @contextmanager
    def get(
        self, ref: TensorRef, *, tenant: str, request_id: str
    ) -> Iterator[Mapping[str, torch.Tensor]]:
        """Views of stored tensors, on the CPU, valid inside the context; nothing is copied.

        The mapping is empty afterwards. A tensor that was taken out of it stays what it is, but
        keeps its memory from being used again: clone what must live longer. Do not write to them.

        Args:
            ref: from `put`, of any process that shares store and secret.
            tenant: whom the caller works for.
            request_id: the request it works on.

        Raises:
            TensorRefused: the reference is forged, or of another store, tenant or request.
            TensorNotFound: the tensors were released or are past their time.
            TensorCorrupted: the bytes are not those that were put.
        """
        self._seal.check(ref)
        self._check_scope(ref, tenant, request_id)
        layout = BlobLayout.of(ref.tensors)
        if len(layout.offsets) != len(ref.tensors):
            raise TensorRefused("tensor reference: tensors of one name are two or more")
        if ref.size_bytes != layout.size_bytes:
            raise TensorRefused(
                f"tensor reference: size_bytes is {ref.size_bytes};"
                f" its tensors take {layout.size_bytes}"
            )
        with ExitStack() as opened:
            with span(GET, {BYTES: ref.size_bytes}):
                tensors = codec.decode(layout, opened.enter_context(self._opened(ref)))
            try:
                yield tensors
            finally:
                tensors.clear()

    def release(self, ref: TensorRef) -> bool:
        """See StoreControl."""
        self._seal.check(ref)
        self._check_store(ref)
        return self._blobs.release(ref)

    def release_request(self, tenant: str, request_id: str) -> int:
        """See StoreControl."""
        return self._blobs.release_request(tenant, request_id)

    def open_cache(self, limit_bytes: int, idle_seconds: float) -> ConditioningCache | None:
        """What all who share the store remember of prompts and pictures; swept with the store.

        Args:
            limit_bytes: of all entries together; 0 to remember nothing.
            idle_seconds: entries that nobody asks for so long are forgotten.
        """
        if limit_bytes:
            entries = self._blobs.entries(limit_bytes, idle_seconds)
            self.cache = ConditioningCache(entries, self._seal)
        return self.cache

    def sweep(self) -> SweepReport:
        """See StoreControl."""
        if self.cache is not None:
            self.cache.sweep()
        return self._blobs.sweep()

    def stats(self) -> StoreStats:
        """See StoreControl."""
        return self._blobs.stats()

    def fullness(self) -> Sequence[Fullness]:
        """See StoreControl."""
        return self._blobs.fullness()

    def cache_usage(self) -> EntryUsage | None:
        """See StoreControl."""
        return None if self.cache is None else self.cache.usage

    def close(self) -> None:
        """See StoreControl."""
        self._blobs.close()

    def _ref(
        self,
        store: str,
        name: BlobName,
        layout: BlobLayout,
        checksum: int,
        expire_time: float,
        inline_blob: bytes = b"",
    ) -> TensorRef:
        return self._seal.sign(
            TensorRef(
                store=store,
                owner=name.owner,
                key=name.key,
                tensors=layout.specs,
                size_bytes=layout.size_bytes,
                checksum_xxh3=checksum,
                expire_time=expire_time,
                tenant=name.tenant,
                request_id=name.request_id,
                inline_blob=inline_blob,
            )
        )

    def _check_scope(self, ref: TensorRef, tenant: str, request_id: str) -> None:
        self._check_store(ref)
        if (ref.tenant, ref.request_id) != (tenant, request_id):
            raise TensorRefused("tensor reference: it belongs to another tenant or request")
        if ref.expire_time <= self._clock():
            raise TensorNotFound(f"tensors {ref.key}: they expired")

    def _check_store(self, ref: TensorRef) -> None:
        if ref.store != INLINE:
            self._blobs.check_own(ref.store)
        if ref.inline_blob and ref.store != INLINE:
            raise TensorRefused(f"tensor reference: inline_blob came, but its store is {ref.store}")

    @contextmanager
    def _opened(self, ref: TensorRef) -> Iterator[memoryview]:
        if ref.store == INLINE:
            blob = _aligned(ref)
            _verify(ref, blob)
            yield blob
            return
        with self._blobs.open(BlobName.of(ref), ref.size_bytes) as blob:
            if self._blobs.verifies_reads:
                _verify(ref, blob)
            yield blob


def open_store(url: str, *, seal: Seal, ttl_seconds: float, inline_bytes: int = 0) -> TensorStore:
    """Opens the tensor store a URL names, for the caller to close.

    Raises:
        ConfigurationError: see open_blob_store.
    """
    return TensorStore(
        open_blob_store(url), seal, ttl_seconds=ttl_seconds, inline_bytes=inline_bytes
    )


def _aligned(ref: TensorRef) -> memoryview:
    if len(ref.inline_blob) != ref.size_bytes:
        raise TensorCorrupted(
            f"tensors {ref.key}: {len(ref.inline_blob)} bytes came, expected {ref.size_bytes}"
        )
    # A mapping begins at a page, as the blobs of all stores do.
    blob = memoryview(mmap.mmap(-1, ref.size_bytes))
    blob[:] = ref.inline_blob
    return blob


def _verify(ref: TensorRef, blob: memoryview) -> None:
    checksum = xxhash.xxh3_64_intdigest(blob)
    if checksum != ref.checksum_xxh3:
        raise TensorCorrupted(
            f"tensors {ref.key}: the checksum of the stored bytes is {checksum:016x},"
            f" expected {ref.checksum_xxh3:016x}"
        )
