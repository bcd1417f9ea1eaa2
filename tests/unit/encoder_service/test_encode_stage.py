import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from encoder_service import stage as module
from encoder_service.replica import EncoderReplica
from encoder_service.stage import EncodeStage
from services.domain.stages import EncodeRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.stage_model import StageModel
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images, Tensors
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import hold_threads
from tests.unit.model_ports.fake_model import EDITING, LOADED, described, parameters
from tests.unit.pictures.drawn import drawn, encoded, turned
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, ModelNotFound, StageLoading
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask

TENANT = "someone"
REQUEST = "1" * 32
UPRIGHT = encoded(drawn())
ON_ITS_SIDE = encoded(drawn("L"), "JPEG", exif=turned(6))
BOTH = (UPRIGHT, ON_ITS_SIDE)


class Reader:
    """Gives the length of the prompt, and notes what it was given."""

    components: Mapping[str, torch.nn.Module] = {}

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Images]] = []

    def encodings(
        self, parameters: GenerationParameters, images: Images = (), /
    ) -> tuple[Encoding, ...]:
        return prompt_encodings(
            {"prompt": parameters.prompt},
            lambda prompt: self._encode(prompt, images),
            pictures=range(len(images)),
        )

    def _encode(self, prompt: str, images: Images) -> Tensors:
        self.seen.append(("encode", prompt, images))
        return {"length": torch.tensor([len(prompt)])}


class Writer(Reader):
    """Writes a prompt before it reads it, if it has anything to write."""

    def __init__(self, written: str | None) -> None:
        super().__init__()
        self._written = written

    def write_prompt(self, parameters: GenerationParameters, images: Images, /) -> str | None:
        self.seen.append(("write", parameters.prompt, images))
        return self._written


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second after the last."""
    seconds: Callable[[], float] = itertools.count(1.0).__next__
    monkeypatch.setattr(module.time, "perf_counter", seconds)


def asked(*pictures: bytes, **change: object) -> EncodeRequest:
    wanted = parameters(images=described(*pictures), **change)
    return EncodeRequest(REQUEST, TENANT, wanted, pictures)


def editing(encoder: Reader, store: TensorStore) -> EncodeStage:
    return EncodeStage(StageModel(EDITING, encoder), store)


def test_what_was_encoded_is_stored_for_its_request(store: TensorStore) -> None:
    encoded = EncodeStage(StageModel(LOADED, Reader()), store).encode(asked(prompt="a cat"))
    with store.get(encoded.conditioning, tenant=TENANT, request_id=REQUEST) as tensors:
        assert {name: each.tolist() for name, each in tensors.items()} == {"length": [5]}
    assert encoded.written_prompt is None
    assert (encoded.timing.stage, encoded.timing.task) == (Stage.ENCODER, StageTask.ENCODE_PROMPT)


async def test_an_encoder_loads_warms_up_and_keeps_conditioning_until_its_requests_deadline(
    store: TensorStore,
) -> None:
    reader = Reader()
    model = StageModel(LOADED, reader)
    worker = StageWorker(Stage.ENCODER, 1, hold_threads, command_seconds=600)
    replica = EncoderReplica(StoreCalls(store), worker)
    with pytest.raises(StageLoading, match="the encoder is loading its model"):
        await replica.encode(asked(), Deadline.after(1000))
    assert replica.load().loading
    stage = EncodeStage(model, store)
    await replica.warm_up(stage, Deadline.after(1000))
    assert [prompt for _, prompt, _ in reader.seen] == ["a picture"]
    replica.hold(stage, (LOADED,))
    assert not replica.load().loading
    encoded = await replica.encode(asked(), Deadline.after(1000))
    assert encoded.conditioning.expire_time > time.time() + 900
    await replica.close()


def test_pictures_come_decoded_the_right_way_up_and_in_the_requests_order(
    store: TensorStore,
) -> None:
    encoder = Reader()
    editing(encoder, store).encode(asked(*BOTH))
    ((_, _, pictures),) = encoder.seen
    assert [(each.mode, each.size) for each in pictures] == [("RGB", (40, 24)), ("L", (24, 40))]
    assert pictures[0].tobytes() == drawn().tobytes()


def test_a_prompt_is_written_first_and_is_the_one_that_is_read(store: TensorStore) -> None:
    encoder = Writer("a cat in oil")
    encoded = editing(encoder, store).encode(asked(UPRIGHT, prompt="a cat"))
    assert [(task, prompt) for task, prompt, _ in encoder.seen] == [
        ("write", "a cat"),
        ("encode", "a cat in oil"),
    ]
    assert encoder.seen[0][2] == encoder.seen[1][2] != ()
    assert encoded.written_prompt == "a cat in oil"


def test_a_request_for_which_nothing_is_written_keeps_its_prompt(store: TensorStore) -> None:
    encoder = Writer(None)
    encoded = editing(encoder, store).encode(asked(UPRIGHT, prompt="a cat"))
    assert encoder.seen[-1][:2] == ("encode", "a cat")
    assert encoded.written_prompt is None


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(("written", "seconds"), [("a cat in oil", 1.0), (None, 0.0)])
def test_the_time_of_writing_is_told_apart(
    store: TensorStore, written: str | None, seconds: float
) -> None:
    timing = editing(Writer(written), store).encode(asked(UPRIGHT)).timing
    assert (timing.queue_seconds, timing.run_seconds, timing.transfer_seconds) == (0.0, 3.0, 1.0)
    assert timing.writing_seconds == seconds


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ((UPRIGHT, UPRIGHT), r"^images\[1\]: is not the picture that was described"),
        ((UPRIGHT,), "^images: are 1; described are 2"),
        ((*BOTH, UPRIGHT), "^images: are 3; described are 2"),
    ],
)
def test_pictures_that_are_not_those_that_were_described_are_refused(
    store: TensorStore, pictures: tuple[bytes, ...], message: str
) -> None:
    request = EncodeRequest(REQUEST, TENANT, parameters(images=described(*BOTH)), pictures)
    with pytest.raises(InvalidRequest, match=message):
        editing(Reader(), store).encode(request)


def test_a_picture_that_was_cut_off_is_refused_before_anything_is_computed(
    store: TensorStore,
) -> None:
    encoder = Writer("a cat")
    with pytest.raises(InvalidRequest, match=r"^images\[0\]: cannot be decoded"):
        editing(encoder, store).encode(asked(UPRIGHT[:-100]))
    assert encoder.seen == []
    assert store.stats().stored_count == 0


def test_requests_the_model_cannot_do_are_refused(store: TensorStore) -> None:
    encoder = Reader()
    with pytest.raises(ModelNotFound):
        editing(encoder, store).encode(asked(UPRIGHT, model="another"))
    with pytest.raises(InvalidRequest, match="images: are 0; this model takes 1 to 2"):
        editing(encoder, store).encode(asked())
    assert encoder.seen == []
