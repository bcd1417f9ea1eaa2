"""A rank of a test's group: denoises what it is told on standard input, one JSON line each.

python -m tests.conformance.rank_process RANK PORT
"""

import sys
from contextlib import closing, nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from pydantic import BaseModel, SecretStr
from safetensors.torch import load_file, save_file

from denoiser_service.rank.parallel.mesh import RankMesh
from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.loading import load_denoiser
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import DenoiserModel, image_latents_name
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import set_up_torch
from tests.conformance.double_precision import DoublePrecision, widened, widened_tensors
from tests.conformance.small_areas import shrink_areas
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from triptych.domain.parallel import ParallelDegrees

TIMEOUT = timedelta(minutes=5)
TENANT, REQUEST = "someone", "0" * 32


class Task(BaseModel):
    """What a rank is told.

    Attributes:
        group: a number that grows whenever the degrees change.
        directory: of the model.
        conditioning: file with what the denoiser takes.
        latents: file that the first rank writes them to.
        double: whether to compute in float64.
    """

    group: int
    directory: Path
    degrees: ParallelDegrees
    parameters: GenerationParameters
    conditioning: Path
    latents: Path
    double: bool


class Report(BaseModel):
    """What a rank answers.

    Attributes:
        degrees: how the request was spread.
    """

    degrees: ParallelDegrees
    checksum: int
    decisions: list[list[BranchDecision]]


class Rank:
    """One process of a group that is made anew for other degrees."""

    def __init__(self, number: int, port: int, store: TensorStore) -> None:
        self._number, self._port, self._store = number, port, store
        self._mesh: RankMesh | None = None
        self._group = -1
        self._models: dict[tuple[Path, bool], StageModel[DenoiserModel]] = {}
        self._stages: dict[tuple[Path, bool], DenoiseStage] = {}

    def denoise(self, task: Task) -> Report:
        """Denoises together with the other ranks; alone, as a process that is no rank."""
        if task.degrees.ranks > 1:
            self._join(task.degrees, task.group)
        stage, request = self._stage(task), self._request(task)
        with DoublePrecision() if task.double else nullcontext():
            prepared = stage.prepare(request)
            decisions = [list(stage.step(REQUEST).decisions) for _ in range(prepared.total_steps)]
            finished = stage.finish(REQUEST)
        assert finished.latents is not None
        if self._number == 0:
            with self._store.get(finished.latents, tenant=TENANT, request_id=REQUEST) as tensors:
                save_file(dict(tensors), task.latents)
        self._store.release_request(TENANT, REQUEST)
        return Report(
            degrees=prepared.degrees,
            checksum=finished.latents_checksum_xxh3,
            decisions=decisions,
        )

    def _join(self, degrees: ParallelDegrees, group: int) -> None:
        if self._group == group:
            return
        if self._mesh is not None:
            dist.destroy_process_group()
        store = dist.TCPStore("127.0.0.1", self._port, is_master=False, timeout=TIMEOUT)
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore(str(group), store),
            rank=self._number,
            world_size=degrees.ranks,
            timeout=TIMEOUT,
        )
        self._mesh = RankMesh.build(degrees, TIMEOUT)
        self._group, self._stages = group, {}

    def _stage(self, task: Task) -> DenoiseStage:
        key = task.directory, task.double
        if key not in self._models:
            model = load_denoiser(task.directory, None, ElementType.FLOAT32, "cpu")
            self._models[key] = widened(model) if task.double else model
        if task.degrees.ranks == 1:
            return DenoiseStage(self._models[key], self._store)
        if key not in self._stages:
            self._stages[key] = DenoiseStage(self._models[key], self._store, mesh=self._mesh)
        return self._stages[key]

    def _request(self, task: Task) -> DenoiseRequest:
        tensors = load_file(task.conditioning)
        if task.double:
            tensors = widened_tensors(tensors)
        images = [
            self._store.put(
                {"latents": tensors.pop(image_latents_name(index))},
                tenant=TENANT,
                request_id=REQUEST,
            )
            for index, _ in enumerate(task.parameters.images)
        ]
        conditioning = self._store.put(tensors, tenant=TENANT, request_id=REQUEST)
        return DenoiseRequest(REQUEST, TENANT, task.parameters, conditioning, tuple(images))


def main(number: int, port: int) -> None:
    set_up_torch(1)
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    patch = pytest.MonkeyPatch()
    shrink_areas(patch)
    with closing(open_store("memory:", seal=seal, ttl_seconds=600)) as store:
        rank = Rank(number, port, store)
        for line in sys.stdin:
            report = rank.denoise(Task.model_validate_json(line))
            sys.stdout.write(report.model_dump_json() + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
