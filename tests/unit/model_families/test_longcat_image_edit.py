import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import LongCatImageEditPipeline
from PIL import Image

from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.loaded_models.stage_model import StageModel
from services.model_families.longcat_image.spec import SPECS
from services.model_ports.encoding import encode_all
from services.model_ports.stages import (
    DenoiserModel,
    EncoderModel,
    ImageEncodingVae,
    VaeModel,
    image_latents_name,
)
from tests.checkpoints import checkpoint
from tests.checkpoints.stock import stock_pipeline
from tests.conformance.small_areas import shrink_areas
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.family_options import LongCatOptions
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import GenerationDefaults, Stage

_, SPEC = SPECS

Ask = Callable[..., GenerationParameters]
FLOAT32 = ElementType.FLOAT32


@pytest.fixture
def _small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_areas(monkeypatch)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("longcat-image-edit", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def stock(directory: Path) -> LongCatImageEditPipeline:
    pipeline = stock_pipeline(directory)
    assert isinstance(pipeline, LongCatImageEditPipeline)
    return pipeline


@pytest.fixture(scope="module")
def encoder(directory: Path) -> StageModel[EncoderModel]:
    return load_encoder(directory, None, FLOAT32, "cpu")


@pytest.fixture(scope="module")
def denoiser(directory: Path) -> StageModel[DenoiserModel]:
    return load_denoiser(directory, None, FLOAT32, "cpu")


@pytest.fixture(scope="module")
def vae(directory: Path) -> StageModel[VaeModel]:
    return load_vae(directory, None, FLOAT32, "cpu")


@pytest.fixture
def ask(encoder: StageModel[EncoderModel]) -> Ask:
    def ask(size: tuple[int, int] = (90, 60), **asked: object) -> GenerationParameters:
        width, height = size
        image = ImageDescription(width=width, height=height, size_bytes=1, checksum_xxh3=0)
        request = {"prompt": "make it red", "images": [image], "seed": 3} | asked
        return resolve(GenerationRequest(**request), encoder.loaded.model, draw_seed=lambda: 0)

    return ask


def picture(size: tuple[int, int]) -> Image.Image:
    across = Image.linear_gradient("L").resize(size)
    round_about = Image.radial_gradient("L").resize(size)
    turned = across.transpose(Image.Transpose.ROTATE_180)
    return Image.merge("RGBA", [across, round_about, turned, round_about])


def test_what_a_request_leaves_out_is_as_published(encoder: StageModel[EncoderModel]) -> None:
    assert encoder.loaded.model.capabilities.defaults == GenerationDefaults(
        width=1024, height=1024, steps=50, guidance_scale=4.5, negative_prompt=""
    )


def test_only_the_encoder_needs_the_processor() -> None:
    needed = {stage for stage in Stage if "text_processor" in SPEC.configs[stage]}
    assert needed == {Stage.ENCODER}


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((1024, 1024), (1024, 1024)),
        ((4000, 3000), (1184, 896)),
        ((100, 100), (1024, 1024)),
        ((160, 10), (4096, 256)),
    ],
)
def test_what_is_drawn_has_a_megapixel_and_nearly_the_proportions_of_the_picture(
    ask: Ask, size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    parameters = ask(size)
    assert (parameters.width, parameters.height) == drawn


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ({"images": []}, "images: are 0; this model takes 1"),
        ({"width": 512}, "width: is 512; it follows from the input image: 1264"),
        ({"steps": 0}, "steps: is 0; allowed are 1 to 200"),
        (
            {"options": LongCatOptions(rewrite_prompt=True)},
            "long_cat: are options of another model family; this model has none",
        ),
    ],
    ids=lambda each: "" if isinstance(each, str) else next(iter(each)),
)
def test_what_this_model_cannot_do_is_refused(
    ask: Ask, asked: dict[str, object], refusal: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{refusal}"):
        ask(**asked)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("it's red, isn't it", "contains different words with ' inside, which this model takes"),
        ("a <|image_pad|> b", r"contains <\|image_pad\|>, which this model takes for a picture"),
        ("'" + " image" * 100 + "'", "has 602 tokens; allowed are at most 512"),
    ],
    ids=["apostrophes", "placeholder", "quotation"],
)
def test_a_prompt_that_would_be_read_as_something_else_is_refused(
    encoder: StageModel[EncoderModel], ask: Ask, field: str, text: str, refusal: str
) -> None:
    parameters = ask(**{field: text})
    with pytest.raises(InvalidRequest, match=f"^{field}: {refusal}"):
        encode_all(encoder.model.encodings(parameters, [picture((90, 60))]))


@pytest.mark.usefixtures("_small_areas")
@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("RGB", (61, 97)),
        ("RGBA", (97, 61)),
        ("LA", (40, 40)),
        ("L", (160, 10)),
        ("P", (10, 160)),
        ("CMYK", (300, 200)),
        ("1", (128, 128)),
    ],
)
def test_pictures_of_all_kinds_and_sizes_are_edited_as_the_published_pipeline_edits_them(
    encoder: StageModel[EncoderModel],
    denoiser: StageModel[DenoiserModel],
    vae: StageModel[VaeModel],
    stock: LongCatImageEditPipeline,
    ask: Ask,
    mode: str,
    size: tuple[int, int],
) -> None:
    opaque = picture(size).convert("RGB")
    image = picture(size).convert(mode) if mode in {"RGBA", "LA"} else opaque.convert(mode)
    parameters = ask(size, steps=2)
    assert isinstance(vae.model, ImageEncodingVae)
    conditioning = {
        **encode_all(encoder.model.encodings(parameters, [image])),
        image_latents_name(0): vae.model.image_encoding(parameters, 0, image).tensors()["latents"],
    }
    state = denoiser.model.prepare(parameters, conditioning)
    for _ in range(parameters.steps):
        denoiser.model.step(state)
    ours = denoiser.model.finish(state)["latents"]
    packed = stock(
        image=image.convert("RGB"),
        prompt=parameters.prompt,
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        output_type="latent",
    ).images
    theirs = stock._unpack_latents(packed, parameters.height, parameters.width, 8)
    assert torch.equal(ours, cast("torch.Tensor", theirs))


def test_a_vae_that_does_not_say_how_its_latents_are_normalised_is_refused(tmp_path: Path) -> None:
    path = checkpoint("longcat-image-edit", tmp_path)
    file = path / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shift_factor": None}))
    with pytest.raises(ConfigurationError, match="shift_factor is None, not a number"):
        load_vae(path, None, FLOAT32, "cpu")
