"""What calibration records of a model, against its step events and an independent look."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from denoiser_service.rank.commands import Stepped
from denoiser_service.rank.stage import DenoiseStage
from services.tuning.painter import Painter
from services.tuning.polynomial import IDENTITY, fit_polynomial
from services.tuning.recording import record
from services.tuning.subjects import Subjects
from tests.conformance.gallery import Gallery
from tests.conformance.pictures import ENCODED
from tests.conformance.references import Reference, references
from tests.conformance.split_stages import Split
from triptych.domain.acceleration import NO_CACHE, TeaCache
from triptych.domain.element_type import ElementType
from triptych.domain.family_options import FamilyOptions

STEPS = 7


def painter_of(split: Split) -> Painter:
    return Painter(split.encoder, split.denoiser, split.vae, split.store, "processor")


def subjects_for(split: Split, reference: Reference, *prompts: str) -> Subjects:
    model = split.denoiser.loaded.model
    images = ENCODED[: model.capabilities.min_images]
    asked = {**reference.small, "steps": STEPS}
    if "options" in asked:
        asked["options"] = TypeAdapter(FamilyOptions).validate_python(asked["options"])
    return Subjects(model, prompts, images, asked)


def test_every_branch_of_every_transformer_is_recorded(
    gallery: Gallery, reference: Reference
) -> None:
    split = gallery.split(reference, ElementType.FLOAT32)
    painter, subjects = painter_of(split), subjects_for(split, reference, "a circle", "a star")
    recording = record(painter, subjects)

    steps: list[Stepped] = []
    computed = TeaCache(rel_l1_thresh=0.0, coefficients=IDENTITY)
    for number in range(len(subjects.prompts)):
        parameters = subjects.parameters(number, computed)
        painter.draw(parameters, subjects.images, on_step=steps.append)
    signals = sorted(
        each.signal for step in steps for each in step.decisions if each.signal is not None
    )
    branches = {each.branch for step in steps for each in step.decisions}
    assert signals == sorted(signal for each in recording.pairs.values() for signal, _ in each)
    assert {name.partition(" ")[2] for name in recording.pairs} == branches
    assert {name.partition(" ")[0] for name in recording.pairs} == set(
        split.denoiser.model.components
    )
    assert all(output > 0 for each in recording.pairs.values() for _, output in each)
    # The first step of a transformer's branch has none before it.
    assert all(each[0] is None and None not in each[1:] for each in recording.trajectories)
    assert sum(map(len, recording.trajectories)) == sum(len(step.decisions) for step in steps)

    everything = np.array([pair for each in recording.pairs.values() for pair in each])
    assert fit_polynomial(recording.pairs).coefficients == tuple(
        np.polyfit(everything[:, 0], everything[:, 1], 4)
    )


def test_outputs_are_those_of_the_last_block(gallery: Gallery) -> None:
    (reference,) = [each for each in references() if each.model == "qwen-image"]
    split = gallery.split(reference, ElementType.FLOAT32)
    subjects = subjects_for(split, reference, "a circle")
    recording = record(painter_of(split), subjects)

    # What the published head is given after the blocks, in turns by the two branches.
    given: list[np.ndarray] = []
    transformer = split.denoiser.model.components["transformer"]

    def keep(_: object, arguments: tuple[Any, ...]) -> None:
        given.append(arguments[0].double().numpy().copy())

    handle = transformer.norm_out.register_forward_pre_hook(keep)
    try:
        request = split.encoded(subjects.parameters(0, NO_CACHE))
        stage = DenoiseStage(split.denoiser, split.store)
        for _ in range(stage.prepare(request).total_steps):
            stage.step(request.request_id)
    finally:
        handle.remove()
    split.decoded(request.parameters, stage.finish(request.request_id))
    wanted = defaultdict(list)
    for branch, outputs in (("cond", given[::2]), ("uncond", given[1::2])):
        for before, now in pairwise(outputs):
            wanted[f"transformer {branch}"].append(
                np.abs(now - before).mean() / np.abs(before).mean()
            )
    assert recording.pairs.keys() == wanted.keys()
    for name, distances in wanted.items():
        # Means of float32, here of float64.
        assert [output for _, output in recording.pairs[name]] == pytest.approx(distances, rel=1e-5)


def test_recording_leaves_nothing_behind(gallery: Gallery) -> None:
    (reference,) = [each for each in references() if each.model == "qwen-image"]
    split = gallery.split(reference, ElementType.FLOAT32)
    painter, subjects = painter_of(split), subjects_for(split, reference, "a circle")
    before = painter.draw(subjects.parameters(0, NO_CACHE))
    record(painter, subjects)
    after = painter.draw(subjects.parameters(0, NO_CACHE))
    assert all(map(np.array_equal, before.pictures, after.pictures))
    for module in split.denoiser.model.components["transformer"].modules():
        assert not module._forward_hooks
    assert torch.is_grad_enabled()
