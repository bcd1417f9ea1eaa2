"""The published pipelines change pictures with the checkpoints.

Each draws once; what it told its transformer and its text encoder is then told again with another
sign.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.checkpoints import checkpoint
from tests.checkpoints.stock import stock_pipeline
from tests.conformance.small_areas import shrink_areas

SLANT = np.indices((96, 128)).sum(0)
PICTURE = Image.fromarray((SLANT[..., None] * np.array([1, 2, 3]) % 256).astype("uint8"))
REQUESTS: Mapping[str, Mapping[str, object]] = {
    "qwen-image-edit": {"image": PICTURE, "true_cfg_scale": 4.0, "width": 64, "height": 64},
    "qwen-image-edit-2509": {
        "image": [PICTURE, PICTURE.rotate(90)],
        "true_cfg_scale": 4.0,
        "width": 64,
        "height": 64,
    },
    "qwen-image-layered": {
        "image": PICTURE.convert("RGBA"),
        "true_cfg_scale": 4.0,
        "layers": 2,
        "resolution": 640,
    },
    "longcat-image-edit": {"image": PICTURE, "guidance_scale": 4.0},
}
SHAPES = {
    "qwen-image-edit": (1, 64, 64, 3),
    "qwen-image-edit-2509": (1, 64, 64, 3),
    "qwen-image-layered": (1, 2, 64, 96, 4),
    "longcat-image-edit": (1, 112, 160, 3),
}
# The new picture's tokens come first; it has as many or more.
SOME = 16


@pytest.fixture(autouse=True)
def _set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    shrink_areas(monkeypatch)


def first_calls(models: Mapping[str, nn.Module]) -> dict[str, Mapping[str, Any]]:
    """Fills itself, while the models run, with the arguments of each one's first call."""
    calls: dict[str, Mapping[str, Any]] = {}

    def listen(name: str, model: nn.Module) -> None:
        def keep(_: nn.Module, positional: tuple[object, ...], named: dict[str, Any]) -> None:
            assert not positional
            calls.setdefault(name, named)

        model.register_forward_pre_hook(keep, with_kwargs=True)

    for name, model in models.items():
        listen(name, model)
    return calls


def predict(transformer: nn.Module, told: Mapping[str, Any], **changes: object) -> torch.Tensor:
    """What a transformer predicts for some of the new picture's tokens."""
    predicted: torch.Tensor = transformer(**{**told, **changes})[0]
    return predicted[:, :SOME]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean())


@pytest.mark.parametrize("name", REQUESTS)
@torch.no_grad()
def test_an_edit_follows_its_prompt_and_its_pictures(name: str, tmp_path: Path) -> None:
    pipeline = stock_pipeline(checkpoint(name, tmp_path))
    transformer, text_encoder = pipeline.transformer, pipeline.text_encoder
    calls = first_calls({"transformer": transformer, "text_encoder": text_encoder})

    drawn = pipeline(
        prompt="make the circle {red}",
        negative_prompt="blurred",
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator("cpu").manual_seed(7),
        **REQUESTS[name],
    ).images
    pixels = np.asarray(drawn)
    assert pixels.shape == SHAPES[name]
    assert np.isfinite(pixels).all()
    assert pixels.std() > 0.05

    tokens, prompt = (
        calls["transformer"][each] for each in ("hidden_states", "encoder_hidden_states")
    )
    # The old picture comes last, and is a quarter of all tokens or more.
    fourth = tokens.shape[1] // 4
    other_picture = torch.cat([tokens[:, :-fourth], -tokens[:, -fourth:]], dim=1)
    usual = predict(transformer, calls["transformer"])
    for change in ({"encoder_hidden_states": -prompt}, {"hidden_states": other_picture}):
        changed = predict(transformer, calls["transformer"], **change)
        assert difference(changed, usual) > 0.01, list(change)

    seen = calls["text_encoder"]
    if seen.get("pixel_values") is None:
        # Layers come from the latents of the picture; its text is all the encoder reads.
        assert name == "qwen-image-layered"
        return
    read, misread = (
        text_encoder(**{**seen, "pixel_values": pixels}).hidden_states[-1]
        for pixels in (seen["pixel_values"], -seen["pixel_values"])
    )
    assert difference(read, misread) > 0.01
