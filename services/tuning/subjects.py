"""What is drawn to measure caches."""

from dataclasses import dataclass
from typing import Any, Final

from services.pictures.input_picture import describe_picture
from services.tuning.settings import MeasuringSettings
from triptych.domain.acceleration import Cache
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.family_options import VideoOptions
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import ModelInfo

DEFAULT_PROMPTS: Final[tuple[str, ...]] = (
    "a lighthouse on a cliff at dusk, waves breaking below",
    "a bowl of ripe peaches on a wooden table",
    "a street in the rain at night, neon signs reflected in the puddles",
    "an old fisherman mending a net",
)


@dataclass(frozen=True, slots=True)
class Subjects:
    """The requests that are drawn with one cache after another; the seed is the prompt's number.

    Attributes:
        images: encoded pictures that every prompt starts from.
        asked: further fields of each request.
    """

    model: ModelInfo
    prompts: tuple[str, ...]
    images: tuple[bytes, ...]
    asked: dict[str, Any]

    def parameters(self, number: int, cache: Cache) -> GenerationParameters:
        """Effective values of one request.

        Raises:
            ConfigurationError: the model refuses it.
        """
        try:
            request = GenerationRequest(
                prompt=self.prompts[number],
                seed=number,
                cache=cache,
                images=tuple(describe_picture("images", each) for each in self.images),
                **self.asked,
            )
            return resolve(request, self.model, draw_seed=lambda: number)
        except InvalidRequest as error:
            raise ConfigurationError(str(error)) from error


def subjects_of(settings: MeasuringSettings, model: ModelInfo) -> Subjects:
    """What a person asked to be drawn.

    Raises:
        ConfigurationError: a file cannot be read, or has no prompt in it.
    """
    asked = settings.model_dump(
        include={"steps", "width", "height", "guidance_scale"}, exclude_none=True
    )
    if settings.num_frames is not None:
        asked["options"] = VideoOptions(num_frames=settings.num_frames)
    try:
        images = tuple(each.read_bytes() for each in settings.image)
        prompts: tuple[str, ...] = DEFAULT_PROMPTS
        if settings.prompts is not None:
            lines = settings.prompts.read_text().splitlines()
            prompts = tuple(each.strip() for each in lines if each.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read what is to be drawn: {error}") from error
    if not prompts:
        raise ConfigurationError(f"prompts: {settings.prompts} has none; write one on each line")
    return Subjects(model, prompts, images, asked)
