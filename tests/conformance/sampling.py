"""Which of the combinations are drawn by default, and which by `make test-all`."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import pytest

from tests.conformance.references import Reference, references
from triptych.domain.element_type import ElementType

# A processor has no bfloat16 of its own: it takes several times as long as the float32 beside it.
IN_BOTH_TYPES: Final = (
    ElementType.FLOAT32,
    pytest.param(ElementType.BFLOAT16, marks=pytest.mark.exhaustive),
)
"""Of tests whose float32 twin says the same of the code."""

SAME_CODE: Final = {
    "demo": "qwen-image",
    "flux.1-schnell": "flux.1-dev",
    "longcat-image": "longcat-image-edit",
    "qwen-image-edit": "qwen-image-edit-2509",
}
"""Models all of whose code another one runs as well."""

# One runs a branch after the other, the other all of them in one forward.
_WITH_ALL: Final = ("qwen-image", "stable-diffusion-3.5-medium")


def sampled(reference: Reference) -> Any:
    """A parameter that is left to `make test-all` if another model runs the same code."""
    marks = pytest.mark.exhaustive if reference.model in SAME_CODE else ()
    return pytest.param(reference, id=reference.model, marks=marks)


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
                if (name in always or reference.model in _WITH_ALL)
                and reference.model not in SAME_CODE
                else pytest.mark.exhaustive,
            )
            for reference in references()
            for name, value in values.items()
        ],
    )
