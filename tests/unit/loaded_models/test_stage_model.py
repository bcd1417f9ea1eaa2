from dataclasses import replace

import pytest

from services.loaded_models.stage_model import StageModel
from tests.unit.model_ports.fake_model import EDITING, LOADED, limited, parameters
from triptych.domain.acceleration import TeaCache
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest, ModelNotFound
from triptych.domain.family_options import LongCatOptions, VideoOptions, switch
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import MediaFormat

IMAGE = ImageDescription(width=64, height=48, size_bytes=1, checksum_xxh3=0)
HELD = StageModel(LOADED, object())
GUIDED = parameters(guidance_scale=4.0, negative_prompt="grey")


@pytest.mark.parametrize("change", [{}, {"guidance_scale": 1.0, "negative_prompt": None}], ids=str)
def test_effective_values_of_the_held_model_pass(change: dict[str, object]) -> None:
    HELD.check(replace(GUIDED, **change))


def test_another_models_request_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="'other' is not served here; served models: fake"):
        HELD.check(parameters(model="other"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"width": 65}, "width"),
        ({"height": 512}, "height"),
        ({"steps": 1}, "steps"),
        ({"guidance_scale": 11.0}, "guidance_scale"),
        ({"guidance_scale": 1.0}, "negative_prompt"),
        ({"negative_prompt": None}, "negative_prompt"),
        ({"dtype": ElementType.BFLOAT16}, "dtype"),
        ({"cache": TeaCache()}, "acceleration.cache"),
        ({"media_format": MediaFormat.MP4}, "media_format"),
        ({"seed": -1}, "seed"),
        ({"images": (IMAGE,)}, "images"),
        ({"options": VideoOptions(num_frames=5)}, "video"),
    ],
    ids=str,
)
def test_what_the_held_model_cannot_do_is_refused_by_field(
    change: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        HELD.check(replace(GUIDED, **change))
    assert [each.field for each in refused.value.violations] == [field]


def test_what_an_editing_model_can_do_passes() -> None:
    StageModel(EDITING, object()).check(parameters(images=(IMAGE,) * 2))
    with pytest.raises(InvalidRequest, match=r"^images: are 0; this model takes 1 to 2"):
        StageModel(EDITING, object()).check(parameters())


def test_options_must_all_be_effective() -> None:
    switched = limited(options=(switch("long_cat.rewrite_prompt", default=False),))
    StageModel(switched, object()).check(parameters(options=LongCatOptions(rewrite_prompt=True)))
    for missing in (None, LongCatOptions()):
        with pytest.raises(InvalidRequest, match=r"^long_cat: lacks values"):
            StageModel(switched, object()).check(parameters(options=missing))
