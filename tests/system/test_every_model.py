"""Every model through real services, split and fused, against the published pipelines.

Editing models draw at full size here; tests/conformance draws many more cases, smaller ones.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import xxhash
from pydantic import SecretStr, TypeAdapter

import triptych
from services.domain.tensor_ref import Seal
from services.loaded_models.loading import describe_model
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from services.tensor_store.tensor_store import open_store
from tests.conformance.gallery import Gallery
from tests.conformance.pictures import described, encoded_of
from tests.conformance.references import Reference, references
from tests.conformance.split_stages import pixels_of
from tests.system.running_cluster import RunningCluster, running_cluster
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve

REFERENCES = references()
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Case:
    """A request to one model, with the bits that the published pipeline gives for it."""

    parameters: GenerationParameters
    latents_checksum: int
    pixels: bytes


class Studio:
    """What every test draws with, made when it is first asked for, in whichever order that is."""

    def __init__(self, gallery: Gallery, exits: ExitStack) -> None:
        self.gallery = gallery
        self._exits = exits
        self._cases: dict[tuple[str, ElementType], Case] = {}
        self._fused: dict[ElementType, RunningCluster] = {}

    def case(self, reference: Reference, dtype: ElementType) -> Case:
        key = (reference.model, dtype)
        if key not in self._cases:
            self._cases[key] = case_of(self.gallery, reference, dtype)
        return self._cases[key]

    def fused(self, dtype: ElementType) -> RunningCluster:
        """One process that holds all models."""
        if dtype not in self._fused:
            first, *others = [self.gallery.directory(each) for each in REFERENCES]
            more = [flag for each in others for flag in ("--model", str(each))]
            self._fused[dtype] = self._exits.enter_context(
                running_cluster(*more, "--topology", "fused", "--dtype", dtype, model=first)
            )
        return self._fused[dtype]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with ExitStack() as exits:
        store = exits.enter_context(closing(open_store("memory:", seal=seal, ttl_seconds=600)))
        yield Studio(Gallery(tmp_path_factory.mktemp("studio"), store), exits)


def case_of(gallery: Gallery, reference: Reference, dtype: ElementType) -> Case:
    parameters = parameters_of(gallery.directory(reference), reference, dtype)
    torch.set_num_threads(1)
    drawn = reference.draw(gallery.published(reference, dtype), parameters)
    checksum = xxhash.xxh3_64(drawn.latents.contiguous().view(torch.uint8).numpy().data)
    return Case(parameters, checksum.intdigest(), drawn.pixels)


def parameters_of(
    directory: Path, reference: Reference, dtype: ElementType
) -> GenerationParameters:
    """The first case of a reference, resolved without loading the model."""
    opened = ModelDirectory(directory)
    model = describe_model(opened, find_family(opened), None, dtype)
    cases = list(reference.cases)
    if dtype == ElementType.BFLOAT16 and not model.capabilities.min_images:
        # A picture that BAGEL looks at takes two minutes on a processor without bfloat16.
        cases = [case for case in cases if not case.get("images")]
    fields = {"prompt": "a red circle", "seed": 7, **cases[0]}
    images = fields.get("images", model.capabilities.min_images)
    assert isinstance(images, int)
    if images:
        # A step over a megapixel takes seconds.
        fields["steps"] = model.capabilities.min_steps
    fields["images"] = described(images)
    request = TypeAdapter(GenerationRequest).validate_python(fields)
    return resolve(request, model, draw_seed=lambda: 0)


def drawn_by(cluster: RunningCluster, parameters: GenerationParameters) -> triptych.Generation:
    with cluster.client() as client:
        return client.generate(
            parameters.prompt,
            model=parameters.model,
            negative_prompt=parameters.negative_prompt,
            width=parameters.width,
            height=parameters.height,
            steps=parameters.steps,
            guidance_scale=parameters.guidance_scale,
            seed=parameters.seed,
            images=encoded_of(parameters),
            media_format=parameters.media_format.value,
            options=parameters.options,
            timeout=100,
        )


def check(cluster: RunningCluster, case: Case) -> None:
    drawn = drawn_by(cluster, case.parameters)
    assert drawn.latents_checksum_xxh3 == case.latents_checksum
    assert pixels_of(drawn.data) == case.pixels


# In one cluster. By default in float32 all but one of two that draw a megapixel by the same code;
# in bfloat16 all that need no picture: a megapixel takes a minute on a processor that has no
# bfloat16 of its own.
_IN_BFLOAT16_FUSED = {each.model for each in REFERENCES} - {
    "qwen-image-edit",
    "qwen-image-edit-2509",
    "qwen-image-layered",
    "longcat-image-edit",
}
# In a cluster each. By default one of those that share all of their code, and not the demo model,
# which many others draw; of those that draw a megapixel, the one that does so fastest. In bfloat16
# stock parts alone, and parts of two types.
_IN_FLOAT32_SPLIT = {each.model for each in REFERENCES} - {
    "demo",
    "qwen-image-edit",
    "qwen-image-edit-2509",
    "longcat-image-edit",
    "flux.1-schnell",
    "longcat-image",
}
_IN_BFLOAT16_SPLIT = {"qwen-image", "wan2.2-t2v-a14b"}


def each_model(in_float32: Collection[str], in_bfloat16: Collection[str]) -> pytest.MarkDecorator:
    by_default = {ElementType.FLOAT32: in_float32, ElementType.BFLOAT16: in_bfloat16}
    return pytest.mark.parametrize(
        ("reference", "dtype"),
        [
            pytest.param(
                reference,
                dtype,
                id=f"{reference.model}-{dtype}",
                marks=() if reference.model in models else pytest.mark.exhaustive,
            )
            for reference in REFERENCES
            for dtype, models in by_default.items()
        ],
    )


@each_model({each.model for each in REFERENCES} - {"qwen-image-edit"}, _IN_BFLOAT16_FUSED)
def test_a_fused_cluster_of_all_models_draws_what_each_published_pipeline_draws(
    reference: Reference, dtype: ElementType, studio: Studio
) -> None:
    check(studio.fused(dtype), studio.case(reference, dtype))


@each_model(_IN_FLOAT32_SPLIT, _IN_BFLOAT16_SPLIT)
def test_split_services_draw_what_the_published_pipeline_draws(
    reference: Reference, dtype: ElementType, studio: Studio
) -> None:
    case = studio.case(reference, dtype)
    with running_cluster(
        *("--topology", "split", "--dtype", dtype), model=studio.gallery.directory(reference)
    ) as cluster:
        check(cluster, case)
        assert cluster.stored_tensors() == []
