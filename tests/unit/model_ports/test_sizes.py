from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from services.model_files.configuration import configured_size
from services.model_files.directory import ModelDirectory
from services.model_ports.sizes import LatentSpace
from services.numerics.qwen_vision import picture_tokens
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError


@given(width=st.integers(16, 2048), height=st.integers(16, 2048))
def test_a_picture_has_as_many_tokens_as_the_published_processor_makes_of_it(
    width: int, height: int
) -> None:
    rows, columns = (side // 28 for side in smart_resize(height, width, max_pixels=12_845_056))
    assert picture_tokens(width, height) == rows * columns


def test_latents_of_several_pictures_take_their_number_times_the_bytes() -> None:
    space = LatentSpace(channels=16, scale_factor=8)
    assert space.size_bytes(1024, 512, ElementType.BFLOAT16) == 16 * 128 * 64 * 2
    assert space.size_bytes(640, 640, ElementType.FLOAT32, pictures=4) == 4 * 16 * 80 * 80 * 4


@pytest.mark.parametrize("value", ["null", "0", "-1", "1.5", "true", '"8"'])
def test_a_configured_size_that_is_not_a_positive_whole_number_is_refused(
    tmp_path: Path, value: str
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "Drawing"}')
    (tmp_path / "vae").mkdir()
    file = tmp_path / "vae" / "config.json"
    file.write_text(f'{{"z_dim": {value}}}')
    with pytest.raises(ConfigurationError, match=r"config\.json: z_dim is .*, not a positive"):
        configured_size(ModelDirectory(tmp_path), "vae/config.json", "z_dim")
