"""A result, downloaded again."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.integration.client_flavours import FLAVOURS, Flavour, playing
from tests.integration.command import run
from tests.integration.scripted_cluster import (
    JOB_ID,
    PICTURE,
    ScriptedGateway,
    artifact,
    serving,
)
from triptych import ArtifactCorruptedError, NotFoundError, OutOfRangeError
from triptych.v1 import generation_pb2
from triptych.v1.generation_service_pb2 import ArtifactChunk

Chunks = Callable[[int], Iterable[ArtifactChunk]]


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param()


def sound(offset: int) -> Iterator[ArtifactChunk]:
    half = (offset + len(PICTURE)) // 2
    yield ArtifactChunk(artifact=kept(), offset_bytes=offset, data=PICTURE[offset:half])
    yield ArtifactChunk(offset_bytes=half, data=PICTURE[half:])


def kept() -> generation_pb2.Artifact:
    described = artifact()
    described.expire_time.FromSeconds(1_900_000_000)
    return described


def gateway(chunks: Chunks = sound) -> ScriptedGateway:
    scripted = ScriptedGateway(playing())
    scripted.artifacts[JOB_ID] = chunks
    return scripted


async def test_a_result_is_downloaded_whole_and_described(flavour: Flavour) -> None:
    async with serving(gateway()) as target:
        download = await flavour.download(target, JOB_ID)
    assert (download.offset, download.data) == (0, PICTURE)
    assert download.artifact.size_bytes == len(PICTURE)
    assert download.artifact.expire_time == 1_900_000_000


@pytest.mark.parametrize("offset", [1, 5000, len(PICTURE)])
async def test_a_download_goes_on_where_another_broke_off(flavour: Flavour, offset: int) -> None:
    async with serving(gateway()) as target:
        download = await flavour.download(target, JOB_ID, offset=offset)
    assert (download.offset, download.data) == (offset, PICTURE[offset:])


async def test_what_is_not_there_is_not_found_and_what_lies_beyond_its_end_is_out_of_range(
    flavour: Flavour,
) -> None:
    async with serving(gateway()) as target:
        with pytest.raises(NotFoundError, match="'nothing' is not here"):
            await flavour.download(target, "nothing")
        with pytest.raises(OutOfRangeError):
            await flavour.download(target, JOB_ID, offset=len(PICTURE) + 1)
        with pytest.raises(ValueError, match="offset is -1; allowed are 0 to"):
            await flavour.download(target, JOB_ID, offset=-1)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([ArtifactChunk(data=PICTURE)], "bytes without saying of what"),
        ([ArtifactChunk(artifact=kept(), data=PICTURE[:-1])], "ended at byte 10239; announced"),
        ([ArtifactChunk(artifact=kept(), data=PICTURE[::-1])], "arrived with checksum"),
        ([ArtifactChunk(artifact=kept(), offset_bytes=1)], "continued at byte 1; expected was 0"),
    ],
    ids=["undescribed", "short", "changed", "misplaced"],
)
async def test_bytes_that_are_not_those_announced_are_refused(
    flavour: Flavour, chunks: list[ArtifactChunk], said: str
) -> None:
    async with serving(gateway(lambda offset: chunks)) as target:
        with pytest.raises(ArtifactCorruptedError, match=said):
            await flavour.download(target, JOB_ID)


async def test_the_command_writes_what_it_downloads(tmp_path: Path) -> None:
    output = tmp_path / "again.png"
    async with serving(gateway()) as target:
        told = ("download", JOB_ID, "--target", target, "--output", str(output))
        ended = await run(*told)
        missing = await run("download", "nothing", "--target", target, "--output", str(output))
    assert (ended.code, ended.out.strip()) == (0, str(output))
    assert output.read_bytes() == PICTURE
    assert missing.code == 3
    assert "is not here (any more)" in missing.err
