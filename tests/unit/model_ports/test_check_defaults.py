from dataclasses import replace

import pytest

from services.model_ports.spec import check_defaults
from tests.unit.model_ports.fake_model import MODEL, limited
from triptych.domain.errors import ConfigurationError
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import GenerationDefaults

FIT = ImageFit(area_pixels=64 * 64, multiple=16)
FIXED = replace(FIT, overridable=False)


def defaults(**change: object) -> GenerationDefaults:
    return replace(MODEL.capabilities.defaults, **change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"defaults": defaults(guidance_scale=4.0)},
        {"min_images": 1, "max_images": 2, "image_fit": FIT},
        {"min_images": 1, "max_images": 1, "image_fit": FIXED},
        {"min_images": 0, "max_images": 1},
    ],
    ids=str,
)
def test_a_model_that_accepts_its_own_defaults_passes(change: dict[str, object]) -> None:
    check_defaults(limited(**change).model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defaults": defaults(width=65)}, "defaults of fake: width: is 65; allowed are multip"),
        ({"defaults": defaults(steps=1, guidance_scale=11.0)}, "guidance_scale: is 11.0; allow"),
        ({"defaults": defaults(steps=1, guidance_scale=11.0)}, "steps: is 1; allowed are 2 to"),
        ({"min_images": 1, "max_images": 0}, "images: are 1; this model takes none"),
        ({"min_images": 1, "max_images": 1, "image_fit": FIXED, "max_side": 48}, "width: would b"),
    ],
    ids=str,
)
def test_defaults_that_a_model_would_refuse_are_named(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_defaults(limited(**change).model)
