"""A piece of the conditioning that can be encoded by itself, and so be remembered."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from triptych.domain.conditioning_reuse import ConditioningPart

_Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Encoding:
    """One prompt or one picture that a request has to have encoded.

    Attributes:
        part: what is encoded.
        depends_on: all that decides the tensors beside the model and the pictures: as many values,
            of the same types, whenever a model encodes this part. A seed where one is drawn with.
        compute: the tensors, as the prompt's are called; see `tensors`.
        pictures: which of the request's pictures it reads.
    """

    part: ConditioningPart
    depends_on: tuple[str | int, ...]
    compute: Callable[[], _Tensors]
    pictures: tuple[int, ...] = ()

    @torch.no_grad()
    def tensors(self) -> dict[str, torch.Tensor]:
        """Encodes, on the host in the end: what a device still works on is not done yet."""
        return {name: tensor.cpu() for name, tensor in self.compute().items()}

    def named(self, tensors: _Tensors) -> dict[str, torch.Tensor]:
        """The tensors as they are called among all of the conditioning."""
        prefix = "negative_" if self.part is ConditioningPart.NEGATIVE_PROMPT else ""
        return {prefix + name: tensor for name, tensor in tensors.items()}


def prompt_encodings(
    prompts: Mapping[str, str],
    embed: Callable[[str], _Tensors],
    *depends_on: int,
    pictures: Iterable[int] = (),
) -> tuple[Encoding, ...]:
    """The encodings of prompts that are all read the same way.

    Args:
        prompts: by the request's fields.
        embed: the tensors of a prompt.
        depends_on: what they depend on beside the prompt.
        pictures: which of the request's pictures are read with each.
    """
    return tuple(
        Encoding(
            ConditioningPart(field),
            (prompt, *depends_on),
            partial(embed, prompt),
            tuple(pictures),
        )
        for field, prompt in prompts.items()
    )


def image_encoding(index: int, encode: Callable[[], torch.Tensor], *depends_on: int) -> Encoding:
    """The encoding of one picture to `latents`.

    Args:
        index: which of the request's pictures it is.
        encode: the latents.
        depends_on: what they depend on beside the picture.
    """
    return Encoding(
        ConditioningPart.IMAGE, depends_on, lambda: {"latents": encode()}, pictures=(index,)
    )


def encode_all(encodings: Iterable[Encoding]) -> dict[str, torch.Tensor]:
    """The whole conditioning, remembering nothing."""
    return {
        name: tensor for each in encodings for name, tensor in each.named(each.tensors()).items()
    }
