"""How much of what a cache could gain it does gain, and what skipping itself costs.

python -m benchmarks.cache_efficiency [--rounds N] [--model NAME ...]
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import SecretStr
from torch import nn

from benchmarks.loops import Looped, our_loop, stock_loop
from benchmarks.own_process import OwnProcess
from benchmarks.random_model import ARCHITECTURES, FLUX_DEV, QWEN_IMAGE, Architecture, RandomModel
from benchmarks.report import Row, write
from benchmarks.stock import switch_on
from benchmarks.turns import OwnThread, Pause, Turn, take_turns
from denoiser_service.rank.stage import DenoiseStage
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import set_up_torch
from triptych.domain.acceleration import CacheDit, TeaCache
from triptych.domain.generation import GenerationParameters

Loop = Callable[[Pause], Looped]

_WIDTH = {"num_attention_heads": 3, "joint_attention_dim": 512}
MODELS = (
    QWEN_IMAGE.resized(num_layers=10, **_WIDTH),
    FLUX_DEV.resized(num_layers=7, num_single_layers=6, **_WIDTH),
)
SIDE = 512
STEPS = 10
IDLE_STEPS = 60
UNCACHED = "none"


def dbcache(**options: object) -> dict[str, Any]:
    """Skips three steps of four after the warm-up, whatever the weights: any change is small."""
    return {
        "kind": "cache_dit",
        "max_warmup_steps": 3,
        "max_continuous_cached_steps": 3,
        "residual_diff_threshold": 1e9,
        **options,
    }


METHODS: Mapping[str, dict[str, Any]] = {
    UNCACHED: {"kind": "none"},
    # Every distance counts as 1: again three steps of four.
    "TeaCache": {"kind": "tea_cache", "rel_l1_thresh": 3.5, "coefficients": (0, 0, 0, 0, 1)},
    "DBCache F1": dbcache(),
    "DBCache F4": dbcache(fn_compute_blocks=4),
    "DBCache F1 + TaylorSeer": dbcache(taylorseer_order=1),
    "DBCache F1 + SCM fast": dbcache(scm_mask_policy="fast", scm_policy="static"),
}
NOTES = (
    "Random weights in published architectures of {sizes} million parameters, 512 x 512 pixels"
    " (1024 tokens), {steps} steps without a second guidance branch, float32, one torch thread."
    " All loops take turns step by step, and times are the processor time of their threads: ours"
    " as requests of one denoising stage, in a process that is set up as a rank's; the others as"
    " stock diffusers pipelines. What is skipped does not depend on the weights: thresholds are"
    " set so that every change counts as small.",
    "`computed` and `skipped` are medians over {rounds} round(s) of the two kinds of steps of our"
    " request, in ms. `speed-up` is what these medians make of {steps} steps, against our request"
    " without a cache; `ideal` is 1 / (1 - reused * (1 - f)), where f is the share of that"
    " request's step that a stock pipeline takes with only the blocks that are never skipped"
    " (`always`), embedding and output included. `of ideal` is their ratio. In brackets: smallest"
    " and largest of the rounds.",
    "`stock / ours` is the loop's time in a stock pipeline, with cache-dit switched on the"
    " library's own way, over ours; both gave the same latents, bit for bit. Each of these"
    " pipelines runs as people run it: on the main thread of a process of its own, with the C"
    " library's allocator as it comes. Ours keeps freed memory. A stock pipeline that runs in our"
    " process, and so with our allocator, takes `in our process` times as long as our request.",
    "The overheads are measured with blocks that add one and do nothing else, over {idle}"
    " steps: what a step of ours takes beyond the stock pipeline's step with the same blocks in"
    " the same process, in ms; beside them cache-dit's in a stock pipeline. They include the"
    " stage around the loop (`none`) and the library's own arithmetic on tensors of real size."
    " `by overheads` is what `stock / ours` would be if our steps, and cache-dit's, took what the"
    " stock pipeline's take in our process, and their overheads: it is what the loop and the"
    " caches cost, without the allocator and without the machine's noise.",
)


@dataclass(frozen=True)
class Medians:
    """Seconds of the kinds of steps of one loop, and how many there were of each."""

    computed: float
    skipped: float
    reused: tuple[bool, ...]

    @property
    def loop(self) -> float:
        """Of the whole loop."""
        skips = sum(self.reused)
        return (len(self.reused) - skips) * self.computed + skips * self.skipped


def medians(turns: Sequence[Turn], reused: tuple[bool, ...]) -> Medians:
    """Of loops that decided alike. First steps also prepare, and are left out."""

    def of(kind: bool) -> float:
        steps = [
            seconds
            for turn in turns
            for seconds, skipped in list(zip(turn.times.processor, reused, strict=True))[1:]
            if skipped is kind
        ]
        return statistics.median(steps) if steps else 0.0

    return Medians(of(False), of(True), reused)


class Rig:
    """One architecture, with all loops around the same weights."""

    def __init__(self, model: RandomModel, store: TensorStore, side: int = SIDE) -> None:
        self.model, self._store, self._side = model, store, side

    def turns(self, *, idle: bool, steps: int) -> dict[str, Turn]:
        """By name: ours and theirs for every method, and what is always computed of each."""
        turns: dict[str, Turn] = dict(self._theirs(steps)) if not idle else {}
        transformer = _clone(self.model.transformer)
        if idle:
            for block in _blocks(transformer):
                _make_idle(block)
        stage = DenoiseStage(self.model.staged(transformer), self._store)
        for name, cache in METHODS.items():
            told = self._parameters(cache, steps)
            turns[f"ours {name}"] = OwnThread(our_loop(self.model, stage, self._store, told))
            if name == UNCACHED or (idle and isinstance(told.cache, CacheDit)):
                loop = library_loop(self.model, _clone(transformer), told)
                turns[f"inside {name}"] = OwnThread(loop)
        for first in {_always(cache) for cache in METHODS.values()}:
            shortened = _shortened(_clone(transformer), first)
            told = self._parameters(METHODS[UNCACHED], steps)
            turns[f"always {first}"] = OwnThread(library_loop(self.model, shortened, told))
        return turns

    def _theirs(self, steps: int) -> Iterator[tuple[str, Turn]]:
        """Stock pipelines as people run them."""
        for name, cache in METHODS.items():
            told = self._parameters(cache, steps)
            if not isinstance(told.cache, TeaCache):
                alone = Alone(self.model.architecture.name, self.model.architecture.config, told)
                yield f"stock {name}", OwnProcess(alone_loop, alone)

    def _parameters(self, cache: dict[str, Any], steps: int) -> GenerationParameters:
        return self.model.parameters(
            width=self._side, height=self._side, steps=steps, cache=cache, guidance_scale=1.0
        )

    def round(self, *, idle: bool, steps: int) -> dict[str, Turn]:
        """Every loop once.

        Raises:
            AssertionError: ours and theirs are not the same bits.
        """
        turns = self.turns(idle=idle, steps=steps)
        take_turns(list(turns.values()))
        for name, turn in turns.items():
            whose, _, method = name.partition(" ")
            if whose in ("stock", "inside"):
                ours = turns[f"ours {method}"].result
                assert torch.equal(ours.latents, turn.result.latents), name
        return turns


@dataclass(frozen=True)
class Alone:
    """What a process that runs a stock pipeline is told.

    Attributes:
        architecture: its name.
        config: of its transformer.
        parameters: of the request.
    """

    architecture: str
    config: Mapping[str, Any]
    parameters: GenerationParameters


def alone_loop(told: Alone) -> Loop:
    """A stock pipeline around weights of its own, which are the same."""
    architecture = ARCHITECTURES[told.architecture].resized(**told.config)
    with tempfile.TemporaryDirectory() as folder:
        model = RandomModel(architecture, Path(folder), torch.device("cpu"), torch.float32)
    return library_loop(model, model.transformer, told.parameters)


def library_loop(model: RandomModel, transformer: nn.Module, told: GenerationParameters) -> Loop:
    """A stock pipeline, with cache-dit switched on where the request asks for it."""
    pipeline = model.pipeline(transformer)
    if isinstance(told.cache, CacheDit):
        switch_on(pipeline, told.cache, guided=False, steps=told.steps)
    return stock_loop(model, pipeline, told)


def _always(cache: dict[str, Any]) -> int:
    return int(cache.get("fn_compute_blocks", 1)) if cache["kind"] == "cache_dit" else 0


def _blocks(transformer: nn.Module) -> list[nn.Module]:
    names = ("transformer_blocks", "single_transformer_blocks")
    return [block for name in names for block in getattr(transformer, name, ())]


def _clone(transformer: nn.Module) -> nn.Module:
    """Another with the same weights, which are not copied."""
    shared = {id(each): each for each in [*transformer.parameters(), *transformer.buffers()]}
    return copy.deepcopy(transformer, shared)


def _shortened(transformer: nn.Module, first: int) -> nn.Module:
    """Leaves a transformer its first blocks."""
    for name in ("transformer_blocks", "single_transformer_blocks"):
        if (blocks := getattr(transformer, name, None)) is not None:
            setattr(transformer, name, blocks[:first])
            first -= len(blocks[:first])
    return transformer


def _make_idle(block: nn.Module) -> None:
    """Takes a block's work from it, and leaves it the parts that TeaCache looks at."""
    published = type(block)

    def forward(
        self: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *args: object,
        **inputs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return encoder_hidden_states, hidden_states + 1

    forward.__wrapped__ = published.forward  # type: ignore[attr-defined]
    block.__class__ = type(published.__name__, (published,), {"forward": forward})


def rows(rig: Rig, rounds: int, idle_steps: int = IDLE_STEPS) -> list[Row]:
    """One for each method."""
    busy = [rig.round(idle=False, steps=STEPS) for _ in range(rounds)]
    idle = [rig.round(idle=True, steps=idle_steps)]
    return [row(rig.model.architecture, name, busy, idle) for name in METHODS]


def row(
    architecture: Architecture,
    name: str,
    busy: Sequence[Mapping[str, Turn]],
    idle: Sequence[Mapping[str, Turn]],
) -> Row:
    """One method."""
    always = f"always {_always(METHODS[name])}"

    def measured(rounds: Sequence[Mapping[str, Turn]]) -> dict[str, Medians]:
        reused = rounds[0][f"ours {name}"].result.reused
        none = (False,) * len(reused)
        kinds = {
            "ours": (f"ours {name}", reused),
            "uncached": (f"ours {UNCACHED}", none),
            "stock": (f"stock {name}", reused),
            "inside": (f"inside {name}", reused),
            "full": (f"inside {UNCACHED}", none),
            "always": (always, none),
        }
        return {
            kind: medians([each[loop] for each in rounds], steps)
            for kind, (loop, steps) in kinds.items()
            if loop in rounds[0]
        }

    whole, each = measured(busy), [measured([one]) for one in busy]
    alone = measured(idle)
    cached, stock = name != UNCACHED, "stock" in whole
    return {
        "model": architecture.name,
        "cache": name,
        "reused": f"{_reused(whole):.0%}",
        "always": 1000 * whole["always"].computed,
        "computed": 1000 * whole["ours"].computed,
        "skipped": 1000 * whole["ours"].skipped if any(whole["ours"].reused) else "",
        "speed-up": _speed_up(whole) if cached else "",
        "ideal": _ideal(whole) if cached else "",
        "of ideal": _spread(lambda one: _speed_up(one) / _ideal(one), whole, each)
        if cached
        else "",
        "stock / ours": _spread(lambda one: one["stock"].loop / one["ours"].loop, whole, each)
        if stock
        else "",
        "in our process": ""
        if cached
        else _spread(lambda one: one["inside"].loop / one["ours"].loop, whole, each),
        "by overheads": _by_overheads(whole, alone) if stock else "",
        "overhead computed": _overhead(alone, "ours", "computed"),
        "cache-dit's computed": _overhead(alone, "inside", "computed") if cached else "",
        "overhead skipped": _overhead(alone, "ours", "skipped"),
        "cache-dit's skipped": _overhead(alone, "inside", "skipped"),
    }


def _reused(one: Mapping[str, Medians]) -> float:
    return sum(one["ours"].reused) / len(one["ours"].reused)


def _speed_up(one: Mapping[str, Medians]) -> float:
    return one["uncached"].loop / one["ours"].loop


def _ideal(one: Mapping[str, Medians]) -> float:
    share = one["always"].computed / one["uncached"].computed
    return 1 / (1 - _reused(one) * (1 - share))


def _spread(
    value: Callable[[Mapping[str, Medians]], float],
    whole: Mapping[str, Medians],
    each: Sequence[Mapping[str, Medians]],
) -> str:
    values = [value(one) for one in each]
    return f"{value(whole):.3f} ({min(values):.3f} to {max(values):.3f})"


def _by_overheads(whole: Mapping[str, Medians], alone: Mapping[str, Medians]) -> float:
    """Their loop over ours, if steps differed from a stock pipeline's by their overheads alone."""

    def loop(whose: str) -> float:
        full, always = whole["full"].computed, whole["always"].computed
        return Medians(
            full + alone[whose].computed - alone["full"].computed,
            always + alone[whose].skipped - alone["always"].computed,
            whole["ours"].reused,
        ).loop

    return loop("inside") / loop("ours")


def _overhead(alone: Mapping[str, Medians], whose: str, kind: str) -> float | str:
    if whose not in alone or (kind == "skipped" and not any(alone["ours"].reused)):
        return ""
    bare = alone["full" if kind == "computed" else "always"].computed
    taken: float = getattr(alone[whose], kind)
    return 1000 * (taken - bare)


def main() -> None:
    """Measures and writes results/cache_efficiency."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", nargs="+", choices=[each.name for each in MODELS])
    told = parser.parse_args()
    set_up_torch(1)
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    measured: list[Row] = []
    sizes = []
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_store("memory:", seal=seal, ttl_seconds=600)) as store,
    ):
        for architecture in MODELS:
            if told.model and architecture.name not in told.model:
                continue
            model = RandomModel(architecture, Path(folder), torch.device("cpu"), torch.float32)
            sizes.append(sum(each.numel() for each in model.transformer.parameters()) / 1e6)
            measured += rows(Rig(model, store), told.rounds)
            print(f"{architecture.name} is measured")
    facts = {"steps": STEPS, "idle": IDLE_STEPS, "rounds": told.rounds}
    facts |= {"sizes": " and ".join(f"{each:.0f}" for each in sizes)}
    notes = [each.format(**facts) for each in NOTES]
    print(write("cache_efficiency", "Caches: what is gained of what could be", measured, notes))


if __name__ == "__main__":
    main()
