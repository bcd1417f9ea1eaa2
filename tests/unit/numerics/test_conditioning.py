import pytest
import torch

from services.numerics.conditioning import Shape, take_conditioning
from triptych.domain.errors import TriptychError

CPU = torch.device("cpu")
EXPECTED: dict[str, Shape] = {"prompt_embeds": (1, None, 4), "summary": (1, 2)}


def right() -> dict[str, torch.Tensor]:
    return {"prompt_embeds": torch.ones(1, 3, 4), "summary": torch.ones(1, 2)}


def test_what_is_taken_is_a_copy() -> None:
    came = right()
    taken = take_conditioning(came, EXPECTED, torch.float32, CPU)
    for tensor in came.values():
        tensor.zero_()
    assert {name: tensor.min().item() for name, tensor in taken.items()} == {
        "prompt_embeds": 1.0,
        "summary": 1.0,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"more": torch.ones(1)}, r"holds more, prompt_embeds, summary; .* needs prompt_embeds, s"),
        ({"summary": torch.ones(1, 3)}, r"summary has shape \(1, 3\); this model reads \(1, 2\)"),
        ({"summary": torch.ones(2)}, r"summary has shape \(2,\); this model reads \(1, 2\)"),
        ({"prompt_embeds": torch.ones(1, 0, 4)}, r"\(1, 0, 4\); this model reads \(1, tokens, 4\)"),
        ({"prompt_embeds": torch.ones(2, 3, 4)}, r"\(2, 3, 4\); this model reads \(1, tokens, 4\)"),
        ({"summary": torch.ones(1, 2).double()}, "is torch.float64; .* computes in torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(wrong: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(TriptychError, match=f"^conditioning: .*{message}"):
        take_conditioning({**right(), **wrong}, EXPECTED, torch.float32, CPU)
