"""What remembering prompts saves and costs, on every tensor store.

python -m benchmarks.conditioning_cache [--rounds N] [--model DIRECTORY]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

import torch
from pydantic import SecretStr

from benchmarks.report import Row, write
from encoder_service.stage import EncodeStage
from services.domain.stages import EncodeRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.conditioning_encoder import conditioning_encoder
from services.loaded_models.loading import load_encoder
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import EncoderModel
from services.tensor_store.conditioning_cache import ConditioningCache
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import set_up_torch
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationRequest, resolve

WARM_UP_ROUNDS = 3
TENANT = "benchmark"
SEAL = Seal(SecretStr("benchmark" * 4))
CACHE_BYTES, IDLE_SECONDS = 256 << 20, 3600.0
PROMPTS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "a prompt of Qwen-Image's, 64 tokens": {"prompt_embeds": (1, 64, 3584)},
    "a prompt of FLUX.1-dev's": {
        "prompt_embeds": (1, 512, 4096),
        "pooled_prompt_embeds": (1, 768),
    },
}
NOTES = (
    "The encoder's stage with the demo model, from parameters to a reference: it encodes a prompt"
    " of some ten words and a negative prompt, and stores the conditioning. `off` has no cache,"
    " `miss` looks up both, encodes them and keeps them, `hit` finds both. With the prompts of"
    " large models, whose encoders do not fit here, the cache alone: `miss` is a lookup in vain and"
    " keeping the tensors (random, bfloat16), which is what a miss adds to encoding; `hit` is the"
    " lookup that takes the place of encoding.",
    "One process and one thread, float32 for the demo model, Redis's protocol spoken to an embedded"
    " Valkey through a unix socket. All rows of a kind are measured one after the other in every"
    " round; times are of the wall clock. {rounds} rounds after {warm_up} to warm up.",
)

Seconds = dict[str, float]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Encoding:
    """The encoder's stage in this process, with a store, with and without its cache."""

    def __init__(self, model: StageModel[EncoderModel], store: TensorStore) -> None:
        self._model, self._store = model, store
        self._numbers = count()
        cache = store.open_cache(CACHE_BYTES, IDLE_SECONDS)
        self._plain = EncodeStage(model, store)
        self._remembering = EncodeStage(model, store, conditioning_encoder(cache, model, "cpu"))

    def round(self) -> Seconds:
        """Seconds of each, with prompts that were never asked for."""
        number = next(self._numbers)
        return {
            "off": self._encode(self._plain, number, reused=0),
            "miss": self._encode(self._remembering, number, reused=0),
            "hit": self._encode(self._remembering, number, reused=2),
        }

    def _encode(self, stage: EncodeStage, number: int, *, reused: int) -> float:
        asked = GenerationRequest(
            prompt=f"a red circle beside {number} small stars on a blue background",
            negative_prompt=f"blurred, {number}",
            seed=0,
        )
        parameters = resolve(asked, self._model.loaded.model, lambda: 0)
        request = EncodeRequest(uuid.uuid4().hex, TENANT, parameters)
        began = time.perf_counter()
        encoded = stage.encode(request)
        taken = time.perf_counter() - began
        assert sum(each.reused for each in encoded.conditioning_reuse) == reused
        self._store.release(encoded.conditioning)
        return taken


class Keeping:
    """A cache alone, with tensors of given shapes."""

    def __init__(self, cache: ConditioningCache, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._cache = cache
        self._numbers = count()
        self._tensors = {
            name: torch.randn(shape).to(torch.bfloat16) for name, shape in shapes.items()
        }

    def round(self) -> Seconds:
        """Seconds of each, under a name that was never asked for."""
        key = (uuid.uuid4().hex, next(self._numbers))

        def miss() -> None:
            assert self._cache.get(key) is None
            self._cache.put(key, self._tensors)

        def hit() -> None:
            assert self._cache.get(key) is not None

        return {"miss": seconds(miss), "hit": seconds(hit)}


@contextmanager
def stores() -> Iterator[Mapping[str, TensorStore]]:
    """One of each kind."""
    with ExitStack() as exits:
        shared = exits.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="kv-"))
        socket = Path(folder) / "server.sock"
        server = subprocess.Popen(
            [sys.executable, "-m", "triptych.cluster.valkey", str(os.getpid()), str(socket)],
            stdout=subprocess.DEVNULL,
        )
        exits.callback(server.wait)
        exits.callback(server.kill)
        urls = {
            "memory": "memory:",
            "shared memory": f"shm://{shared}/store",
            "Redis": f"redis+unix://{socket}",
        }
        yield {
            name: exits.enter_context(closing(open_store(url, seal=SEAL, ttl_seconds=600)))
            for name, url in urls.items()
        }


def measure(
    what: str, one_round: Mapping[str, Callable[[], Seconds]], rounds: int
) -> Sequence[Row]:
    """Lines of the table, three or two for each store."""
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(WARM_UP_ROUNDS + rounds):
        for store, measured in one_round.items():
            for cache, taken in measured().items():
                if number >= WARM_UP_ROUNDS:
                    times.setdefault((store, cache), []).append(1000 * taken)
    return [row(what, *where, found) for where, found in times.items()]


def row(what: str, store: str, cache: str, milliseconds: Sequence[float]) -> Row:
    """One line of the table."""
    low, median, high = statistics.quantiles(milliseconds, n=4)
    return {
        "what": what,
        "store": store,
        "cache": cache,
        "median ms": median,
        "quartiles ms": f"{low:.3g} to {high:.3g}",
    }


def main() -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    told = parser.parse_args()
    set_up_torch(1)
    torch.manual_seed(0)
    model = load_encoder(told.model, None, ElementType.FLOAT32, "cpu")
    with stores() as opened:
        encoding = {name: Encoding(model, store).round for name, store in opened.items()}
        lines = [*measure("the encode stage, demo model", encoding, told.rounds)]
        caches = {name: store.cache for name, store in opened.items() if store.cache is not None}
        for what, shapes in PROMPTS.items():
            keeping = {name: Keeping(cache, shapes).round for name, cache in caches.items()}
            lines += measure(what, keeping, told.rounds)
    notes = [each.format(rounds=told.rounds, warm_up=WARM_UP_ROUNDS) for each in NOTES]
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        notes.append("Scheduled before all else that the machine did.")
    print(write("conditioning_cache", "What remembering prompts saves", lines, notes))


if __name__ == "__main__":
    main()
