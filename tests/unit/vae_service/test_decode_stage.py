import io
from collections.abc import Iterator, Mapping
from contextlib import closing

import av
import pytest
import torch
import xxhash
from PIL import Image
from pydantic import SecretStr

from services.domain.stages import DecodeRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import Tensors
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.unit.model_ports.fake_model import LOADED, limited, parameters
from triptych.domain.errors import InvalidRequest, ModelNotFound, TensorNotFound, TriptychError
from triptych.domain.family_options import (
    FamilyOptions,
    LayeredOptions,
    OptionKind,
    OptionLimits,
    VideoOptions,
)
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import LoadedModel, MediaFormat
from vae_service.stage import VaeStage

TENANT = "someone"
REQUEST = "1" * 32


def whole_numbers(field: str, most: int) -> OptionLimits:
    return OptionLimits(
        name=field, kind=OptionKind.INTEGER, minimum=1, maximum=most, step=1, default=1
    )


FILMING = limited(
    media_formats=(MediaFormat.MP4, MediaFormat.PNG_ARCHIVE),
    options=(whole_numbers("video.num_frames", 9), whole_numbers("video.frames_per_second", 60)),
)
LAYERING = limited(
    media_formats=(MediaFormat.PNG_ARCHIVE,), options=(whole_numbers("layered.layers", 9),)
)


class GreyVae:
    """Paints whole pictures in the latents' grey."""

    components: Mapping[str, torch.nn.Module] = {}

    def __init__(self, scale: int = 1, count: int = 1) -> None:
        self._scale = scale
        self._count = count

    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        grey = int(latents["latents"].item())
        size = (parameters.width * self._scale, parameters.height * self._scale)
        return [Image.new("RGB", size, (grey, grey, grey))] * self._count


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


def stage(store: TensorStore, vae: GreyVae, loaded: LoadedModel = LOADED) -> VaeStage:
    return VaeStage(StageModel(loaded, vae), store)


def asked(store: TensorStore, **change: object) -> DecodeRequest:
    latents = store.put({"latents": torch.tensor([77.0])}, tenant=TENANT, request_id=REQUEST)
    return DecodeRequest(REQUEST, TENANT, parameters(**change), latents)


def test_the_artifact_describes_the_bytes_that_come_with_it(store: TensorStore) -> None:
    media = stage(store, GreyVae()).decode(asked(store))
    picture = Image.open(io.BytesIO(media.data))
    assert picture.size == (media.artifact.width, media.artifact.height) == (64, 32)
    assert picture.getpixel((63, 31)) == (77, 77, 77)
    assert media.artifact.size_bytes == len(media.data)
    assert media.artifact.checksum_xxh3 == xxhash.xxh3_64_intdigest(media.data)
    assert media.artifact.num_frames == 1
    assert media.timing.run_seconds > 0
    assert media.timing.queue_seconds == 0


def test_the_artifact_says_in_which_tiles_the_vae_works(store: TensorStore) -> None:
    assert stage(store, GreyVae()).decode(asked(store)).artifact.tile_size == 0
    tiled = VaeStage(StageModel(LOADED, GreyVae()), store, tile_size=256)
    assert tiled.decode(asked(store)).artifact.tile_size == 256


def test_decoding_again_gives_the_same_artifact(store: TensorStore) -> None:
    request = asked(store)
    first, again = (stage(store, GreyVae()).decode(request) for _ in range(2))
    assert (first.artifact, first.data) == (again.artifact, again.data)


def test_a_picture_of_another_size_is_an_error(store: TensorStore) -> None:
    with pytest.raises(
        TriptychError, match=r"drew 1 pictures of \[\(128, 64\)\] pixels instead of 1 of 64 x 32"
    ):
        stage(store, GreyVae(scale=2)).decode(asked(store))


@pytest.mark.parametrize(
    ("media_format", "loaded", "options"),
    [
        (MediaFormat.PNG_ARCHIVE, FILMING, VideoOptions(num_frames=3, frames_per_second=8)),
        (MediaFormat.MP4, FILMING, VideoOptions(num_frames=3, frames_per_second=8)),
        (MediaFormat.PNG_ARCHIVE, LAYERING, LayeredOptions(layers=3)),
    ],
    ids=["frames", "video", "layers"],
)
def test_the_artifact_says_how_many_pictures_it_holds(
    store: TensorStore, media_format: MediaFormat, loaded: LoadedModel, options: FamilyOptions
) -> None:
    request = asked(store, media_format=media_format, options=options)
    artifact = stage(store, GreyVae(count=3), loaded).decode(request).artifact
    assert (artifact.num_frames, artifact.media_format) == (3, media_format)
    assert (artifact.width, artifact.height) == (64, 32)


def test_a_video_is_as_fast_as_the_request_says(store: TensorStore) -> None:
    options = VideoOptions(num_frames=3, frames_per_second=8)
    request = asked(store, media_format=MediaFormat.MP4, options=options)
    media = stage(store, GreyVae(count=3), FILMING).decode(request)
    with av.open(io.BytesIO(media.data)) as video:
        assert video.streams.video[0].average_rate == 8


@pytest.mark.parametrize("drawn", [1, 2, 4])
@pytest.mark.parametrize(
    ("loaded", "options"),
    [
        (FILMING, VideoOptions(num_frames=3, frames_per_second=8)),
        (LAYERING, LayeredOptions(layers=3)),
    ],
    ids=["frames", "layers"],
)
def test_other_than_the_asked_number_of_pictures_is_an_error(
    store: TensorStore, loaded: LoadedModel, options: FamilyOptions, drawn: int
) -> None:
    request = asked(store, media_format=MediaFormat.PNG_ARCHIVE, options=options)
    with pytest.raises(TriptychError, match=f"drew {drawn} pictures of .* instead of 3 of 64 x 32"):
        stage(store, GreyVae(count=drawn), loaded).decode(request)


def test_a_format_that_the_model_does_not_draw_is_refused(store: TensorStore) -> None:
    with pytest.raises(InvalidRequest, match="media_format: is mp4; allowed are png"):
        stage(store, GreyVae()).decode(asked(store, media_format=MediaFormat.MP4))


def test_latents_that_are_gone_are_not_found(store: TensorStore) -> None:
    request = asked(store)
    store.release(request.latents)
    with pytest.raises(TensorNotFound):
        stage(store, GreyVae()).decode(request)


def test_requests_the_model_cannot_do_are_refused(store: TensorStore) -> None:
    with pytest.raises(ModelNotFound):
        stage(store, GreyVae()).decode(asked(store, model="another"))
    with pytest.raises(InvalidRequest, match="width: is 65"):
        stage(store, GreyVae()).decode(asked(store, width=65))
