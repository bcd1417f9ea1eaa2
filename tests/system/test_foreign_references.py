"""References that are not the request's own: refused by every stage that reads tensors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from services.domain.tensor_ref import Seal, TensorRef
from services.rpc.tables import REFS
from tests.fuzz.calls import Callers, SoundRequests, cluster_secret
from tests.system.running_cluster import RunningCluster
from triptych.status import failure_of

# Stage, service, method, what a sound request of it is called, and the reference in it.
READERS = [
    ("denoiser", "DenoiserService", "Denoise", "denoise", "conditioning"),
    ("vae", "VaeService", "Decode", "decode", "latents"),
    ("vae", "VaeService", "DrawPreview", "draw_preview", "latents"),
]
Reader = tuple[str, str, str, str, str]
Change = Callable[[TensorRef, Seal], TensorRef]


def _forged(ref: TensorRef, seal: Seal) -> TensorRef:
    return ref.model_copy(update={"mac": bytes(32)})


def _strangers(ref: TensorRef, seal: Seal) -> TensorRef:
    return Seal(SecretStr("s" * 64)).sign(ref)


def _changed(**update: object) -> Change:
    """As only somebody with the cluster's secret could make it."""
    return lambda ref, seal: seal.sign(ref.model_copy(update=update))


# What came with the reference, how the call ends, and what it says.
FOREIGN: dict[str, tuple[Change, str, str]] = {
    "with a MAC that is none": (_forged, "PERMISSION_DENIED", "signature is not this cluster's"),
    "of another cluster": (_strangers, "PERMISSION_DENIED", "signature is not this cluster's"),
    "changed after it was signed": (
        lambda ref, seal: ref.model_copy(update={"size_bytes": ref.size_bytes + 1}),
        "PERMISSION_DENIED",
        "signature is not this cluster's",
    ),
    "of another tenant": (_changed(tenant="mallory"), "PERMISSION_DENIED", "another tenant"),
    "of another request": (_changed(request_id="e" * 32), "PERMISSION_DENIED", "another tenant"),
    "of another store": (_changed(store=f"shm:{'e' * 32}"), "PERMISSION_DENIED", "store"),
    "expired": (_changed(expire_time=1.0), "NOT_FOUND", "expired"),
    "released": (_changed(key="e" * 32), "NOT_FOUND", ""),
}


@dataclass
class Stages:
    callers: Callers
    sound: SoundRequests
    seal: Seal

    def refused(self, reader: Reader, change: Change) -> tuple[str, str]:
        stage, service, method, sound, field = reader
        message = getattr(self.sound, sound)
        request: Any = type(message)()
        request.CopyFrom(message)
        ref = change(REFS.read(getattr(request, field)), self.seal)
        getattr(request, field).CopyFrom(REFS.write(ref))
        with pytest.raises(grpc.RpcError) as caught:
            self.callers.ask(stage, service, method, request, None)
        failure = failure_of(caught.value)
        assert not failure.foreign
        return failure.status, failure.message


@pytest.fixture(scope="module")
def stages(split_cluster: RunningCluster) -> Iterator[Stages]:
    with Callers(split_cluster) as callers:
        yield Stages(callers, SoundRequests(callers), Seal(cluster_secret(split_cluster)))
        callers.release()
    assert split_cluster.stored_tensors() == []


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader[2])
def test_a_reference_that_is_not_the_requests_own_is_refused(
    stages: Stages, reader: Reader, kind: str
) -> None:
    change, status, says = FOREIGN[kind]
    found, message = stages.refused(reader, change)
    assert found == status
    assert says in message
