"""Which of the combinations are drawn by default, and which by `make test-all`."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import pytest

from tests.conformance.references import references
from triptych.domain.element_type import ElementType

# A processor has no bfloat16 of its own: it takes several times as long as the float32 beside it.
IN_BOTH_TYPES: Final = (
    ElementType.FLOAT32,
    pytest.param(ElementType.BFLOAT16, marks=pytest.mark.exhaustive),
)
"""Of tests whose float32 twin says the same of the code."""

# One runs a branch after the other, the other all of them in one forward.
_WITH_ALL: Final = ("demo", "stable-diffusion-3.5-medium")


def every_model_with(
    argument: str, values: Mapping[str, Any], *, always: Collection[str]
) -> pytest.MarkDecorator:
    """Every model with every value of an argument.

    Args:
        argument: beside `reference`.
        values: by what tests call them.
        always: of which values every model is tested by default; two models are with all.
    """
    return pytest.mark.parametrize(
        ("reference", argument),
        [
            pytest.param(
                reference,
                value,
                id=f"{reference.model}-{name}",
                marks=()
                if name in always or reference.model in _WITH_ALL
                else pytest.mark.exhaustive,
            )
            for reference in references()
            for name, value in values.items()
        ],
    )
