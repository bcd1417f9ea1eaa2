"""What crosses between the stages against what the families say that crosses."""

from collections.abc import Mapping

import pytest

from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import encode_all
from services.model_ports.sizes import Crossings
from services.model_ports.stages import Tensors, image_latents_name
from tests.conformance.gallery import Gallery
from tests.conformance.pictures import pictures_of
from tests.conformance.references import Reference, guidance, references
from tests.conformance.sampling import IN_BOTH_TYPES
from tests.conformance.split_stages import Split
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationParameters

# What models say of themselves differs even where their code does not.
pytestmark = pytest.mark.parametrize(
    "reference", references(), ids=lambda reference: reference.model
)


@pytest.fixture(params=IN_BOTH_TYPES)
def split(gallery: Gallery, reference: Reference, request: pytest.FixtureRequest) -> Split:
    return gallery.split(reference, ElementType(request.param))


@pytest.fixture
def directory(gallery: Gallery, reference: Reference) -> ModelDirectory:
    return ModelDirectory(gallery.directory(reference))


def said(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    return find_family(directory).spec.crossings(directory, parameters)


def size_bytes(tensors: Tensors) -> int:
    return sum(each.nbytes for each in tensors.values())


def in_as_few_steps_as_possible(split: Split, asked: Mapping[str, object]) -> GenerationParameters:
    fewest = split.denoiser.loaded.model.capabilities.min_steps
    return split.parameters(**{**asked, "steps": fewest})


def test_latents_and_pixels_have_the_bytes_that_the_family_says_and_prompts_no_more(
    split: Split, reference: Reference, directory: ModelDirectory
) -> None:
    for asked in reference.cases:
        parameters = in_as_few_steps_as_possible(split, asked)
        crossings = said(directory, parameters)
        conditioning = split.conditioned(parameters)
        latents = split.denoise(parameters, conditioning)
        pictures = split.vae.model.decode(parameters, latents)
        images = {
            name: conditioning.pop(name)
            for name in map(image_latents_name, range(len(parameters.images)))
        }
        assert size_bytes(conditioning) <= crossings.conditioning_bytes
        assert size_bytes(images) == crossings.image_latents_bytes
        assert size_bytes(latents) == crossings.latents_bytes
        assert sum(len(each.tobytes()) for each in pictures) == crossings.pixels_bytes


def test_the_longest_prompts_have_the_bytes_that_the_family_says(
    split: Split, reference: Reference, directory: ModelDirectory
) -> None:
    limits = split.encoder.loaded.model.capabilities
    fields = ["prompt", *(["negative_prompt"] if limits.supports_negative_prompt else [])]
    asked = {**reference.small, **guidance(limits, 4.0)}
    # One token per digit; fewer digits than tokens, because of what stands around them.
    for length in range(limits.max_prompt_tokens, 0, -1):
        parameters = split.parameters(**asked, **dict.fromkeys(fields, "7" * length))
        try:
            conditioning = encode_all(
                split.encoder.model.encodings(parameters, pictures_of(parameters))
            )
        except InvalidRequest:
            continue
        break
    most = said(directory, parameters).conditioning_bytes
    if parameters.images:
        # The words around pictures are counted as if each of their letters were a token.
        assert 0.98 * most <= size_bytes(conditioning) <= most
    else:
        assert size_bytes(conditioning) == most
