"""Draws with the three stages of one model in this process, and times the loop."""

import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import SecretStr

from denoiser_service.rank.commands import Stepped
from denoiser_service.rank.stage import DenoiseStage
from encoder_service.stage import EncodeStage
from services.domain.model_source import HubModel
from services.domain.stages import DenoiseRequest, EncodeImageRequest, EncodeRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.cache_profile import Clock
from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.loaded_models.stage_model import StageModel
from services.model_files.checksums import Checksums
from services.model_ports.stages import DenoiserModel, EncoderModel, VaeModel
from services.tensor_store.tensor_store import TensorStore, open_store
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from vae_service.stage import VaeStage

_TENANT = "tuning"
# Longer than any request takes.
_STORED_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of a request.

    Attributes:
        pictures: uint8 [height, width, channels], one for each layer or frame.
        seconds: of the denoising loop.
        reused: share of forwards that skipped blocks, 0 to 1.
        latents: what the VAE made the pictures of.
    """

    pictures: tuple[npt.NDArray[np.uint8], ...]
    seconds: float
    reused: float
    latents: Mapping[str, torch.Tensor]


class Painter:
    """A model's three stages with a tensor store between them. For one thread.

    Args:
        encoder: of the model.
        denoiser: of the model.
        vae: of the model.
        store: what crosses between stages crosses through it.
        clock: what times the loop: the processor time of this process, or the wall clock.
    """

    def __init__(
        self,
        encoder: StageModel[EncoderModel],
        denoiser: StageModel[DenoiserModel],
        vae: StageModel[VaeModel],
        store: TensorStore,
        clock: Clock,
    ) -> None:
        self.denoiser = denoiser
        self.clock: Clock = clock
        self._vae, self._store = vae, store
        self._encode = EncodeStage(encoder, store)
        self._denoise = DenoiseStage(denoiser, store)
        self._encode_images = VaeStage(vae, store)
        self._now = time.process_time if clock == "processor" else time.perf_counter

    def draw(
        self,
        parameters: GenerationParameters,
        images: Sequence[bytes] = (),
        *,
        on_step: Callable[[Stepped], None] = lambda _: None,
        during_loop: AbstractContextManager[None] | None = None,
    ) -> Drawn:
        """Draws one request.

        Args:
            parameters: effective values.
            images: the encoded bytes of parameters.images.
            on_step: told of every step; what it takes is not timed.
            during_loop: entered before the first step and left after the last.
        """
        request = self._encoded(parameters, images)
        request_id, seconds = request.request_id, 0.0
        decisions: list[BranchDecision] = []
        steps = self._denoise.prepare(request).total_steps
        with during_loop or nullcontext():
            for _ in range(steps):
                began = self._now()
                stepped = self._denoise.step(request_id)
                seconds += self._now() - began
                decisions += stepped.decisions
                on_step(stepped)
        latents = self._denoise.finish(request_id).latents
        assert latents is not None, "the only rank stores them"
        with self._store.get(latents, tenant=_TENANT, request_id=request_id) as tensors:
            decoded = self._vae.model.decode(parameters, tensors)
            kept = {name: tensor.clone() for name, tensor in tensors.items()}
        self._store.release_request(_TENANT, request_id)
        reused = sum(each.reused for each in decisions) / max(len(decisions), 1)
        pictures = tuple(np.asarray(each) for each in decoded)
        return Drawn(pictures, seconds, reused, kept)

    def _encoded(self, parameters: GenerationParameters, images: Sequence[bytes]) -> DenoiseRequest:
        identity, pictures = (uuid.uuid4().hex, _TENANT, parameters), tuple(images)
        conditioning = self._encode.encode(EncodeRequest(*identity, pictures)).conditioning
        latents = [
            self._encode_images.encode_image(EncodeImageRequest(*identity, number, picture)).latents
            for number, picture in enumerate(pictures)
        ]
        return DenoiseRequest(*identity, conditioning, tuple(latents))


def load_painter(
    source: Path | HubModel,
    dtype: ElementType,
    device: str,
    cache_profile: Path | None = None,
    checksums: Checksums | None = None,
) -> Painter:
    """Loads the three stages of a model into this process.

    Args:
        source: the model.
        dtype: the type the weights compute in.
        device: a torch device.
        cache_profile: see services.loaded_models.cache_profile.find_profile.
        checksums: what the model's files must be; None to take them as they are.

    Raises:
        ConfigurationError: any of these cannot be used.
    """
    told = (source, None, dtype, device)
    # Nobody outside this process ever sees a reference.
    seal = Seal(SecretStr(secrets.token_hex(32)))
    return Painter(
        load_encoder(*told, checksums=checksums),
        load_denoiser(*told, cache_profile, checksums=checksums),
        load_vae(*told, checksums=checksums),
        open_store("memory:", seal=seal, ttl_seconds=_STORED_SECONDS),
        # On a CPU others may run beside; where a device computes, the processor waits.
        "processor" if device == "cpu" else "wall",
    )
