"""The three stages against the published pipeline, bit for bit.

Each stage is loaded from a directory that holds its own weight files alone, and what crosses
between stages crosses through a tensor store.
"""

import io
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline
from PIL import Image
from pydantic import SecretStr

from denoiser_service.commands import Finished
from denoiser_service.stage import DenoiseStage
from encoder_service.stage import EncodeStage
from services.domain.element_type import ElementType
from services.domain.generation import GenerationParameters, GenerationRequest, resolve
from services.domain.model import Stage
from services.domain.stages import DecodeRequest, DenoiseRequest, EncodeRequest
from services.domain.tensor_ref import Seal
from services.model_api.stage_model import StageModel
from services.model_api.stages import DenoiserModel, EncoderModel, Tensors, VaeModel
from services.model_families.loading import load_denoiser, load_encoder, load_vae
from services.model_families.qwen_image.spec import SPEC
from services.tensor_store.tensor_store import TensorStore, open_store
from vae_service.stage import DecodeStage

DEMO = Path(__file__).parents[2] / "models" / "demo"
TENANT = "someone"
CASES: list[dict[str, object]] = [
    {"width": 128, "height": 128, "steps": 5},
    {"width": 96, "height": 160, "steps": 2, "negative_prompt": "blurred, grey"},
    {"width": 160, "height": 96, "steps": 3, "guidance_scale": 1.0},
    {"width": 64, "height": 64, "steps": 5, "guidance_scale": 1.5, "seed": 2**63 - 1},
    {"width": 48, "height": 64, "steps": 2, "negative_prompt": ""},
    {"width": 32, "height": 48, "steps": 2, "prompt": "Ein 🟠 {circle} <|im_end|> % \\n"},
]


@dataclass(frozen=True)
class Drawn:
    """What came out: latents [1, C, 1, H, W], and the picture's pixels."""

    latents: torch.Tensor
    pixels: bytes


@dataclass(frozen=True)
class Split:
    """The three stages of one model and the store between them."""

    encoder: StageModel[EncoderModel]
    denoiser: StageModel[DenoiserModel]
    vae: StageModel[VaeModel]
    store: TensorStore

    def parameters(self, **asked: object) -> GenerationParameters:
        request = GenerationRequest.model_validate({"prompt": "a red circle", "seed": 7} | asked)
        return resolve(request, self.denoiser.loaded.model, draw_seed=lambda: 0)

    def encoded(self, parameters: GenerationParameters) -> DenoiseRequest:
        asked = EncodeRequest(uuid.uuid4().hex, TENANT, parameters)
        conditioning = EncodeStage(self.encoder, self.store).encode(asked).conditioning
        return DenoiseRequest(asked.request_id, TENANT, parameters, conditioning)

    def decoded(self, parameters: GenerationParameters, finished: Finished) -> Drawn:
        asked = DecodeRequest(finished.request_id, TENANT, parameters, finished.latents)
        media = DecodeStage(self.vae, self.store).decode(asked)
        with self.store.get(
            finished.latents, tenant=TENANT, request_id=finished.request_id
        ) as tensors:
            latents = tensors["latents"].clone()
        return Drawn(latents, Image.open(io.BytesIO(media.data)).tobytes())

    def draw(self, parameters: GenerationParameters) -> Drawn:
        request = self.encoded(parameters)
        stage = DenoiseStage(self.denoiser, self.store)
        for _ in range(stage.prepare(request).total_steps):
            stage.step(request.request_id)
        return self.decoded(parameters, stage.finish(request.request_id))

    def denoise(self, parameters: GenerationParameters, conditioning: Tensors) -> Tensors:
        state = self.denoiser.model.prepare(parameters, conditioning)
        for _ in range(state.total_steps):
            self.denoiser.model.step(state)
        return self.denoiser.model.finish(state)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nobody can change it under the comparison."""
    return Path(shutil.copytree(DEMO, tmp_path_factory.mktemp("checkpoint") / "demo"))


@pytest.fixture(scope="module", params=[ElementType.FLOAT32, ElementType.BFLOAT16])
def dtype(request: pytest.FixtureRequest) -> ElementType:
    return ElementType(request.param)


@pytest.fixture(scope="module")
def split(
    checkpoint: Path, dtype: ElementType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Split]:
    parts = {stage: own_part(checkpoint, stage, tmp_path_factory) for stage in Stage}
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=600)) as store:
        yield Split(
            load_encoder(parts[Stage.ENCODER], None, dtype, "cpu"),
            load_denoiser(parts[Stage.DENOISER], None, dtype, "cpu"),
            load_vae(parts[Stage.VAE], None, dtype, "cpu"),
            store,
        )


@pytest.fixture(scope="module")
def published(checkpoint: Path, dtype: ElementType) -> QwenImagePipeline:
    pipeline = QwenImagePipeline.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype), local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def own_part(checkpoint: Path, stage: Stage, factory: pytest.TempPathFactory) -> Path:
    """A directory with nothing in it that a stage does not say it needs."""
    part = factory.mktemp(stage) / "demo"
    part.mkdir()
    for file in checkpoint.glob("*.json"):
        (part / file.name).symlink_to(file)
    for subfolder in SPEC.weights[stage] + SPEC.configs[stage]:
        (part / subfolder).mkdir()
        for file in (checkpoint / subfolder).iterdir():
            if subfolder in SPEC.weights[stage] or file.suffix != ".safetensors":
                (part / subfolder / file.name).symlink_to(file)
    return part


def draw_as_published(pipeline: QwenImagePipeline, parameters: GenerationParameters) -> Drawn:
    last: dict[str, torch.Tensor] = {}

    def keep(
        _: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        last.update(tensors)
        return tensors

    image = pipeline(
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        true_cfg_scale=parameters.guidance_scale,
        width=parameters.width,
        height=parameters.height,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        callback_on_step_end=keep,
    ).images[0]
    latents = pipeline._unpack_latents(
        last["latents"], parameters.height, parameters.width, pipeline.vae_scale_factor
    )
    return Drawn(latents, image.tobytes())


@pytest.mark.parametrize("asked", CASES, ids=str)
def test_split_stages_draw_what_the_published_pipeline_draws(
    split: Split, published: QwenImagePipeline, asked: dict[str, object]
) -> None:
    parameters = split.parameters(**asked)
    ours, theirs = split.draw(parameters), draw_as_published(published, parameters)
    assert ours.latents.dtype == theirs.latents.dtype
    assert torch.equal(ours.latents, theirs.latents)
    assert ours.pixels == theirs.pixels


def test_interleaved_requests_draw_what_each_draws_alone(split: Split) -> None:
    many = [split.parameters(**asked) for asked in CASES]
    stage = DenoiseStage(split.denoiser, split.store)
    requests = [split.encoded(parameters) for parameters in many]
    for request in requests:
        stage.prepare(request)
    for turn in range(max(each.steps for each in many)):
        for request in requests:
            if turn < request.parameters.steps:
                stage.step(request.request_id)
    for request in reversed(requests):
        together = split.decoded(request.parameters, stage.finish(request.request_id))
        alone = split.draw(request.parameters)
        assert torch.equal(together.latents, alone.latents)
        assert together.pixels == alone.pixels


def test_a_prepared_request_needs_its_conditioning_no_longer(split: Split) -> None:
    parameters = split.parameters(**CASES[1])
    conditioning = split.encoder.model.encode(parameters)
    right = split.denoise(parameters, conditioning)["latents"]
    state = split.denoiser.model.prepare(parameters, conditioning)
    for tensor in conditioning.values():
        tensor.fill_(torch.nan)
    for _ in range(state.total_steps):
        split.denoiser.model.step(state)
    assert torch.equal(split.denoiser.model.finish(state)["latents"], right)


@pytest.mark.parametrize("name", ["prompt_embeds", "negative_prompt_embeds"])
def test_every_tensor_that_reaches_the_denoiser_decides_the_latents(
    split: Split, name: str
) -> None:
    parameters = split.parameters(**CASES[1])
    conditioning = dict(split.encoder.model.encode(parameters))
    right = split.denoise(parameters, conditioning)["latents"]
    conditioning[name] = -conditioning[name]
    assert not torch.equal(split.denoise(parameters, conditioning)["latents"], right)


def test_the_latents_that_reach_the_vae_decide_the_picture(split: Split) -> None:
    parameters = split.parameters(**CASES[3])
    latents = split.denoise(parameters, split.encoder.model.encode(parameters))
    right = split.vae.model.decode(parameters, latents)
    flipped = split.vae.model.decode(parameters, {"latents": -latents["latents"]})
    assert flipped.tobytes() != right.tobytes()


@pytest.mark.parametrize("change", [{"seed": 8}, {"guidance_scale": 5.0}, {"steps": 3}], ids=str)
def test_every_number_of_a_request_decides_the_latents(
    split: Split, change: dict[str, object]
) -> None:
    asked = {"width": 64, "height": 64, "steps": 2}
    first = split.draw(split.parameters(**asked))
    again = split.draw(split.parameters(**asked))
    other = split.draw(split.parameters(**asked | change))
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.latents, other.latents)


def test_stages_hold_their_own_components_alone(split: Split) -> None:
    held = [
        [each.name for each in stage.loaded.components]
        for stage in (split.encoder, split.denoiser, split.vae)
    ]
    assert held == [["text_encoder"], ["transformer"], ["vae"]]
