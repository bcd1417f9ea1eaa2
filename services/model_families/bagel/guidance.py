"""How BAGEL combines what it would draw with, without the prompt, and without the image.

Velocities are [1, N, F]: N tokens of F values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from services.model_ports.forwards import CONDITIONAL

WITHOUT_TEXT, WITHOUT_IMAGE = "without_text", "without_image"
"""Guidance branches beside the wanted one."""

# Published: keeps the quotient of lengths finite.
_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Guidance:
    """One request's.

    Attributes:
        text_scale: how far to go from the velocity without the prompt; 1 leaves it out.
        image_scale: how far to go from the velocity without the image; 1 leaves it out, and so
            does, as published, a text_scale of 1.
        editing: whether there is an image. Then each token is kept from growing before the image's
            scale is applied; otherwise the picture as a whole after both.
    """

    text_scale: float
    image_scale: float
    editing: bool

    @property
    def needs_without_text(self) -> bool:
        """Whether the velocity without the prompt is used."""
        return self.text_scale > 1

    @property
    def needs_without_image(self) -> bool:
        """Whether the velocity without the image is used and is another than the wanted one."""
        return self.editing and self.needs_without_text and self.image_scale > 1

    def combine(self, velocities: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The velocity to follow, from those of the branches; the wanted one where it is alone."""
        wanted = velocities[CONDITIONAL]
        without_text = velocities.get(WITHOUT_TEXT)
        if self.editing:
            return self._edited(wanted, without_text, velocities.get(WITHOUT_IMAGE))
        return self._drawn(wanted, without_text)

    def _drawn(self, wanted: torch.Tensor, without_text: torch.Tensor | None) -> torch.Tensor:
        if without_text is None:
            return wanted
        guided = without_text + self.text_scale * (wanted - without_text)
        if self.image_scale > 1:
            # Published: without an image, the branch that lacks it is the wanted one itself.
            guided = wanted + self.image_scale * (guided - wanted)
        return _no_longer(guided, wanted, dim=None)

    def _edited(
        self,
        wanted: torch.Tensor,
        without_text: torch.Tensor | None,
        without_image: torch.Tensor | None,
    ) -> torch.Tensor:
        guided = wanted
        if without_text is not None:
            guided = without_text + self.text_scale * (wanted - without_text)
            guided = _no_longer(guided, wanted, dim=-1)
        if without_image is not None:
            guided = without_image + self.image_scale * (guided - without_image)
        return guided


def _no_longer(velocity: torch.Tensor, than: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Shortens velocities that are longer than others, along an axis or as a whole."""
    length, allowed = (
        torch.linalg.vector_norm(each, dim=dim, keepdim=dim is not None)
        for each in (velocity, than)
    )
    shortened: torch.Tensor = velocity * (allowed / (length + _EPSILON)).clamp(max=1.0)
    return shortened
