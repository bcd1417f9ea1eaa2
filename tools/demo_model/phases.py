"""The phases in order, each skipped when its result already lies in the work directory."""

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, ModelMixin
from transformers import PreTrainedModel

from tools.demo_model.dit_training import DitPlan, train, trained_modules
from tools.demo_model.export import export_model, replace_part, write_untrained
from tools.demo_model.latents import ExamplesPlan, make_share, measure
from tools.demo_model.masters import Schedule
from tools.demo_model.process import run_ranks
from tools.demo_model.tokenizer import train_tokenizer
from tools.demo_model.training_loop import Phase
from tools.demo_model.vae_training import VaePlan, peak_signal_to_noise, train_vae, trained_vae

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DitOptions:
    """What both verbs need to train the transformer and the text encoder.

    Attributes:
        out: Model directory to write.
        work: Directory of checkpoints and of the training set.
        seed: Seed of everything.
        device: "cpu" or "cuda".
        processes: Ranks, of one thread each.
        pictures: Size of the training set.
        steps: Steps of the phase, or the most it may take when `minutes` is given.
        minutes: Length of the phase by the clock.
        batch: Pictures per rank and step.
        peak: Peak learning rate.
        compiled: Whether to compile the transformer's block.
    """

    out: Path
    work: Path
    seed: int
    device: str
    processes: int
    pictures: int
    steps: int
    minutes: float | None
    batch: int
    peak: float
    compiled: bool


@dataclass(frozen=True)
class VaeOptions:
    """What only a build from nothing needs.

    Attributes:
        steps: Steps of the whole autoencoder.
        decoder_steps: Steps of the decoder alone, afterwards.
        statistics_pictures: Pictures over which the latent statistics are measured.
    """

    steps: int
    decoder_steps: int
    statistics_pictures: int


def build_model(vae: VaeOptions, options: DitOptions) -> None:
    """Makes a model from nothing and writes it.

    Args:
        vae: How to train the autoencoder.
        options: How to train the rest, and where everything goes.
    """
    claim(options, {"vae": asdict(vae)})
    untrained, ready = options.work / "untrained", options.work / "ready"
    if not untrained.exists():
        write_untrained(untrained, train_tokenizer(options.seed), options.seed)
    if not ready.exists():
        autoencoder = _train_autoencoder(untrained, vae, options)
        partial = ready.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(untrained, partial)
        replace_part(partial, "vae", autoencoder, torch.float32)
        partial.replace(ready)
    parts = _train_transformer(ready, options)
    parts["vae"] = AutoencoderKLQwenImage.from_pretrained(str(ready / "vae"), dtype=torch.bfloat16)
    export_model(ready, options.out, parts)
    logger.info("wrote %s", options.out)


def continue_model(source: Path, options: DitOptions) -> None:
    """Trains an exported model further and writes the result.

    The autoencoder, its latent statistics and the tokenizer stay as they are.

    Args:
        source: An exported model directory.
        options: How long and how to train.
    """
    claim(options, {"from": str(source.resolve())})
    export_model(source, options.out, _train_transformer(source, options))
    logger.info("wrote %s", options.out)


def claim(options: DitOptions, more: dict[str, Any]) -> None:
    """Takes the work directory for a run, or takes up again the same run in it.

    Args:
        options: The options of the run.
        more: What else the results depend on.

    Raises:
        FileExistsError: The model directory to write exists already; better now than in the end.
        ValueError: The work directory holds the results of other options.
    """
    if options.out.exists():
        raise FileExistsError(f"{options.out} exists; remove it or name another directory")
    options.work.mkdir(parents=True, exist_ok=True)
    record = options.work / "options.json"
    wanted = json.dumps({**asdict(options), **more}, default=str, indent=2, sort_keys=True)
    if record.exists() and record.read_text(encoding="utf-8") != wanted:
        raise ValueError(f"{options.work} belongs to a run with other options; see {record}")
    record.write_text(wanted, encoding="utf-8")


def _train_autoencoder(
    untrained: Path, vae: VaeOptions, options: DitOptions
) -> AutoencoderKLQwenImage:
    """Runs both phases of the autoencoder and measures its latents.

    Returns:
        The autoencoder in fp32, with the statistics of its latents in its config.
    """
    whole, decoder = options.work / "autoencoder", options.work / "decoder"
    for source, target, steps, peak in (
        (untrained, whole, vae.steps, 2e-3),
        (whole, decoder, vae.decoder_steps, 1.5e-3),
    ):
        plan = VaePlan(
            model=source,
            phase=Phase(target.with_suffix(".safetensors"), steps, Schedule(peak, hold=0.0)),
            decoder_only=target == decoder,
            seed=options.seed + (11 if target == decoder else 7),
            device=options.device,
        )
        if target.exists():
            continue
        run_ranks(train_vae, plan, options.processes, options.work / "meeting")
        trained_vae(plan).save_pretrained(str(target / "vae"))
    autoencoder = AutoencoderKLQwenImage.from_pretrained(str(decoder / "vae"), dtype=torch.float32)
    means, deviations = measure(autoencoder, options.seed + 13, vae.statistics_pictures, "cpu")
    autoencoder.register_to_config(latents_mean=means, latents_std=deviations)
    quality = peak_signal_to_noise(autoencoder, options.seed, 64)
    logger.info("autoencoder: PSNR %.1f dB on average, %.1f dB at worst", *quality)
    return autoencoder


def _train_transformer(
    source: Path, options: DitOptions
) -> dict[str, ModelMixin | PreTrainedModel]:
    """Makes the training set and trains transformer and text encoder; returns both in fp32."""
    shares = tuple(
        options.work / f"examples-{rank}-of-{options.processes}.safetensors"
        for rank in range(options.processes)
    )
    meeting = options.work / "meeting"
    making = ExamplesPlan(source, shares, options.pictures, options.seed + 1, options.device)
    run_ranks(make_share, making, options.processes, meeting)
    plan = DitPlan(
        model=source,
        examples=shares,
        phase=Phase(
            options.work / "transformer.safetensors",
            options.steps,
            Schedule(options.peak),
            options.minutes,
        ),
        batch=options.batch,
        seed=options.seed,
        device=options.device,
        compiled=options.compiled,
    )
    run_ranks(train, plan, options.processes, meeting)
    transformer, text_encoder, notes = trained_modules(plan)
    logger.info("%s steps in %s s, loss %s", notes["step"], notes["seconds"], notes["loss"])
    return {"transformer": transformer, "text_encoder": text_encoder}
