"""The demo model's tool, without training anything worth drawing with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2Tokenizer

from tools.demo_model.architecture import new_transformer, new_vae
from tools.demo_model.captions import (
    KINDS,
    RELATIONS,
    Mix,
    Scene,
    Thing,
    describe,
    place,
    sample_kind,
    sample_scene,
    vary,
)
from tools.demo_model.dit_forward import FastTransformer, to_half_split, to_interleaved
from tools.demo_model.dit_training import DitPlan, DitTrainer, train, trained_modules
from tools.demo_model.export import export_model, write_untrained
from tools.demo_model.judge import judge_picture
from tools.demo_model.latents import ExamplesPlan, make_share
from tools.demo_model.masters import Masters, Schedule
from tools.demo_model.phases import DitOptions, claim
from tools.demo_model.prompts import FORTY, VARIANTS, hundred_sixty, parse
from tools.demo_model.scoring import PromptSet, load_pipeline, score
from tools.demo_model.shapes import PALETTE, SHAPES, Item, render
from tools.demo_model.tokenizer import (
    PREFIX_TOKENS,
    PROBES,
    TEMPLATE,
    check_prefix,
    encode,
    train_tokenizer,
)
from tools.demo_model.training_loop import Phase, run_phase
from tools.demo_model.vae_forward import decode
from tools.demo_model.vae_forward import encode as encode_pictures

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return train_tokenizer(seed=3, captions=1500)


@pytest.fixture(scope="module")
def untrained(tokenizer: Qwen2Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo") / "untrained"
    write_untrained(directory, tokenizer, seed=3)
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_every_true_picture_is_judged_correct(kind: str) -> None:
    rng = np.random.default_rng(17)
    scenes = [sample_scene(rng, kind) for _ in range(25)]

    verdicts = [judge_picture(render(*place(rng, scene)), scene) for scene in scenes]

    assert [
        scene for scene, verdict in zip(scenes, verdicts, strict=True) if not verdict.correct
    ] == []


@pytest.mark.parametrize(
    ("drawn", "asked", "wrong"),
    [
        ("a red circle", "a red square", "shape"),
        ("a red circle", "a blue circle", "colour"),
        ("a red circle on a green background", "a red circle", "background"),
        ("two red stars", "three red stars", "count"),
        ("three red stars", "three red diamonds", "shape"),
        ("a red circle above a blue star", "a red circle below a blue star", "colour"),
        ("a red moon to the left of a red star", "a red moon to the right of a red star", "shape"),
        ("a red circle and a blue star", "a red star and a blue circle", "shape"),
    ],
)
def test_a_picture_of_something_else_is_judged_wrong(drawn: str, asked: str, wrong: str) -> None:
    picture = render(*place(np.random.default_rng(1), parse(drawn)))

    verdict = judge_picture(picture, parse(asked))

    assert not verdict.correct
    assert not getattr(verdict, wrong)


def test_and_may_be_drawn_either_way_round() -> None:
    picture = render(*place(np.random.default_rng(1), parse("a red circle and a blue star")))

    assert judge_picture(picture, parse("a blue star and a red circle")).correct


def test_an_empty_picture_and_noise_are_judged_wrong() -> None:
    noise = np.random.default_rng(2).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    scene = parse("a red circle")

    assert not judge_picture(render(PALETTE["white"], ()), scene).count
    assert not judge_picture(noise, scene).correct


def test_shapes_differ_in_more_than_a_tenth_of_their_pixels() -> None:
    pictures = [
        render(PALETTE["white"], (Item(shape, PALETTE["black"], 64, 64, 36),)) for shape in SHAPES
    ]

    for index, left in enumerate(pictures):
        for right in pictures[:index]:
            ink = (left[:, :, 0] < 128) | (right[:, :, 0] < 128)
            assert ((left != right).any(axis=2) & ink).sum() > 0.1 * ink.sum()


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        render(PALETTE["white"], (Item("hexagon", PALETTE["red"], 64, 64, 30),))


def test_captions_follow_the_seed() -> None:
    def captions(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [vary(rng, sample_scene(rng, sample_kind(rng, Mix()))) for _ in range(50)]

    assert captions(4) == captions(4)
    assert captions(4) != captions(5)


def test_a_thing_never_has_the_colour_of_the_background() -> None:
    rng = np.random.default_rng(6)
    scenes = [sample_scene(rng, sample_kind(rng, Mix())) for _ in range(300)]

    assert all(thing.colour != scene.background for scene in scenes for thing in scene.things)


def test_captions_are_read_back_in_every_wording() -> None:
    rng = np.random.default_rng(8)
    for kind in KINDS * 20:
        scene = sample_scene(rng, kind)
        assert parse(describe(scene)) == scene
        assert parse(describe(scene, articles=False)) == scene
        assert parse(describe(scene, background_first=True)) == scene


def test_a_pair_is_placed_as_its_relation_says() -> None:
    first, second = Thing("star", "red"), Thing("moon", "blue")
    for relation in RELATIONS:
        scene = Scene("pair", (first, second), "white", relation=relation)
        _, items = place(np.random.default_rng(0), scene)
        places = {item.shape: (item.x, item.y) for item in items}
        axis = 1 if relation in ("above", "below") else 0
        before = places["star"][axis] < places["moon"][axis]
        assert before == (relation in ("above", "to the left of", "and"))


def test_the_judged_sets_are_what_the_scores_are_quoted_for() -> None:
    others = [describe(scene) for scene in hundred_sixty()]

    assert [sum(parse(text).kind == kind for text in FORTY) for kind in KINDS] == [22, 10, 8]
    assert [sum(parse(text).kind == kind for text in others) for kind in KINDS] == [88, 40, 32]
    assert len(set(FORTY) | set(others)) == 200
    assert all(parse(text).things for text in VARIANTS)


def test_the_prefix_has_34_tokens_and_text_survives(tokenizer: Qwen2Tokenizer) -> None:
    check_prefix(tokenizer)

    for text in (*PROBES, "a red circle to the left of a blue house"):
        ids = tokenizer(TEMPLATE.format(text)).input_ids
        assert tokenizer.decode(ids[:PREFIX_TOKENS]) == TEMPLATE.partition("{}")[0]
        assert tokenizer.decode(ids) == TEMPLATE.format(text)


def test_a_tokenizer_that_splits_the_template_is_refused() -> None:
    letters = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    spelling = Qwen2Tokenizer(vocab=letters | {"<|endoftext|>": 26}, merges=[])

    with pytest.raises(ValueError, match="34"):
        check_prefix(spelling)


def test_the_tokenizer_follows_the_seed(tokenizer: Qwen2Tokenizer) -> None:
    again = train_tokenizer(seed=3, captions=1500)

    assert again.get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) <= 512


def test_a_caption_that_is_too_long_is_refused(tokenizer: Qwen2Tokenizer) -> None:
    with pytest.raises(ValueError, match="too long"):
        encode(tokenizer, ["a red circle and " * 9])


def _stirred_transformer() -> QwenImageTransformer2DModel:
    """A transformer whose every weight matters: the first weights draw nothing at all."""
    transformer = new_transformer(seed=5).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return transformer


def test_the_fast_transformer_computes_what_diffusers_computes() -> None:
    transformer = _stirred_transformer()
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    noisy, text = torch.randn(2, 64, 64), torch.randn(2, 20, 64)
    visible = torch.arange(20)[None] < torch.tensor([[20], [9]])
    sigma = torch.tensor([0.3, 0.9])

    with torch.inference_mode():
        expected = transformer(
            hidden_states=noisy,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=visible,
            timestep=sigma,
            img_shapes=[[(1, 8, 8)]] * 2,
            return_dict=False,
        )[0]
    to_half_split(transformer)
    fast = FastTransformer(transformer, grid=8, tokens=20, compiled=False)
    with torch.inference_mode():
        found = fast(noisy, text, visible, sigma)
    assert not torch.equal(transformer.state_dict()[_A_QUERY], before[_A_QUERY])
    to_interleaved(transformer)

    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    after = transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


_A_QUERY = "transformer_blocks.0.attn.to_q.weight"


def test_the_fast_autoencoder_computes_what_diffusers_computes() -> None:
    vae: AutoencoderKLQwenImage = new_vae(seed=5).eval()
    pictures = torch.rand(2, 3, 32, 48) * 2 - 1

    with torch.inference_mode():
        mean, _ = encode_pictures(vae, pictures)
        posterior = vae.encode(pictures[:, :, None]).latent_dist
        decoded = decode(vae, mean).clamp(-1, 1)
        expected = vae.decode(posterior.mean, return_dict=False)[0][:, :, 0].clamp(-1, 1)

    torch.testing.assert_close(mean, posterior.mean[:, :, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-4)
    assert decoded.std() > 0.01


def test_the_learning_rate_warms_up_holds_and_fades() -> None:
    schedule = Schedule(peak=1.0, warmup_steps=10, hold=0.4, floor=0.01)

    assert schedule.rate(0, 0.0) == pytest.approx(0.1)
    assert schedule.rate(50, 0.4) == pytest.approx(1.0)
    assert schedule.rate(50, 0.7) == pytest.approx(0.505)
    assert schedule.rate(99, 1.0) == pytest.approx(0.01)


def test_progress_follows_whichever_of_steps_and_clock_is_ahead(tmp_path: Path) -> None:
    phase = Phase(tmp_path / "state", steps=100, schedule=Schedule(1.0), minutes=2.0)

    assert phase.progress(steps=10, seconds=60.0) == pytest.approx(0.5)
    assert phase.progress(steps=80, seconds=60.0) == pytest.approx(0.8)


def test_masters_minimize_and_leave_the_average_behind() -> None:
    layer = nn.Linear(4, 4, bias=False)
    masters = Masters(list(layer.parameters()), average_decay=0.9, weight_decay=0.0)
    target = torch.eye(4)
    losses = []
    for step in range(200):
        loss = (layer.weight.float() - target).pow(2).mean()
        losses.append(float(loss.detach()))
        torch.autograd.backward(loss)
        masters.step(0.02, step / 200)
    masters.use_average()

    assert losses[-1] < 0.01 * losses[0]
    assert layer.weight.dtype == torch.float32
    torch.testing.assert_close(layer.weight.detach(), target, rtol=0.0, atol=0.05)


def _plan(model: Path, work: Path, steps: int) -> DitPlan:
    """A phase of a few steps on sixteen pictures."""
    share = work / "examples.safetensors"
    work.mkdir(exist_ok=True)
    make_share(0, ExamplesPlan(model, (share,), count=16, seed=9, device="cpu"))
    state = work / "state.safetensors"
    phase = Phase(state, steps, Schedule(1e-3, warmup_steps=1, hold=0.5), save_every=1)
    return DitPlan(model, (share,), phase, batch=4, seed=9, compiled=False)


def test_two_steps_of_training_are_the_same_to_the_bit(untrained: Path, tmp_path: Path) -> None:
    states = []
    for run in ("first", "second"):
        plan = _plan(untrained, tmp_path / run, steps=2)
        train(0, plan)
        states.append(load_file(plan.phase.checkpoint))

    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    start = load_file(untrained / "transformer" / "diffusion_pytorch_model.safetensors")
    assert not torch.equal(states[0]["master"][:100], next(iter(start.values())).flatten()[:100])


@pytest.mark.exhaustive
def test_an_interrupted_phase_ends_where_an_unbroken_one_does(
    untrained: Path, tmp_path: Path
) -> None:
    unbroken = _plan(untrained, tmp_path / "unbroken", steps=3)
    train(0, unbroken)
    broken = _plan(untrained, tmp_path / "broken", steps=3)
    trainer = DitTrainer(broken, rank=0)

    def loss_until_the_power_fails(step: int) -> torch.Tensor:
        if step == 2:
            raise InterruptedError
        return trainer.loss(step)

    with pytest.raises(InterruptedError):
        run_phase(broken.phase, trainer.models.masters, loss_until_the_power_fails, rank=0)
    train(0, broken)

    left, right = (load_file(plan.phase.checkpoint) for plan in (unbroken, broken))
    assert float(right["step"]) == 3
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_work_directory_is_not_shared_by_different_runs(tmp_path: Path) -> None:
    options = DitOptions(
        out=tmp_path / "out",
        work=tmp_path / "work",
        seed=0,
        device="cpu",
        processes=1,
        pictures=16,
        steps=10,
        minutes=None,
        batch=4,
        peak=1e-3,
        compiled=False,
    )

    claim(options, {"from": "here"})
    claim(options, {"from": "here"})

    with pytest.raises(ValueError, match="other options"):
        claim(replace(options, steps=20), {"from": "here"})
    options.out.mkdir()
    with pytest.raises(FileExistsError):
        claim(options, {"from": "here"})


def test_an_exported_model_draws_in_the_stock_pipeline(untrained: Path, tmp_path: Path) -> None:
    plan = _plan(untrained, tmp_path / "work", steps=1)
    train(0, plan)
    transformer, text_encoder, _ = trained_modules(plan)
    parts = {"transformer": transformer, "text_encoder": text_encoder}
    for name in ("first", "second"):
        export_model(untrained, tmp_path / name, parts)

    prompts = PromptSet("one", ("a red circle",), steps=2)
    results = score(load_pipeline(tmp_path / "first", "cpu"), prompts, seed=0)

    assert results[0].pixels.shape == (128, 128, 3)
    assert results[0].pixels.std() > 1
    written = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(written) == 11
    for path in written:
        twin = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert path.read_bytes() == twin.read_bytes()
        assert str(tmp_path) not in path.read_bytes().decode("latin-1")
    with pytest.raises(FileExistsError):
        export_model(untrained, tmp_path / "first", parts)
