"""A sample of `make fuzz`, the same every time."""

from collections.abc import Iterator

import pytest

from tests.fuzz.campaign import Target, run
from tests.fuzz.documented import documented_reasons
from tests.fuzz.targets import local_targets
from triptych.domain import errors
from triptych.domain.errors import ConfigurationError, TriptychError

SAMPLE = 100


@pytest.fixture(scope="module")
def targets() -> Iterator[list[Target]]:
    with local_targets() as every:
        yield every


def test_whatever_comes_is_taken_or_refused_as_documented(targets: list[Target]) -> None:
    for each in targets:
        outcome = run(each, SAMPLE, number=1)
        assert outcome.counts.total() == SAMPLE


def test_a_whole_run_has_more_than_a_hundred_thousand_inputs(targets: list[Target]) -> None:
    assert sum(each.whole for each in targets) > 100_000


def test_every_error_but_a_defect_and_their_bases_is_in_the_table_of_errors() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    raised = {
        f"{each.status} {each.reason}"
        for each in kinds
        if issubclass(each, TriptychError) and not each.__subclasses__()
    }
    assert raised - {"INTERNAL INTERNAL"} <= documented_reasons()
    assert f"{ConfigurationError.status} {ConfigurationError.reason}" in documented_reasons()
