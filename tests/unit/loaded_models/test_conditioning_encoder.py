from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from services.domain.tensor_ref import Seal
from services.loaded_models.conditioning_encoder import ENCODES_ALL, ConditioningEncoder
from services.model_ports.encoding import Encoding, image_encoding, prompt_encodings
from services.tensor_store.conditioning_cache import ConditioningCache
from services.tensor_store.tensor_store import open_store
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse

PICTURES = {0: b"a picture", 1: b"another"}


class Model:
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.encoded: list[object] = []

    def prompts(self, prompt: str, negative_prompt: str = "", *others: int) -> tuple[Encoding, ...]:
        prompts = {"prompt": prompt, "negative_prompt": negative_prompt}
        return prompt_encodings(prompts, self._read, *others)

    def pictured(self, prompt: str, *pictures: int) -> tuple[Encoding, ...]:
        return prompt_encodings({"prompt": prompt}, self._read, pictures=pictures)

    def image(self, index: int, *others: int) -> tuple[Encoding, ...]:
        return (image_encoding(index, lambda: self._look(index), *others),)

    def _read(self, prompt: str) -> dict[str, torch.Tensor]:
        self.encoded.append(prompt)
        assert not torch.is_grad_enabled()
        return {"prompt_embeds": torch.tensor([len(prompt)])}

    def _look(self, index: int) -> torch.Tensor:
        self.encoded.append(index)
        return torch.tensor([index])


@pytest.fixture
def cache() -> Iterator[ConditioningCache]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        opened = store.open_cache(1 << 20, 60)
        assert opened is not None
        yield opened


@pytest.fixture
def encoder(cache: ConditioningCache) -> ConditioningEncoder:
    return ConditioningEncoder(cache, "this model")


@pytest.fixture
def model() -> Model:
    return Model()


def reuse(part: ConditioningPart, looked_up: int, reused: int) -> ConditioningReuse:
    return ConditioningReuse(part, looked_up, reused)


def test_without_a_cache_all_is_encoded_each_time(model: Model) -> None:
    for _ in range(2):
        conditioning = ENCODES_ALL.encode(model.prompts("a cat", "blurred"), "someone", {})
        assert {name: each.tolist() for name, each in conditioning.tensors.items()} == {
            "prompt_embeds": [5],
            "negative_prompt_embeds": [7],
        }
        assert conditioning.reuse == ()
    assert model.encoded == ["a cat", "blurred"] * 2


def test_a_prompt_and_a_negative_prompt_are_remembered_by_themselves(
    encoder: ConditioningEncoder, model: Model
) -> None:
    first = encoder.encode(model.prompts("a cat", "blurred"), "someone", {})
    second = encoder.encode(model.prompts("a dog!", "blurred"), "someone", {})
    assert model.encoded == ["a cat", "blurred", "a dog!"]
    assert first.reuse == (
        reuse(ConditioningPart.PROMPT, 1, 0),
        reuse(ConditioningPart.NEGATIVE_PROMPT, 1, 0),
    )
    assert second.reuse == (
        reuse(ConditioningPart.PROMPT, 1, 0),
        reuse(ConditioningPart.NEGATIVE_PROMPT, 1, 1),
    )
    assert {name: each.tolist() for name, each in second.tensors.items()} == {
        "prompt_embeds": [6],
        "negative_prompt_embeds": [7],
    }


def test_what_was_a_prompt_is_found_as_a_negative_prompt(
    encoder: ConditioningEncoder, model: Model
) -> None:
    encoder.encode(model.prompts("fog"), "someone", {})
    found = encoder.encode(model.prompts("sun", "fog"), "someone", {})
    assert found.tensors["negative_prompt_embeds"].tolist() == [3]
    assert model.encoded == ["fog", "", "sun"]


def test_a_tenant_does_not_find_what_another_asked_for(
    encoder: ConditioningEncoder, model: Model
) -> None:
    for tenant in ("someone", "another", "someone", "another"):
        encoder.encode(model.pictured("a cat"), tenant, {})
    assert model.encoded == ["a cat", "a cat"]


def test_another_model_does_not_find_it(cache: ConditioningCache, model: Model) -> None:
    for fingerprint in ("this model", "that model", "this model"):
        ConditioningEncoder(cache, fingerprint).encode(model.pictured("a cat"), "someone", {})
    assert model.encoded == ["a cat", "a cat"]


def test_all_that_decides_the_bits_counts(encoder: ConditioningEncoder, model: Model) -> None:
    different = [
        model.pictured("a cat"),
        model.pictured("a cat", 0),
        model.pictured("a cat", 1),
        model.pictured("a cat", 0, 1),
        model.pictured("a cat", 1, 0),
        model.image(0),
        model.image(1),
        model.image(0, 64, 64),
        model.image(0, 64, 65),
    ]
    for each in different:
        encoder.encode(each, "someone", PICTURES)
    assert len(model.encoded) == len(different)
    for each in different:
        encoder.encode(each, "someone", PICTURES)
    assert len(model.encoded) == len(different)


def test_the_same_picture_is_found_whichever_place_it_has_in_a_request(
    encoder: ConditioningEncoder, model: Model
) -> None:
    encoder.encode(model.image(0), "someone", {0: b"a picture"})
    found = encoder.encode(model.image(1), "someone", {1: b"a picture"})
    assert found.reuse == (reuse(ConditioningPart.IMAGE, 1, 1),)
    encoder.encode(model.image(0), "someone", {0: b"another"})
    assert model.encoded == [0, 0]
