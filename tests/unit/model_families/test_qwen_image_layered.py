import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import QwenImageLayeredPipeline
from PIL import Image

from services.loaded_models.loading import load_encoder, load_vae
from services.model_families.qwen_image.encoder import QwenImageLayeredEncoder
from services.model_families.qwen_image.spec import SPECS
from services.model_ports.encoding import encode_all
from services.model_ports.stages import ImageEncodingVae
from tests.checkpoints import checkpoint
from tests.checkpoints.stock import stock_pipeline
from tests.conformance.small_areas import shrink_areas
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.family_options import LayeredOptions
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import GenerationDefaults, MediaFormat, Stage

*_, SPEC = SPECS

Ask = Callable[..., GenerationParameters]
FLOAT32 = ElementType.FLOAT32
INPUT = ImageDescription(width=90, height=60, size_bytes=1, checksum_xxh3=0)


@pytest.fixture(autouse=True)
def _small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_areas(monkeypatch)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = checkpoint("qwen-image-layered", tmp_path_factory.mktemp("checkpoint"))
    # The language model draws its words, as those of the published model may. Some end its speech.
    file = path / "text_encoder" / "generation_config.json"
    words = {"do_sample": True, "eos_token_id": [370, *range(0, 370, 50)]}
    file.write_text(json.dumps(json.loads(file.read_text()) | words))
    return path


@pytest.fixture(scope="module")
def stock(directory: Path) -> QwenImageLayeredPipeline:
    pipeline = stock_pipeline(directory)
    assert isinstance(pipeline, QwenImageLayeredPipeline)
    return pipeline


@pytest.fixture(scope="module")
def encoder(directory: Path) -> QwenImageLayeredEncoder:
    model = load_encoder(directory, None, FLOAT32, "cpu").model
    assert isinstance(model, QwenImageLayeredEncoder)
    return model


@pytest.fixture(scope="module")
def vae(directory: Path) -> ImageEncodingVae:
    model = load_vae(directory, None, FLOAT32, "cpu").model
    assert isinstance(model, ImageEncodingVae)
    return model


@pytest.fixture
def ask(directory: Path) -> Ask:
    model = load_vae(directory, None, FLOAT32, "cpu").loaded.model

    def ask(caption_image: bool = False, **asked: object) -> GenerationParameters:
        prompt = "" if caption_image else "a dog on a lawn"
        options = LayeredOptions(
            **({"caption_image": caption_image} | cast("dict[str, Any]", asked.pop("options", {})))
        )
        fields = {"prompt": prompt, "images": [INPUT], "seed": 7, "options": options} | asked
        return resolve(GenerationRequest(**fields), model, draw_seed=lambda: 0)

    return ask


@pytest.fixture
def picture() -> Image.Image:
    across = Image.linear_gradient("L").resize((INPUT.width, INPUT.height))
    round_about = Image.radial_gradient("L").resize(across.size)
    turned = across.transpose(Image.Transpose.ROTATE_180)
    return Image.merge("RGBA", [across, round_about, turned, round_about])


def encoded_caption(
    encoder: QwenImageLayeredEncoder, parameters: GenerationParameters, caption: str
) -> torch.Tensor:
    written = replace(parameters, prompt=caption)
    return encode_all(encoder.encodings(written))["prompt_embeds"]


def test_what_a_request_leaves_out_is_as_published(ask: Ask, directory: Path) -> None:
    limits = load_vae(directory, None, FLOAT32, "cpu").loaded.model.capabilities
    assert limits.defaults == GenerationDefaults(
        width=640, height=640, steps=50, guidance_scale=4.0, negative_prompt=" "
    )
    assert ask().options == ask(options={"layers": 4, "resolution": 640}).options
    assert ask().media_format is MediaFormat.PNG_ARCHIVE


def test_only_the_encoder_needs_the_processor() -> None:
    needed = {stage for stage in Stage if "processor" in SPEC.configs[stage]}
    assert needed == {Stage.ENCODER}


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ({"options": {"layers": 0}}, "layered.layers: is 0; allowed are 1 to 10"),
        ({"options": {"layers": 11}}, "layered.layers: is 11; allowed are 1 to 10"),
        ({"options": {"resolution": 832}}, "layered.resolution: is 832; allowed are 640 and 1024"),
        ({"images": []}, "images: are 0; this model takes 1"),
        ({"images": [INPUT, INPUT]}, "images: are 2; this model takes 1"),
        ({"width": 640}, "width: is 640; it follows from the input image: 96"),
        ({"media_format": "png"}, "media_format: is png; allowed are png_archive"),
        ({"steps": 1}, "steps: is 1; allowed are 2 to 200"),
        (
            {"caption_image": True, "prompt": "a dog"},
            "layered.caption_image: is on; leave the prompt empty, or it off",
        ),
        ({"prompt": ""}, "prompt: is empty; say what to draw"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_this_model_cannot_do_is_refused(
    ask: Ask, asked: dict[str, object], refusal: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{refusal}"):
        ask(**asked)


def test_no_prompt_is_written_unless_a_request_asks_for_it(
    encoder: QwenImageLayeredEncoder, ask: Ask, picture: Image.Image
) -> None:
    assert encoder.write_prompt(ask(), [picture]) is None


def test_a_caption_is_what_the_published_pipeline_draws_from_when_it_has_no_prompt(
    encoder: QwenImageLayeredEncoder,
    stock: QwenImageLayeredPipeline,
    ask: Ask,
    picture: Image.Image,
) -> None:
    drawn_from: dict[str, torch.Tensor] = {}

    def keep(*step: object) -> dict[str, torch.Tensor]:
        drawn_from.update(cast("dict[str, torch.Tensor]", step[-1]))
        return {}

    parameters = ask(caption_image=True, seed=3)
    torch.manual_seed(3)
    stock(
        picture,
        prompt=None,
        use_en_prompt=True,
        layers=1,
        num_inference_steps=2,
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    caption = encoder.write_prompt(parameters, [picture])
    assert caption
    assert torch.equal(encoded_caption(encoder, parameters, caption), drawn_from["prompt_embeds"])


def test_the_seed_and_the_picture_alone_decide_the_caption(
    encoder: QwenImageLayeredEncoder, ask: Ask, picture: Image.Image
) -> None:
    def captions(picture: Image.Image) -> list[str | None]:
        asked = [ask(caption_image=True, seed=seed) for seed in range(4)]
        return [encoder.write_prompt(parameters, [picture]) for parameters in asked]

    torch.manual_seed(11)
    first = captions(picture)
    torch.manual_seed(12)
    assert captions(picture) == first
    assert len(set(first)) == 4
    assert captions(Image.new("RGB", picture.size, "green")) != first


def test_captioning_draws_nothing_from_the_generator_that_others_share(
    encoder: QwenImageLayeredEncoder, ask: Ask, picture: Image.Image
) -> None:
    before = torch.random.get_rng_state()
    encoder.write_prompt(ask(caption_image=True), [picture])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_caption_that_is_too_long_is_cut_where_the_published_pipeline_cuts_it(
    encoder: QwenImageLayeredEncoder, stock: QwenImageLayeredPipeline, ask: Ask
) -> None:
    caption = "7" * 600
    embeds = encoded_caption(encoder, ask(caption_image=True), caption)
    with torch.no_grad():
        published, _ = stock.encode_prompt(caption, max_sequence_length=512)
    assert embeds.shape[1] == 512
    assert torch.equal(embeds, published)


def test_a_negative_prompt_beside_a_caption_is_not_cut_but_refused(
    encoder: QwenImageLayeredEncoder, ask: Ask
) -> None:
    parameters = ask(caption_image=True, negative_prompt="7" * 600)
    with pytest.raises(InvalidRequest, match=r"^negative_prompt: has \d+ tokens; allowed"):
        encoded_caption(encoder, parameters, "a dog")


def test_a_picture_that_nothing_is_said_of_is_drawn_from_an_empty_prompt(
    directory: Path, stock: QwenImageLayeredPipeline, ask: Ask, picture: Image.Image
) -> None:
    silent = load_encoder(directory, None, FLOAT32, "cpu").model
    assert isinstance(silent, QwenImageLayeredEncoder)
    text_encoder = silent.components["text_encoder"]
    text_encoder.generation_config.suppress_tokens = list(range(370))  # type: ignore[union-attr]
    parameters = ask(caption_image=True)
    assert silent.write_prompt(parameters, [picture]) == ""
    with torch.no_grad():
        published, _ = stock.encode_prompt("")
    assert torch.equal(encoded_caption(silent, parameters, ""), published)


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "LA", "L", "P", "CMYK"])
def test_pictures_of_all_kinds_are_encoded_as_the_published_pipeline_encodes_them(
    vae: ImageEncodingVae,
    stock: QwenImageLayeredPipeline,
    ask: Ask,
    picture: Image.Image,
    mode: str,
) -> None:
    parameters, converted = ask(), picture.convert("RGB").convert(mode)
    if mode in {"RGBA", "LA"}:
        converted = picture.convert(mode)
    pixels = stock.image_processor.preprocess(
        converted.convert("RGBA"), parameters.height, parameters.width
    )
    with torch.no_grad():
        published = stock._encode_vae_image(pixels.unsqueeze(2), torch.Generator())
    assert torch.equal(vae.image_encoding(parameters, 0, converted).tensors()["latents"], published)


def test_what_is_transparent_decides_the_latents(
    vae: ImageEncodingVae, ask: Ask, picture: Image.Image
) -> None:
    opaque = picture.copy()
    opaque.putalpha(255)
    seen = [vae.image_encoding(ask(), 0, each).tensors()["latents"] for each in (picture, opaque)]
    assert not torch.equal(*seen)


def test_every_layer_is_a_picture_with_an_alpha_channel(directory: Path, ask: Ask) -> None:
    parameters = ask(options={"layers": 3})
    rows, columns = parameters.height // 8, parameters.width // 8
    latents = torch.randn(1, 16, 3, rows, columns, generator=torch.Generator().manual_seed(1))
    decode = load_vae(directory, None, FLOAT32, "cpu").model.decode
    layers = decode(parameters, {"latents": latents})
    assert [(each.mode, each.size) for each in layers] == [
        ("RGBA", (parameters.width, parameters.height))
    ] * 3
    backwards = decode(parameters, {"latents": latents.flip(2)})
    assert [each.tobytes() for each in backwards] == [each.tobytes() for each in layers[::-1]]


def test_a_vae_without_an_alpha_channel_is_refused(tmp_path: Path) -> None:
    path = checkpoint("qwen-image-layered", tmp_path)
    file = path / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"input_channels": 3}))
    with pytest.raises(ConfigurationError, match=r"vae.*: input_channels is 3; layers have 4"):
        load_vae(path, None, FLOAT32, "cpu")


def test_a_directory_without_its_processor_is_refused(tmp_path: Path) -> None:
    path = checkpoint("qwen-image-layered", tmp_path)
    (path / "processor").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="processor: the folder is missing"):
        load_encoder(path, None, FLOAT32, "cpu")
    load_vae(path, None, FLOAT32, "cpu")
