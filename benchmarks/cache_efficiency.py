"""How much of what a cache could gain it does gain, and what skipping itself costs.

python -m benchmarks.cache_efficiency [--rounds N] [--model NAME ...]
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import SecretStr
from torch import nn

from benchmarks.loops import Looped, our_loop, stock_loop
from benchmarks.random_model import FLUX_DEV, QWEN_IMAGE, Architecture, RandomModel
from benchmarks.report import Row, write
from benchmarks.stock import switch_on
from benchmarks.turns import Pause, Turn, take_turns
from denoiser_service.stage import DenoiseStage
from services.domain.acceleration import CacheDit
from services.domain.generation import GenerationParameters
from services.domain.tensor_ref import Seal
from services.model_api.runtime import set_up_torch
from services.tensor_store.tensor_store import TensorStore, open_store

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
    "DBCache F1 + SCM fast": dbcache(scm={"mask_policy": "fast", "policy": "static"}),
}
NOTES = (
    "Random weights in published architectures of {sizes} million parameters, 512 x 512 pixels"
    " (1024 tokens), {steps} steps without a second guidance branch, float32, one torch thread,"
    " on a machine that other work shared. All loops take turns step by step, each in a thread"
    " of its own, and times are the processor time of that thread: ours as requests of one"
    " denoising stage, the others as stock diffusers pipelines. What is skipped does not depend"
    " on the weights: thresholds are set so that every change counts as small.",
    "`full`, `computed` and `skipped` are medians over {rounds} round(s) in ms: a step of the"
    " stock pipeline without a cache, and the two kinds of steps of our cached request."
    " `speed-up` is what these medians make of {steps} steps; `ideal` is 1 / (1 - reused * (1 -"
    " f)), where f is the share of `full` that the same stock pipeline takes with only the"
    " blocks that are never skipped (`always`), embedding and output included. `of ideal` is"
    " their ratio. `stock / ours` is the loop's time in a stock pipeline with cache-dit switched"
    " on the library's own way over ours; both gave the same latents, bit for bit. In brackets:"
    " smallest and largest of the rounds.",
    "The overheads are measured with blocks that add one and do nothing else, over {idle}"
    " steps: what a step of ours takes beyond the stock pipeline's step with the same blocks, in"
    " ms; beside them cache-dit's in a stock pipeline. They include the stage around the loop"
    " (`none`) and the library's own arithmetic on tensors of real size. `by overheads` is what"
    " a ratio would be if our steps, and cache-dit's, took what the stock pipeline's take and"
    " their overheads: it is what the caches cost without the noise of the machine in steps that"
    " are computed.",
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

    def loops(self, *, idle: bool, steps: int) -> dict[str, Loop]:
        """By name: ours and theirs for every method, and what is always computed of each."""
        transformer = _clone(self.model.transformer)
        if idle:
            for block in _blocks(transformer):
                _make_idle(block)
        stage = DenoiseStage(self.model.staged(transformer), self._store)
        loops: dict[str, Loop] = {}
        for name, cache in METHODS.items():
            told = self._parameters(cache, steps)
            loops[f"ours {name}"] = our_loop(self.model, stage, self._store, told)
            pipeline = self.model.pipeline(_clone(transformer))
            if isinstance(told.cache, CacheDit):
                switch_on(pipeline, told.cache, guided=False, steps=steps)
            if name == UNCACHED or isinstance(told.cache, CacheDit):
                loops[f"stock {name}"] = stock_loop(self.model, pipeline, told)
        for first in {_always(cache) for cache in METHODS.values()}:
            shortened = self.model.pipeline(_shortened(_clone(transformer), first))
            told = self._parameters(METHODS[UNCACHED], steps)
            loops[f"always {first}"] = stock_loop(self.model, shortened, told)
        return loops

    def _parameters(self, cache: dict[str, Any], steps: int) -> GenerationParameters:
        return self.model.parameters(
            width=self._side, height=self._side, steps=steps, cache=cache, guidance_scale=1.0
        )

    def round(self, *, idle: bool, steps: int) -> dict[str, Turn]:
        """Every loop once.

        Raises:
            AssertionError: ours and theirs are not the same bits.
        """
        loops = self.loops(idle=idle, steps=steps)
        turns = dict(zip(loops, take_turns(list(loops.values())), strict=True))
        for name in METHODS:
            if f"stock {name}" in turns:
                ours, stock = turns[f"ours {name}"].result, turns[f"stock {name}"].result
                assert torch.equal(ours.latents, stock.latents), name
        return turns


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
            "theirs": (f"stock {name}", reused),
            "full": (f"stock {UNCACHED}", none),
            "always": (always, none),
        }
        return {
            kind: medians([each[loop] for each in rounds], steps)
            for kind, (loop, steps) in kinds.items()
            if loop in rounds[0]
        }

    whole, each = measured(busy), [measured([one]) for one in busy]
    alone = measured(idle)
    added = _from_overheads(whole, alone)
    return {
        "model": architecture.name,
        "cache": name,
        "reused": f"{_reused(whole):.0%}",
        "full": 1000 * whole["full"].computed,
        "always": 1000 * whole["always"].computed,
        "computed": 1000 * whole["ours"].computed,
        "skipped": 1000 * whole["ours"].skipped if any(whole["ours"].reused) else "",
        "speed-up": _speed_up(whole),
        "ideal": _ideal(whole),
        "of ideal": _spread(lambda one: _speed_up(one) / _ideal(one), whole, each),
        "of ideal, by overheads": _speed_up(added) / _ideal(added),
        "stock / ours": _spread(lambda one: one["theirs"].loop / one["ours"].loop, whole, each)
        if "theirs" in whole
        else "",
        "stock / ours, by overheads": added["theirs"].loop / added["ours"].loop
        if "theirs" in added
        else "",
        "overhead computed": _overhead(alone, "ours", "computed"),
        "cache-dit's computed": _overhead(alone, "theirs", "computed"),
        "overhead skipped": _overhead(alone, "ours", "skipped"),
        "cache-dit's skipped": _overhead(alone, "theirs", "skipped"),
    }


def _reused(one: Mapping[str, Medians]) -> float:
    return sum(one["ours"].reused) / len(one["ours"].reused)


def _speed_up(one: Mapping[str, Medians]) -> float:
    return one["full"].loop / one["ours"].loop


def _ideal(one: Mapping[str, Medians]) -> float:
    share = one["always"].computed / one["full"].computed
    return 1 / (1 - _reused(one) * (1 - share))


def _spread(
    value: Callable[[Mapping[str, Medians]], float],
    whole: Mapping[str, Medians],
    each: Sequence[Mapping[str, Medians]],
) -> str:
    values = [value(one) for one in each]
    return f"{value(whole):.3f} ({min(values):.3f} to {max(values):.3f})"


def _from_overheads(
    whole: Mapping[str, Medians], alone: Mapping[str, Medians]
) -> dict[str, Medians]:
    """What the loops take if steps differ from the stock pipeline's by their overheads alone."""

    def added(one: Medians) -> Medians:
        full, always = whole["full"].computed, whole["always"].computed
        return Medians(
            full + one.computed - alone["full"].computed,
            always + one.skipped - alone["always"].computed,
            whole["ours"].reused,
        )

    loops = {name: added(alone[name]) for name in ("ours", "theirs") if name in alone}
    return {**whole, **loops}


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
