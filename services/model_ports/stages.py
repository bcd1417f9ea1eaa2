"""What a model family offers the three stages. Everything here runs on the stage's own thread.

One instance serves many requests, one call at a time; what belongs to a request lives in its State
alone.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from PIL import Image

from services.model_ports.blocks import BlockLists
from services.model_ports.encoding import Encoding
from services.model_ports.forwards import Acceleration, BranchRunner, Rows
from triptych.domain.generation import GenerationParameters

Tensors = Mapping[str, torch.Tensor]
Images = Sequence[Image.Image]


class EncoderModel(Protocol):
    """Prompts, and for editing models pictures, to conditioning."""

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The loaded modules by their names in the model directory."""
        ...

    def encodings(
        self, parameters: GenerationParameters, images: Images = (), /
    ) -> tuple[Encoding, ...]:
        """What makes up the conditioning the same family's denoiser takes, one row per tensor.

        Nothing is encoded yet, but all of it can be.

        Args:
            parameters: effective values.
            images: the request's pictures, the right way up; none for models that take none.

        Raises:
            InvalidRequest: the prompt has more tokens than the model reads.
        """
        ...


@runtime_checkable
class PromptWriter(Protocol):
    """An encoder whose language model writes prompts, if a request asks it to."""

    def write_prompt(self, parameters: GenerationParameters, images: Images, /) -> str | None:
        """The prompt to draw from instead of the request's own; None if it asks for none.

        The request's seed decides it.
        """
        ...


class DenoiserState(Protocol):
    """One request inside the loop."""

    @property
    def total_steps(self) -> int:
        """Steps from noise to latents."""
        ...

    @property
    def completed_steps(self) -> int:
        """Steps that are done."""
        ...

    @property
    def sigma(self) -> float:
        """The noise level that the next step starts from."""
        ...

    def foreseen(self) -> Self:
        """The same request, but with the latents that its last step was heading for.

        They cost no forward: the step's velocity, followed to the end. After the last step they are
        the finished latents. Of a video it may be one frame alone. It is for `finish`, not for
        `step`.
        """
        ...

    def forget_step(self) -> None:
        """Lets go of what `foreseen` needs of the last step, until the next one."""
        ...

    def save(self) -> Tensors:
        """What the steps so far have made of the request; its conditioning is not in it.

        They are no copies, but no later step changes them: another thread may read them.
        """
        ...

    def restore(self, saved: Tensors) -> None:
        """Goes on from where a request of the same parameters and conditioning was saved.

        Args:
            saved: what `save` gave, maybe with others under further names; copied.

        Raises:
            InvalidRequest: it is not of such a request.
        """
        ...


class DenoiserModel(Protocol):
    """The denoising loop, one step at a time, so that requests can take turns.

    Interleaved requests give the same bits as each would alone.
    """

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The loaded modules by their names in the model directory."""
        ...

    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> DenoiserState:
        """Draws the noise and lays out the schedule.

        Args:
            parameters: effective values.
            conditioning: what the encoder gave, and the VAE's latents of input images under the
                names of `image_latents_name`; no view of it may be kept.
        """
        ...

    def step(self, state: DenoiserState) -> None:
        """Advances the request by one step."""
        ...

    def finish(self, state: DenoiserState) -> Tensors:
        """The latents the same family's VAE takes."""
        ...


class CachingState(DenoiserState, Protocol):
    """A request inside the loop of a model whose forwards can be accelerated.

    Attributes:
        acceleration: what its forwards go through.
        branches: what runs the guidance branches of its steps.
    """

    acceleration: Acceleration
    branches: BranchRunner

    @property
    def branch_count(self) -> int:
        """How many guidance branches its steps have at most."""
        ...

    @property
    def steps_by_component(self) -> Mapping[str, int]:
        """How many of the request's steps each transformer takes."""
        ...


@runtime_checkable
class CachingDenoiserModel(Protocol):
    """A denoising loop whose transformers' blocks can be skipped."""

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The transformers by their names in the model directory."""
        ...

    @property
    def block_lists(self) -> BlockLists:
        """Where all of its transformers keep their blocks."""
        ...


@runtime_checkable
class BatchingDenoiserModel(Protocol):
    """A denoising loop whose forwards can be made together with those of other requests.

    All forwards of a step go through the state's `acceleration`, and nothing changes before the
    last of them is done: a step can be left at one and begun again.
    """

    @property
    def rows(self) -> Rows:
        """How forwards of several requests become one."""
        ...


class VaeModel(Protocol):
    """Latents to pictures."""

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The loaded modules by their names in the model directory."""
        ...

    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """The picture, or the layers or frames in their order.

        Pixels stay in this process until they are compressed.
        """
        ...

    def reconstruct(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes pictures and decodes them again, for previews to be fitted to.

        Args:
            pictures: [B, 4, H, W] from -1 to 1; a VAE without an alpha channel takes the first 3.

        Returns:
            Latents [B, C, H / scale, W / scale], normalised as the denoiser sees them, and what
            they decode to, [B, 3 or 4, H, W]; of a video VAE those of one latent frame.
        """
        ...


@runtime_checkable
class BatchDecodingVae(Protocol):
    """A VAE that decodes the pictures of one request as a batch."""

    @property
    def decodes_batches(self) -> bool:
        """That it does."""
        ...


@runtime_checkable
class ImageEncodingVae(Protocol):
    """A VAE of an editing model."""

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        """To the `latents` the same family's denoiser takes for one of a request's pictures.

        Args:
            parameters: effective values.
            index: which of parameters.images it is.
            image: the picture, the right way up, in the mode its file has.
        """
        ...


def image_latents_name(index: int) -> str:
    """What the latents of one of a request's pictures are called among its conditioning."""
    return f"image_latents_{index}"
