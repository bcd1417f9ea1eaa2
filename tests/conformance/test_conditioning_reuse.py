"""What is read from the conditioning cache against what is encoded: the same bits, or no hit."""

from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
import torch
from pydantic import SecretStr

from services.domain.tensor_ref import Seal
from services.loaded_models.conditioning_encoder import ENCODES_ALL, ConditioningEncoder
from services.model_ports.encoding import Encoding
from services.model_ports.stages import ImageEncodingVae
from services.tensor_store.tensor_store import open_store
from tests.conformance.gallery import Gallery
from tests.conformance.pictures import encoded_of, pictures_of
from tests.conformance.references import Reference
from tests.conformance.split_stages import TENANT, Split
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationParameters


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Split:
    return gallery.split(reference, ElementType.FLOAT32)


@pytest.fixture
def remembers() -> Iterator[ConditioningEncoder]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield ConditioningEncoder(store.open_cache(1 << 30, 60))


def asked(split: Split, reference: Reference) -> Iterator[GenerationParameters]:
    """Requests that differ in one field from the last, as far as the model has it."""
    multiple = split.encoder.loaded.model.capabilities.size_multiple
    for case in reference.cases:
        wanted = split.parameters(**case)
        changes: list[dict[str, object]] = [
            {},
            {"seed": wanted.seed ^ 1},
            {"prompt": "two blue squares"},
            {"negative_prompt": "fog"},
            {"width": wanted.width + multiple},
            {"height": wanted.height + multiple},
            {"steps": wanted.steps + 1},
            {"guidance_scale": wanted.guidance_scale + 1},
            {"images": [1]},
            {"images": [1, 0]},
            {"images": [0, 1, 2]},
        ]
        for change in changes:
            with suppress(InvalidRequest):
                yield split.parameters(**{**case, **change})


def encodings(split: Split, parameters: GenerationParameters) -> Iterator[tuple[Encoding, ...]]:
    """Of the encoder, then of the VAE, one picture at a time."""
    pictures = pictures_of(parameters)
    yield split.encoder.model.encodings(parameters, pictures)
    for index, picture in enumerate(pictures):
        assert isinstance(split.vae.model, ImageEncodingVae)
        yield (split.vae.model.image_encoding(parameters, index, picture),)


def encoded(
    encoder: ConditioningEncoder, parameters: GenerationParameters, made: tuple[Encoding, ...]
) -> tuple[dict[str, torch.Tensor], tuple[int, int]]:
    """The tensors, and how many parts were looked up and found."""
    pictures = dict(enumerate(encoded_of(parameters)))
    tensors, reuse = encoder.encode(made, TENANT, pictures)
    return tensors, (sum(each.looked_up for each in reuse), sum(each.reused for each in reuse))


def test_whatever_is_remembered_a_request_gets_the_bits_that_are_encoded_for_it(
    split: Split, reference: Reference, remembers: ConditioningEncoder
) -> None:
    for parameters in asked(split, reference):
        for made in encodings(split, parameters):
            expected, _ = encoded(ENCODES_ALL, parameters, made)
            found, _ = encoded(remembers, parameters, made)
            assert found.keys() == expected.keys()
            for name, each in expected.items():
                assert torch.equal(found[name], each), (name, parameters)


def test_a_request_that_is_repeated_is_remembered_whole(
    split: Split, reference: Reference, remembers: ConditioningEncoder
) -> None:
    for case in reference.cases:
        parameters = split.parameters(**case)
        for made in encodings(split, parameters):
            encoded(remembers, parameters, made)
            _, (looked_up, reused) = encoded(remembers, parameters, made)
            assert looked_up == reused == len(made) > 0


def test_another_seed_and_another_number_of_steps_encode_no_prompt_again(
    split: Split, reference: Reference, remembers: ConditioningEncoder
) -> None:
    for case in reference.cases:
        for change in ({}, {"seed": 8}, {"steps": split.parameters(**case).steps + 1}):
            parameters = split.parameters(**{**case, **change})
            made, *_ = encodings(split, parameters)
            _, (looked_up, reused) = encoded(remembers, parameters, made)
            assert not change or looked_up == reused
