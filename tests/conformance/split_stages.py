"""The three stages of a model, each loaded from a directory with its own weight files alone."""

import io
import uuid
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from pydantic import TypeAdapter

from denoiser_service.rank.commands import Finished
from denoiser_service.rank.stage import DenoiseStage
from encoder_service.stage import EncodeStage
from services.domain.stages import DecodeRequest, DenoiseRequest, EncodeImageRequest, EncodeRequest
from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.loaded_models.stage_model import StageModel
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import encode_all
from services.model_ports.stages import (
    DenoiserModel,
    EncoderModel,
    ImageEncodingVae,
    Tensors,
    VaeModel,
    image_latents_name,
)
from services.tensor_store.tensor_store import TensorStore
from tests.conformance.pictures import described, encoded_of, pictures_of
from tests.conformance.references import Drawn
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import Stage
from vae_service.stage import VaeStage

TENANT = "someone"


@dataclass(frozen=True)
class Split:
    """The three stages of one model and the store between them."""

    encoder: StageModel[EncoderModel]
    denoiser: StageModel[DenoiserModel]
    vae: StageModel[VaeModel]
    store: TensorStore
    _drawings: dict[str, Drawn] = field(default_factory=dict)

    def parameters(self, **asked: object) -> GenerationParameters:
        """Effective values for the fields of a case; `images` is which pictures it carries."""
        model = self.denoiser.loaded.model
        fields: dict[str, object] = {"prompt": "a red circle", "seed": 7, **asked}
        fields["images"] = described(
            cast("int | list[int]", asked.get("images", model.capabilities.min_images))
        )
        request = TypeAdapter(GenerationRequest).validate_python(fields)
        return resolve(request, model, draw_seed=lambda: 0)

    def encoded(self, parameters: GenerationParameters) -> DenoiseRequest:
        request_id, pictures = uuid.uuid4().hex, encoded_of(parameters)
        asked = EncodeRequest(request_id, TENANT, parameters, pictures)
        conditioning = EncodeStage(self.encoder, self.store).encode(asked).conditioning
        vae = VaeStage(self.vae, self.store)
        latents = [
            vae.encode_image(EncodeImageRequest(request_id, TENANT, parameters, index, picture))
            for index, picture in enumerate(pictures)
        ]
        return DenoiseRequest(
            request_id, TENANT, parameters, conditioning, tuple(each.latents for each in latents)
        )

    def conditioned(self, parameters: GenerationParameters) -> dict[str, torch.Tensor]:
        """All that the denoiser takes for a request, straight from the models."""
        pictures = pictures_of(parameters)
        conditioning = dict(encode_all(self.encoder.model.encodings(parameters, pictures)))
        for index, picture in enumerate(pictures):
            vae = self.vae.model
            assert isinstance(vae, ImageEncodingVae)
            conditioning[image_latents_name(index)] = vae.image_encoding(
                parameters, index, picture
            ).tensors()["latents"]
        return conditioning

    def decoded(self, parameters: GenerationParameters, finished: Finished) -> Drawn:
        asked = DecodeRequest(finished.request_id, TENANT, parameters, finished.latents)
        media = VaeStage(self.vae, self.store).decode(asked)
        with self.store.get(
            finished.latents, tenant=TENANT, request_id=finished.request_id
        ) as tensors:
            latents = tensors["latents"].clone()
        self.store.release_request(TENANT, finished.request_id)
        return Drawn(latents, pixels_of(media.data))

    def draw(self, parameters: GenerationParameters) -> Drawn:
        request = self.encoded(parameters)
        stage = DenoiseStage(self.denoiser, self.store)
        for _ in range(stage.prepare(request).total_steps):
            stage.step(request.request_id)
        return self.decoded(parameters, stage.finish(request.request_id))

    def drawn_once(self, parameters: GenerationParameters) -> Drawn:
        """What a request gives by itself, drawn for the first test that asks."""
        key = repr(parameters)
        if key not in self._drawings:
            self._drawings[key] = self.draw(parameters)
        return self._drawings[key]

    def denoise(self, parameters: GenerationParameters, conditioning: Tensors) -> Tensors:
        state = self.denoiser.model.prepare(parameters, conditioning)
        for _ in range(state.total_steps):
            self.denoiser.model.step(state)
        return self.denoiser.model.finish(state)


def pixels_of(media: bytes) -> bytes:
    """Of a picture, or one after the other of an archive."""
    if not zipfile.is_zipfile(io.BytesIO(media)):
        return Image.open(io.BytesIO(media)).tobytes()
    with zipfile.ZipFile(io.BytesIO(media)) as archive:
        return b"".join(pixels_of(archive.read(name)) for name in sorted(archive.namelist()))


def load_split(checkpoint: Path, dtype: ElementType, store: TensorStore, parts: Path) -> Split:
    """Loads every stage from a part of its own.

    Args:
        checkpoint: the whole model.
        dtype: the type the weights compute in.
        store: what crosses between stages crosses through it.
        parts: a folder for the stages' directories; other models may have theirs there.
    """
    own = {stage: own_part(checkpoint, stage, parts / stage) for stage in Stage}
    return Split(
        load_encoder(own[Stage.ENCODER], None, dtype, "cpu"),
        load_denoiser(own[Stage.DENOISER], None, dtype, "cpu"),
        load_vae(own[Stage.VAE], None, dtype, "cpu"),
        store,
    )


def own_part(checkpoint: Path, stage: Stage, folder: Path) -> Path:
    """A directory with nothing in it that a stage does not say it needs."""
    spec = find_family(ModelDirectory(checkpoint)).spec
    part = folder / checkpoint.name
    part.mkdir(parents=True)
    for pattern in spec.patterns(stage):
        for file in checkpoint.glob(pattern):
            link = part / file.relative_to(checkpoint)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(file)
    return part
