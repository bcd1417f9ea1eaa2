import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.loaded_models.stage_model import StageModel
from services.model_families import find_family
from services.model_families.bagel.context import Context
from services.model_families.bagel.denoiser import BagelDenoiser
from services.model_families.bagel.encoder import BagelEncoder
from services.model_families.bagel.flow_transformer import FlowTransformer
from services.model_families.bagel.guidance import WITHOUT_IMAGE, WITHOUT_TEXT
from services.model_families.bagel.spec import SPECS
from services.model_families.bagel.vae import BagelVae, load
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import encode_all
from services.model_ports.forwards import CONDITIONAL
from tests.checkpoints import checkpoint
from tests.checkpoints.bagel import autoencoder
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.family_options import BagelOptions
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import GenerationDefaults, Stage

(SPEC,) = SPECS

Ask = Callable[..., GenerationParameters]
LOADS = {Stage.ENCODER: load_encoder, Stage.DENOISER: load_denoiser, Stage.VAE: load_vae}
# The VAE encodes it as it is, 512 pixels each way, as 32 by 32 patches.
PICTURE = Image.linear_gradient("L").resize((512, 512)).convert("RGB")
DESCRIBED = ImageDescription(width=512, height=512, size_bytes=1, checksum_xxh3=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("bagel-7b-mot", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / whole.name))


@pytest.fixture(scope="module")
def loaded(whole: Path) -> StageModel[BagelDenoiser]:
    loaded = load_denoiser(whole, None, ElementType.FLOAT32, "cpu")
    assert isinstance(loaded.model, BagelDenoiser)
    return StageModel(loaded.loaded, loaded.model)


@pytest.fixture(scope="module")
def encoder(whole: Path) -> BagelEncoder:
    model = load_encoder(whole, None, ElementType.FLOAT32, "cpu").model
    assert isinstance(model, BagelEncoder)
    return model


@pytest.fixture(scope="module")
def vae(whole: Path) -> BagelVae:
    model = load_vae(whole, None, ElementType.FLOAT32, "cpu").model
    assert isinstance(model, BagelVae)
    return model


@pytest.fixture
def ask(loaded: StageModel[BagelDenoiser]) -> Ask:
    def ask(**asked: object) -> GenerationParameters:
        small = {"prompt": "a circle", "width": 64, "height": 64, "steps": 4, "seed": 7}
        request = GenerationRequest(**(small | asked))
        return resolve(request, loaded.loaded.model, draw_seed=lambda: 0)

    return ask


def test_what_a_request_leaves_out_is_as_published(loaded: StageModel[BagelDenoiser]) -> None:
    limits = loaded.loaded.model.capabilities
    assert limits.defaults == GenerationDefaults(
        width=1024, height=1024, steps=49, guidance_scale=4.0, negative_prompt=""
    )
    assert {each.name: each.default for each in limits.options} == {
        "bagel.image_guidance_scale": 1.5,
        "bagel.guidance_interval_start": 0.4,
        "bagel.guidance_interval_end": 1.0,
    }
    assert (limits.min_images, limits.max_images, limits.max_side) == (0, 1, 1024)


def test_49_steps_go_through_the_50_published_time_steps(
    loaded: StageModel[BagelDenoiser], encoder: BagelEncoder, ask: Ask
) -> None:
    parameters = ask(width=32, height=32, steps=49, guidance_scale=1.0)
    state = loaded.model.prepare(parameters, encode_all(encoder.encodings(parameters)))
    sigmas = [state.sigma]
    while state.completed_steps < state.total_steps:
        loaded.model.step(state)
        sigmas.append(state.sigma)
    even = torch.linspace(1, 0, 50)
    assert sigmas == (3 * even / (1 + 2 * even)).tolist()


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        # 4 steps start at 1, 0.9, 0.75 and 0.5.
        ({}, [2, 2, 2, 2]),
        ({"guidance_scale": 1.0}, [1, 1, 1, 1]),
        ({"start": 0.75, "end": 0.9}, [1, 2, 1, 1]),
        ({"start": 0.5}, [2, 2, 2, 1]),
        ({"images": (DESCRIBED,)}, [3, 3, 3, 3]),
        ({"images": (DESCRIBED,), "end": 0.8}, [1, 1, 3, 3]),
        # As published: none by the image where there is none by the prompt.
        ({"images": (DESCRIBED,), "guidance_scale": 1.0}, [1, 1, 1, 1]),
        ({"images": (DESCRIBED,), "scale": 1.0, "start": 0.6}, [2, 2, 2, 1]),
    ],
)
def test_branches_run_inside_the_interval_if_their_scale_is_on(
    loaded: StageModel[BagelDenoiser], ask: Ask, asked: dict[str, object], runs: list[int]
) -> None:
    names = {
        "start": "guidance_interval_start",
        "end": "guidance_interval_end",
        "scale": "image_guidance_scale",
    }
    options = {names[key]: value for key, value in asked.items() if key in names}
    fields = {key: value for key, value in asked.items() if key not in names}
    parameters = ask(**fields, options=BagelOptions(**options))
    state = loaded.model.prepare(parameters, conditioning(parameters))
    transformer = loaded.model.components["language_model"]
    assert isinstance(transformer, FlowTransformer)
    counted: list[int] = []
    hook = transformer.llm2vae.register_forward_hook(lambda *_: counted.append(1))
    try:
        for expected in runs:
            counted.clear()
            loaded.model.step(state)
            assert len(counted) == expected
    finally:
        hook.remove()


def conditioning(parameters: GenerationParameters) -> dict[str, torch.Tensor]:
    shapes = {"prompt_embeds": (1, 3, 32), "marker_embeds": (1, 2, 32)}
    if parameters.images:
        shapes |= {"image_embeds": (1, 37 * 37, 32), "image_latents_0": (1, 16, 64, 64)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_branches_read_the_same_image_once_and_share_it(
    loaded: StageModel[BagelDenoiser], ask: Ask
) -> None:
    parameters = ask(images=(DESCRIBED,))
    state = loaded.model.prepare(parameters, conditioning(parameters))
    image_tokens = (32 * 32 + 2) + (37 * 37 + 2)
    wanted, without_text = state.contexts[CONDITIONAL], state.contexts[WITHOUT_TEXT]
    assert without_text.length == image_tokens
    assert wanted.length == image_tokens + 3
    assert state.contexts[WITHOUT_IMAGE].length == 3
    assert wanted.segments[:2] == without_text.segments
    # The image takes one position as the VAE sees it, and one as the vision tower does.
    assert [without_text.position, wanted.position] == [2, 5]


def test_without_an_image_nothing_precedes_the_prompt(
    loaded: StageModel[BagelDenoiser], ask: Ask
) -> None:
    parameters = ask()
    state = loaded.model.prepare(parameters, conditioning(parameters))
    assert state.contexts[WITHOUT_TEXT] == Context()
    assert state.branch_names == (CONDITIONAL, WITHOUT_TEXT)


def test_noise_is_what_the_seed_draws_first_and_after_an_images_latents(
    loaded: StageModel[BagelDenoiser], vae: BagelVae, ask: Ask
) -> None:
    stream = torch.Generator().manual_seed(7)
    drawn, edited = ask(), ask(images=(DESCRIBED,))
    state = loaded.model.prepare(drawn, conditioning(drawn))
    assert torch.equal(state.latents, torch.randn(1, 16, 64, generator=stream))
    stream.manual_seed(7)
    posterior = vae.components["vae"].encode(picture_pixels()).latent_dist
    sample = posterior.mean + posterior.std * torch.randn(1, 16, 64, 64, generator=stream)
    latents = vae.image_encoding(edited, 0, PICTURE).tensors()["latents"]
    torch.testing.assert_close(latents, 0.3611 * (sample - 0.1159))
    state = loaded.model.prepare(edited, conditioning(edited))
    assert torch.equal(state.latents, torch.randn(1, 16, 64, generator=stream))


def picture_pixels() -> torch.Tensor:
    grey = torch.frombuffer(bytearray(PICTURE.getchannel(0).tobytes()), dtype=torch.uint8)
    return (grey.reshape(512, 512) / 127.5 - 1).expand(1, 3, 512, 512).contiguous()


def test_a_prompt_stands_between_the_markers_of_a_message(encoder: BagelEncoder, ask: Ask) -> None:
    table = encoder.components["embed_tokens"].embed_tokens.weight
    tokenizer = encoder._tokenizer
    text = "<|im_start|>a circle<|im_end|><|vision_start|><|vision_end|>"
    ids = tokenizer(text).input_ids
    given = encode_all(encoder.encodings(ask(), []))
    assert given.keys() == {"prompt_embeds", "marker_embeds"}
    assert torch.equal(given["prompt_embeds"][0], table[ids[:-2]])
    assert torch.equal(given["marker_embeds"][0], table[ids[-2:]])


def test_too_long_a_prompt_counts_with_its_markers(encoder: BagelEncoder, ask: Ask) -> None:
    encode_all(encoder.encodings(ask(prompt="7" * 1022)))
    with pytest.raises(InvalidRequest, match="prompt: has 1025 tokens; allowed are at most 1024"):
        encode_all(encoder.encodings(ask(prompt="7" * 1023)))


def test_the_vae_is_the_published_one(vae: BagelVae, whole: Path) -> None:
    # In float64, where two ways to compute the same thing leave no other difference.
    published = autoencoder().double()
    published.load_state_dict(load_file(whole / "ae.safetensors"))
    ours = load(ModelDirectory(whole), torch.float64, torch.device("cpu")).components["vae"]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 32, 48, generator=generator, dtype=torch.float64)
    latents = torch.randn(1, 16, 4, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        posterior = ours.encode(pixels).latent_dist
        for found, expected in zip(
            (posterior.mean, posterior.std, ours.decode(latents).sample),
            (*published.moments(pixels), published.decoder(latents)),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_needs_only_its_own_files_and_of_them_its_own_tensors(
    path: Path, stage: Stage
) -> None:
    prefixes = {
        Stage.ENCODER: ("language_model.model.embed_tokens.", "vit_", "connector."),
        Stage.DENOISER: ("language_model.model.", "vae2llm", "llm2vae", "time_", "latent_"),
        Stage.VAE: (),
    }[stage]
    if stage is not Stage.VAE:
        weights = load_file(path / "ema.safetensors")
        kept = {name: each for name, each in weights.items() if name.startswith(prefixes)}
        if stage is Stage.DENOISER:
            del kept["language_model.model.embed_tokens.weight"]
        assert 0 < len(kept) < len(weights)
        save_file(kept, path / "ema.safetensors")
    needed = {file for pattern in SPEC.patterns(stage) for file in path.glob(pattern)}
    for file in set(path.iterdir()) - needed:
        file.unlink()
    LOADS[stage](path, None, ElementType.BFLOAT16, "cpu")


def test_the_directory_is_recognised_without_a_model_index(whole: Path) -> None:
    directory = ModelDirectory(whole)
    assert directory.pipeline_class == "BagelForConditionalGeneration"
    assert directory.name == "bagel-7b-mot"
    assert find_family(directory).folder == "bagel"


CONFIGURATIONS = [
    ("config.json", {"interpolate_pos": True}, Stage.VAE, "interpolate_pos is true; served are"),
    ("config.json", {"architectures": []}, Stage.VAE, r"architectures are \[\], not a list"),
    ("vit_config.json", {"patch_size": 16}, Stage.ENCODER, "patch_size is 16; served are models"),
    ("vit_config.json", {"hidden_size": "a"}, Stage.ENCODER, "vit_config.json: cannot be used: "),
    ("vit_config.json", {"num_hidden_layers": 4}, Stage.ENCODER, r"layers\.2\..* is missing"),
    ("llm_config.json", {"hidden_size": "a"}, Stage.DENOISER, "llm_config.json: cannot be used: "),
    ("llm_config.json", {"num_hidden_layers": 3}, Stage.DENOISER, r"layers\.2\..* is missing"),
    ("llm_config.json", {"vocab_size": 7}, Stage.ENCODER, r"embed_tokens.weight has shape \("),
    ("llm_config.json", {"intermediate_size": 32}, Stage.DENOISER, r"gate_proj.weight has shape"),
]


@pytest.mark.parametrize(("file", "values", "stage", "message"), CONFIGURATIONS)
def test_a_configuration_that_does_not_fit_is_refused(
    path: Path, file: str, values: dict[str, object], stage: Stage, message: str
) -> None:
    changed = json.loads((path / file).read_text()) | values
    (path / file).write_text(json.dumps(changed))
    with pytest.raises(ConfigurationError, match=message):
        LOADS[stage](path, None, ElementType.FLOAT32, "cpu")


@pytest.mark.parametrize(
    ("file", "name", "stage"),
    [
        ("ema.safetensors", "language_model.model.norm_moe_gen.weight", Stage.DENOISER),
        ("ema.safetensors", "language_model.model.layers.1.mlp_moe_gen.up_proj.weight", "denoiser"),
        ("ema.safetensors", "latent_pos_embed.pos_embed", Stage.DENOISER),
        ("ema.safetensors", "vit_model.vision_model.post_layernorm.bias", Stage.ENCODER),
        ("ema.safetensors", "vit_pos_embed.pos_embed", Stage.ENCODER),
        ("ae.safetensors", "decoder.conv_out.weight", Stage.VAE),
    ],
)
def test_a_weight_that_is_missing_is_named(path: Path, file: str, name: str, stage: Stage) -> None:
    weights = load_file(path / file)
    del weights[name]
    save_file(weights, path / file)
    with pytest.raises(ConfigurationError, match=rf"{file}: {name} is missing; needed is \("):
        LOADS[Stage(stage)](path, None, ElementType.FLOAT32, "cpu")


def test_a_vae_with_other_levels_is_refused(path: Path) -> None:
    weights = load_file(path / "ae.safetensors")
    save_file(
        {name: each for name, each in weights.items() if "down.3." not in name},
        path / "ae.safetensors",
    )
    with pytest.raises(ConfigurationError, match="has 3 levels; served are VAEs with 4"):
        load_vae(path, None, ElementType.FLOAT32, "cpu")


def test_a_tokenizer_without_the_markers_is_refused(path: Path) -> None:
    text = (path / "tokenizer.json").read_text()
    (path / "tokenizer.json").write_text(text.replace("<|vision_end|>", "<|vision_e|>"))
    text = (path / "tokenizer_config.json").read_text()
    (path / "tokenizer_config.json").write_text(text.replace("<|vision_end|>", "<|vision_e|>"))
    with pytest.raises(ConfigurationError, match=r"the tokenizer has no token <\|vision_end\|>"):
        load_encoder(path, None, ElementType.FLOAT32, "cpu")


@pytest.mark.exhaustive  # Its autoencoder takes a minute, in that type on a processor.
def test_pixels_of_an_input_image_are_in_the_model_type(whole: Path, ask: Ask) -> None:
    vae = load_vae(whole, None, ElementType.BFLOAT16, "cpu").model
    assert isinstance(vae, BagelVae)
    latents = vae.image_encoding(ask(images=(DESCRIBED,)), 0, PICTURE).tensors()["latents"]
    assert (latents.dtype, latents.shape) == (torch.bfloat16, (1, 16, 64, 64))
