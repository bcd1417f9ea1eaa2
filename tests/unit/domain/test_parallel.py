from dataclasses import replace

import pytest
from pydantic import TypeAdapter, ValidationError

from triptych.domain.parallel import ParallelDegrees, ParallelMethod, ParallelSupport

EVERYTHING = ParallelSupport(methods=tuple(ParallelMethod), attention_heads=24, guidance_branches=2)


def refused(support: ParallelSupport = EVERYTHING, **degrees: int) -> dict[str, str]:
    violations = ParallelDegrees(**degrees).violations(support)
    return {each.field: each.description for each in violations}


def test_ranks_are_the_product_of_the_degrees() -> None:
    degrees = ParallelDegrees(cfg=2, ring=3, ulysses=4)
    assert degrees.ranks == 24
    assert degrees.sequence == 12
    assert ParallelDegrees().ranks == 1


def test_a_request_without_guidance_has_as_many_ranks_with_all_of_them_on_one_sequence() -> None:
    degrees = ParallelDegrees(cfg=2, ring=3, ulysses=4).without_cfg
    assert degrees == ParallelDegrees(ring=6, ulysses=4)
    assert degrees.sequence == 24


@pytest.mark.parametrize("name", ParallelMethod)
def test_degrees_are_one_or_more(name: ParallelMethod) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ParallelDegrees).validate_python({name.value: 0})


def test_what_a_model_supports_is_allowed() -> None:
    assert refused(cfg=2, ring=5, ulysses=8) == {}
    assert refused(ParallelSupport()) == {}


def test_heads_that_cannot_be_shared_out_are_refused_with_the_degrees_that_can() -> None:
    assert refused(ulysses=5) == {
        "ulysses": "is 5; allowed are divisors of the model's 24 attention heads:"
        " 1, 2, 3, 4, 6, 8, 12, 24"
    }


def test_a_method_that_a_model_does_not_have_is_refused_with_those_it_has() -> None:
    support = replace(EVERYTHING, methods=(ParallelMethod.ULYSSES,))
    assert refused(support, ring=2) == {"ring": "is 2; the model's parallel methods are: ulysses"}
    assert "none" in refused(ParallelSupport(), cfg=2)["cfg"]


def test_more_ranks_than_branches_are_refused() -> None:
    assert refused(cfg=3) == {"cfg": "is 3; the model's guidance has at most 2 branches"}
