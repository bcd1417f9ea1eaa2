"""Calls to a running cluster: its gateway, and each of its stages behind the gateway's back."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import torch
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st
from pydantic import SecretStr

from services.domain.tensor_ref import IDENTIFIER, TENANT, Seal
from services.rpc.tables import REFS
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.fuzz.campaign import OK, Target, documented
from tests.fuzz.messages import altered
from tests.fuzz.pictures import files
from tests.system.running_cluster import RunningCluster
from triptych.domain.call_seal import SIGNATURE_METADATA, CallSeal
from triptych.status import failure_of
from triptych.v1 import (
    denoiser_service_pb2,
    encoder_service_pb2,
    generation_pb2,
    generation_service_pb2,
    stage_service_pb2,
    tensor_pb2,
    tensor_store_service_pb2,
    vae_service_pb2,
)

WHOLE = 1500
SECONDS = 60.0
"""What one call may take: a request of many steps that happens to be allowed."""
_PACKAGE = "triptych.v1"
_TENANT = "default"
_SIZES = st.sampled_from([0, 16, 32, 48, 64, 65, 2**16])
SUGGESTED = {
    "width": _SIZES,
    "height": _SIZES,
    "steps": st.sampled_from([0, 1, 2, 3, 8, 201, 2**31]),
    "seed": st.sampled_from([0, 7, 2**63 - 1, 2**63]),
    "guidance_scale": st.sampled_from([1.0, 4.0, -1.0, float("nan"), float("inf")]),
    "model": st.sampled_from(["", "triptych-demo", "TRIPTYCH-DEMO", "flux"]),
    "data": st.sampled_from([*files()]),
    "tenant": st.sampled_from([_TENANT, "other", "a/b", "a" * 65]),
    "request_id": st.sampled_from(["7" * 32, "f" * 32, "F" * 32, "7" * 31]),
    "image_index": st.sampled_from([0, 1, 2**31]),
    "preview_every_steps": st.sampled_from([0, 1, 2, 3]),
}


@dataclass(frozen=True)
class _Method:
    target: str
    service: str
    name: str
    streams_requests: bool = False

    @property
    def path(self) -> str:
        return f"/{_PACKAGE}.{self.service}/{self.name}"


# What a stage believes its own cluster alone: signed, so that what is sent is read.
_ADMINISTRATIVE: dict[str, type[Message]] = {
    f"/{_PACKAGE}.DenoiserService/Cancel": denoiser_service_pb2.CancelRequest,
    f"/{_PACKAGE}.TensorStoreService/Release": tensor_store_service_pb2.ReleaseRequest,
}


def _as_read(path: str, sent: bytes) -> bytes:
    """What a receiver signs of it, if it can read it."""
    if path in _ADMINISTRATIVE:
        with suppress(DecodeError):
            return _ADMINISTRATIVE[path].FromString(sent).SerializeToString(deterministic=True)
    return sent


class Callers:
    """Connections to every process of a cluster. A context manager.

    Attributes:
        identities: (tenant, request id) of every call that may have stored something.
    """

    def __init__(self, cluster: RunningCluster) -> None:
        self.gateway = cluster.target
        self.stages = {
            each: f"unix:{cluster.sockets}/{each}.sock" for each in ("encoder", "denoiser", "vae")
        }
        self.identities: set[tuple[str, str]] = set()
        self._seal = CallSeal(cluster_secret(cluster).get_secret_value())
        self._exits = ExitStack()
        self._channels = {
            each: self._exits.enter_context(grpc.insecure_channel(each))
            for each in (self.gateway, *self.stages.values())
        }

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def stream(self, method: _Method, sent: bytes | list[bytes]) -> Iterator[bytes]:
        """Calls with bytes and gets bytes, as no client of ours does."""
        channel = self._channels[method.target]
        if method.streams_requests:
            call: Any = channel.stream_stream(method.path)
            return iter(call(iter(sent), timeout=SECONDS))
        assert isinstance(sent, bytes)
        signature = self._seal.sign(method.path, _as_read(method.path, sent))
        call = channel.unary_stream(method.path)
        metadata = ((SIGNATURE_METADATA, signature),)
        return iter(call(sent, timeout=SECONDS, metadata=metadata))

    def attempt(self, method: _Method, sent: bytes | list[bytes]) -> str:
        """What a call came to."""
        try:
            for _ in self.stream(method, sent):
                pass
        except grpc.RpcError as error:
            failure = failure_of(error)
            assert not failure.foreign, f"{failure.status}: {failure.message}"
            # Documented, but what an input may not do is end a process.
            assert failure.status != "UNAVAILABLE", f"{failure.reason}: {failure.message}"
            return documented(f"{failure.status} {failure.reason}")
        return OK

    def ask(self, stage: str, service: str, name: str, request: Message, answer: Any) -> Any:
        """Calls a stage as the gateway does; returns its last answer."""
        method = _Method(self.stages[stage], service, name)
        *_, last = self.stream(method, request.SerializeToString())
        return answer.FromString(last)

    def release(self) -> None:
        """Releases what every call stored."""
        for tenant, request_id in self.identities:
            for stage in self.stages:
                self.ask(
                    stage,
                    "TensorStoreService",
                    "Release",
                    tensor_store_service_pb2.ReleaseRequest(tenant=tenant, request_id=request_id),
                    tensor_store_service_pb2.ReleaseResponse,
                )

    def busy(self) -> dict[str, tuple[int, int, int]]:
        """By stage: the requests that run and wait, and the sets of tensors in its store."""
        found = {}
        for stage in self.stages:
            capacity = self.ask(
                stage,
                "StageService",
                "GetCapacity",
                stage_service_pb2.GetCapacityRequest(),
                stage_service_pb2.GetCapacityResponse,
            )
            stored = self.ask(
                stage,
                "TensorStoreService",
                "Stat",
                tensor_store_service_pb2.StatRequest(),
                tensor_store_service_pb2.StatResponse,
            )
            found[stage] = (
                capacity.running_requests,
                capacity.queued_requests,
                stored.stored_count,
            )
        return found


def call_targets(callers: Callers, tensors: "StoredTensors") -> list[Target]:
    """The methods that take something, of a cluster that serves the demo model.

    Args:
        callers: who calls them.
        tensors: the cluster's.
    """
    sound = SoundRequests(callers)
    tensors.learn(sound.denoise.conditioning, sound.decode.latents)
    generation, store = "GenerationService", "TensorStoreService"
    stages = callers.stages
    generate = generation_service_pb2.GenerateRequest(parameters=sound.asked)
    release = tensor_store_service_pb2.ReleaseRequest(tenant=_TENANT, request_id="7" * 32)
    cancel = denoiser_service_pb2.CancelRequest(request_id="7" * 32)
    get_model = generation_service_pb2.GetModelRequest(name="triptych-demo")
    download = generation_service_pb2.DownloadArtifactRequest(artifact_id="7" * 32)
    methods: list[tuple[_Method, Message]] = [
        (_Method(callers.gateway, generation, "Generate"), generate),
        (_Method(callers.gateway, generation, "GetModel"), get_model),
        (_Method(callers.gateway, generation, "DownloadArtifact"), download),
        (_Method(stages["encoder"], "EncoderService", "Encode"), sound.encode),
        (_Method(stages["denoiser"], "DenoiserService", "Cancel"), cancel),
        (_Method(stages["vae"], "VaeService", "EncodeImage"), sound.encode_image),
        (_Method(stages["encoder"], store, "Release"), release),
    ]
    reading: list[tuple[_Method, Message, str]] = [
        (_Method(stages["denoiser"], "DenoiserService", "Denoise"), sound.denoise, "conditioning"),
        (_Method(stages["vae"], "VaeService", "Decode"), sound.decode, "latents"),
        (_Method(stages["vae"], "VaeService", "DrawPreview"), sound.draw_preview, "latents"),
    ]
    return [
        *(_target(callers, method, message) for method, message in methods),
        *(_stored_target(callers, tensors, *each) for each in reading),
        _upload_target(callers),
    ]


def _target(callers: Callers, method: _Method, base: Message) -> Target:
    def attempt(data: bytes) -> str:
        _note_identity(callers, type(base), data)
        return callers.attempt(method, data)

    return Target(_name(method), altered(base, SUGGESTED), attempt, WHOLE, SECONDS)


def _stored_target(
    callers: Callers, tensors: "StoredTensors", method: _Method, base: Message, field: str
) -> Target:
    """A method that reads tensors: some that are there for the request, but not those it needs."""

    def attempt(given: tuple[bytes, str | None]) -> str:
        data, name = given
        identity = _note_identity(callers, type(base), data)
        if name is None or identity is None:
            return callers.attempt(method, data)
        message: Any = type(base).FromString(data)
        getattr(message, field).CopyFrom(tensors.put(name, *identity))
        return callers.attempt(method, message.SerializeToString())

    inputs = st.tuples(altered(base, SUGGESTED), st.sampled_from([None, *tensors.names]))
    return Target(_name(method), inputs, attempt, WHOLE, SECONDS)


def _name(method: _Method) -> str:
    return f"{method.service}.{method.name}"


def _upload_target(callers: Callers) -> Target:
    upload = _Method(callers.gateway, "GenerationService", "UploadImage", streams_requests=True)
    chunk = st.sampled_from(files()).flatmap(
        lambda data: altered(
            generation_service_pb2.UploadImageRequest(data=data), {"data": st.just(data)}
        )
    )
    sent = st.lists(chunk, max_size=3)
    return Target(_name(upload), sent, lambda data: callers.attempt(upload, data), WHOLE, SECONDS)


def _note_identity(callers: Callers, kind: type[Message], data: bytes) -> tuple[str, str] | None:
    """Whose request it is, if the stages would store anything for it."""
    try:
        message: Any = kind.FromString(data)
    except DecodeError:
        return None
    if not {"tenant", "request_id"} <= set(kind.DESCRIPTOR.fields_by_name):
        return None
    if TENANT.fullmatch(message.tenant) and IDENTIFIER.fullmatch(message.request_id):
        identity = (message.tenant, message.request_id)
        callers.identities.add(identity)
        return identity
    return None


class SoundRequests:
    """Requests to the stages as the gateway makes them, over tensors that are really there."""

    def __init__(self, callers: Callers) -> None:
        self._identity = {"tenant": _TENANT, "request_id": uuid.uuid4().hex}
        callers.identities.add((_TENANT, self._identity["request_id"]))
        self.asked = generation_pb2.GenerationParameters(
            prompt="a red circle", width=64, height=64, steps=2, guidance_scale=4.0, seed=7
        )
        self._parameters = generation_pb2.GenerationParameters(
            model="triptych-demo",
            negative_prompt=" ",
            dtype=tensor_pb2.ELEMENT_TYPE_FLOAT32,
            media_format=generation_pb2.MEDIA_FORMAT_PNG,
        )
        self._parameters.MergeFrom(self.asked)
        self._parameters.acceleration.none.SetInParent()
        self.encode = encoder_service_pb2.EncodeRequest(**self._made())
        conditioning = callers.ask(
            "encoder",
            "EncoderService",
            "Encode",
            self.encode,
            encoder_service_pb2.EncodeResponse,
        ).conditioning
        self.denoise = denoiser_service_pb2.DenoiseRequest(
            **self._made(), conditioning=conditioning
        )
        latents = callers.ask(
            "denoiser",
            "DenoiserService",
            "Denoise",
            self.denoise,
            denoiser_service_pb2.DenoiseResponse,
        ).denoised.latents
        self.decode = vae_service_pb2.DecodeRequest(**self._made(), latents=latents)
        self.draw_preview = vae_service_pb2.DrawPreviewRequest(**self._made(), latents=latents)
        self.encode_image = vae_service_pb2.EncodeImageRequest(
            **self._made(), image=generation_pb2.InputImage(data=files()[0])
        )

    def _made(self) -> dict[str, Any]:
        return {**self._identity, "parameters": self._parameters}


class StoredTensors:
    """Puts tensors where the stages read theirs, signed as they sign: whoever does so is inside.

    Args:
        store: of the same place and secret as the cluster's.
    """

    names = ("conditioning", "latents", "nothing", "whole numbers", "wide", "flat", "many")

    def __init__(self, store: TensorStore) -> None:
        self._store = store
        self._kinds: dict[str, dict[str, torch.Tensor]] = {}

    def learn(self, conditioning: tensor_pb2.TensorRef, latents: tensor_pb2.TensorRef) -> None:
        """Takes copies of what the stages made, to put it again."""
        right, drawn = (self._read(each) for each in (conditioning, latents))
        tensor = drawn["latents"]
        self._kinds = {
            "conditioning": right,
            "latents": drawn,
            "nothing": {"latents": tensor[..., :0]},
            "whole numbers": {"latents": tensor.to(torch.int64)},
            "wide": {"latents": torch.cat([tensor] * 3, dim=-1)},
            "flat": {"latents": tensor.flatten()},
            "many": {f"t{number}": torch.zeros(()) for number in range(64)},
        }

    def put(self, name: str, tenant: str, request_id: str) -> tensor_pb2.TensorRef:
        """A reference to fresh ones of a kind, for a request."""
        ref = self._store.put(self._kinds[name], tenant=tenant, request_id=request_id)
        return REFS.write(ref)

    def _read(self, message: tensor_pb2.TensorRef) -> dict[str, torch.Tensor]:
        ref = REFS.read(message)
        with self._store.get(ref, tenant=ref.tenant, request_id=ref.request_id) as tensors:
            return {name: each.clone() for name, each in tensors.items()}


def cluster_secret(cluster: RunningCluster) -> SecretStr:
    """What signs a cluster's references to tensors."""
    (file,) = cluster.sockets.glob("*secret*")
    return SecretStr(file.read_text().strip())


@contextmanager
def stored_tensors(cluster: RunningCluster) -> Iterator[StoredTensors]:
    """Those of a cluster that has its tensors in shared memory."""
    seal = Seal(cluster_secret(cluster))
    with closing(open_store(f"shm://{cluster.store}", seal=seal, ttl_seconds=24 * 3600)) as store:
        yield StoredTensors(store)
