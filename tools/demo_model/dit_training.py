"""Trains the transformer and the text encoder together to predict the velocity."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from tools.demo_model.architecture import PATCH_SIZE, VAE_SCALE
from tools.demo_model.dit_forward import FastTransformer, to_half_split, to_interleaved
from tools.demo_model.latents import WORDINGS, load_examples
from tools.demo_model.masters import Masters
from tools.demo_model.shapes import IMAGE_SIZE
from tools.demo_model.tokenizer import PREFIX_TOKENS, TEXT_TOKENS, encode, load_tokenizer
from tools.demo_model.training_loop import Phase, run_phase

GRID = IMAGE_SIZE // VAE_SCALE // PATCH_SIZE
"""Patches along each side of a training picture."""

UNCONDITIONAL_SHARE = 0.1


@dataclass(frozen=True)
class DitPlan:
    """What to train, with what.

    Attributes:
        model: Directory with the first weights: `transformer`, `text_encoder`, `tokenizer`.
        examples: Files of the training set.
        phase: How long and how fast.
        batch: Pictures per process and step.
        shift: Exponent of the noise-level shift: larger trains more on noisier pictures.
        seed: Seed of every choice; a rank's step has its own stream.
        device: "cpu" or "cuda".
        compiled: Whether to compile the transformer's block.
        average_decay: Decay of the moving average that is exported.
    """

    model: Path
    examples: tuple[Path, ...]
    phase: Phase
    batch: int = 32
    shift: float = 0.8
    seed: int = 0
    device: str = "cpu"
    compiled: bool = True
    average_decay: float = 0.997


class Models:
    """The two trained modules, half-split and in bf16, and their masters."""

    def __init__(self, plan: DitPlan, device: str) -> None:
        """Loads the first weights onto the device."""
        self.transformer = QwenImageTransformer2DModel.from_pretrained(
            str(plan.model / "transformer"), dtype=torch.float32
        )
        # Eager attention, for the same reason as in the transformer: a fast backward pass.
        self.text_encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            str(plan.model / "text_encoder"), dtype=torch.float32, attn_implementation="eager"
        )
        self.transformer.to(device).train()
        self.text_encoder.to(device).train()
        to_half_split(self.transformer)
        # The vision tower is left alone: no caption ever reaches it.
        self.language_model = self.text_encoder.model.language_model
        parameters: list[nn.Parameter] = [
            *self.transformer.parameters(),
            *self.language_model.parameters(),
        ]
        self.masters = Masters(parameters, average_decay=plan.average_decay, weight_decay=0.01)


class DitTrainer:
    """The models and the data of one rank."""

    def __init__(self, plan: DitPlan, rank: int) -> None:
        """Loads the models and the training set onto the plan's device."""
        self._plan, self._rank = plan, rank
        self.models = Models(plan, plan.device)
        self._forward = FastTransformer(
            self.models.transformer, grid=GRID, tokens=TEXT_TOKENS, compiled=plan.compiled
        )
        self._examples = load_examples(list(plan.examples), plan.device)
        tokens, lengths = encode(load_tokenizer(plan.model), ["", " "])
        self._empty = (tokens.to(plan.device), lengths.to(plan.device))

    def loss(self, step: int) -> Tensor:
        """The loss of one batch, which depends on nothing but the seed, the step and the rank."""
        latents, tokens, lengths = self._batch(step)
        generator = _generator(self._plan.seed, step, self._rank)
        size = latents.shape[0]
        sigma = _noise_levels(size, self._plan.shift, generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        mixed = torch.lerp(latents, noise, sigma.view(-1, 1, 1))
        text = self.models.language_model(input_ids=tokens, use_cache=False).last_hidden_state
        places = torch.arange(TEXT_TOKENS, device=latents.device)
        visible = places[None] < (lengths - PREFIX_TOKENS)[:, None]
        velocity = self._forward(mixed.bfloat16(), text[:, PREFIX_TOKENS:], visible, sigma)
        return nn.functional.mse_loss(velocity.float(), noise - latents)

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [batch, 64, 64], token ids [batch, 54] and lengths [batch]."""
        examples, plan = self._examples, self._plan
        generator = _generator(plan.seed + 1, step, self._rank)
        rows = torch.randint(len(examples.latents), (plan.batch,), generator=generator)
        wordings = torch.randint(WORDINGS, (plan.batch,), generator=generator)
        dropped = torch.rand(plan.batch, generator=generator) < UNCONDITIONAL_SHARE
        empty = torch.randint(2, (plan.batch,), generator=generator)
        rows, wordings = rows.to(plan.device), wordings.to(plan.device)
        dropped, empty = dropped.to(plan.device), empty.to(plan.device)
        tokens = torch.where(
            dropped[:, None], self._empty[0][empty], examples.tokens[rows, wordings]
        )
        lengths = torch.where(dropped, self._empty[1][empty], examples.lengths[rows, wordings])
        return examples.latents[rows].float(), tokens.long(), lengths


def train(rank: int, plan: DitPlan) -> None:
    """Runs the phase to its end in one rank."""
    trainer = DitTrainer(plan, rank)
    run_phase(plan.phase, trainer.models.masters, trainer.loss, rank)


def trained_modules(
    plan: DitPlan,
) -> tuple[QwenImageTransformer2DModel, Qwen2_5_VLForConditionalGeneration, dict[str, str]]:
    """Reads a finished phase back.

    Returns:
        The transformer in the stock layout and the text encoder, both with averaged fp32
        weights on the CPU, and the checkpoint's notes.
    """
    models = Models(plan, "cpu")
    notes = models.masters.load(plan.phase.checkpoint)
    models.masters.use_average()
    to_interleaved(models.transformer)
    return models.transformer, models.text_encoder, notes


def _generator(seed: int, step: int, rank: int) -> torch.Generator:
    """A stream of its own for every step and rank, so that resuming repeats nothing."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank)


def _noise_levels(size: int, shift: float, generator: torch.Generator) -> Tensor:
    """Noise levels in 0..1, mostly logit-normal and sometimes uniform, then shifted up."""
    normal = torch.sigmoid(torch.randn(size, generator=generator))
    uniform = torch.rand(size, generator=generator)
    level = torch.where(torch.rand(size, generator=generator) < 0.85, normal, uniform)
    factor = math.exp(shift)
    return factor * level / (1.0 + (factor - 1.0) * level)
