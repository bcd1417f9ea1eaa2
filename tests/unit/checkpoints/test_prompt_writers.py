"""Two text encoders also write: LongCat-Image rewrites a prompt, Qwen-Image-Layered a missing one.

Both always choose the likeliest token, so what they write is the same every time.
"""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from tests.checkpoints import checkpoint
from tests.checkpoints.stock import stock_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def longcat(tmp_path_factory: pytest.TempPathFactory) -> DiffusionPipeline:
    return stock_pipeline(checkpoint("longcat-image", tmp_path_factory.mktemp("checkpoints")))


# It is about the libraries and the tests' own checkpoint.
@pytest.mark.exhaustive
def test_a_rewritten_prompt_depends_on_the_prompt_alone(longcat: DiffusionPipeline) -> None:
    giraffe = "A tall giraffe eats 42 fresh leaves in the evening sun; watercolour on {paper}."
    (first,), (again,), (other,) = (
        longcat.rewire_prompt(prompt, CPU) for prompt in (giraffe, giraffe, "a circle")
    )
    assert first == again != other
    assert first.strip()


def test_a_caption_depends_on_the_picture(tmp_path: Path) -> None:
    layered = stock_pipeline(checkpoint("qwen-image-layered", tmp_path))
    captions = {
        layered.get_image_caption(Image.new("RGBA", (224, 224), colour), device=CPU)
        for colour in ("green", "red")
    }
    assert len(captions) == 2
    assert all(captions)
