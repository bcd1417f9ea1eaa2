"""As a new user would: `triptych generate` for a picture, an edit, layers and a video.

What comes out is opened by what people open such files with.
"""

import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from tests.checkpoints import checkpoint
from tests.processes import run
from tests.system.running_cluster import RunningCluster, running_cluster
from tests.unit.pictures.drawn import header_of

MODELS = ("flux.1-dev", "qwen-image-edit", "qwen-image-layered", "wan2.2-t2v-a14b")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    folder = tmp_path_factory.mktemp("models")
    first, *others = [checkpoint(name, folder) for name in MODELS]
    more = [flag for each in others for flag in ("--model", str(each))]
    with running_cluster(*more, "--topology", "fused", model=first) as running:
        yield running


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    file = tmp_path / "photograph.jpg"
    across = Image.linear_gradient("L").resize((90, 60))
    Image.merge("RGB", [across, across.rotate(180), across]).save(file)
    return file


def generate(cluster: RunningCluster, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    asked = ("generate", *arguments, "--target", cluster.target, "--json")
    return run("triptych", *asked, seconds=200)


def generated(cluster: RunningCluster, *arguments: str | Path) -> dict[str, Any]:
    done = generate(cluster, *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_picture_is_a_png_of_the_size_that_was_asked(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    file = tmp_path / "picture.png"
    generated(
        *(cluster, "a red circle", "-o", file, "--model", "flux.1-dev"),
        *("--width", "96", "--height", "64", "--steps", "2"),
    )
    with Image.open(file) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (96, 64))


def test_an_edit_has_the_proportions_of_what_it_edits(
    cluster: RunningCluster, tmp_path: Path, photograph: Path
) -> None:
    file = tmp_path / "edited.png"
    told = generated(
        *(cluster, "make it blue", "--image", photograph, "-o", file),
        *("--model", "qwen-image-edit", "--steps", "2", "--guidance", "1"),
    )
    with Image.open(file) as picture:
        assert picture.size == (1248, 832)
    tasks = [each["task"] for each in told["stage_timings"]]
    assert sorted(tasks) == ["decode", "denoise", "encode_images", "encode_prompt"]
    looked_up = {each["part"]: each["looked_up"] for each in told["conditioning_reuse"]}
    assert looked_up == {"prompt": 1, "image": 1}


def test_layers_come_as_pictures_with_an_alpha_channel(
    cluster: RunningCluster, tmp_path: Path, photograph: Path
) -> None:
    file = tmp_path / "layers.zip"
    told = generated(
        *(cluster, "", "--caption-image", "--image", photograph, "--layers", "2", "-o", file),
        *("--model", "qwen-image-layered", "--steps", "2", "--guidance", "1"),
    )
    with zipfile.ZipFile(file) as archive:
        layers = [Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    assert [(each.mode, each.size) for each in layers] == [("RGBA", (768, 512))] * 2
    assert told["written_prompt"]
    (encoder,) = [each for each in told["stage_timings"] if each["task"] == "encode_prompt"]
    assert 0 < encoder["writing_seconds"] <= encoder["run_seconds"]


def test_a_video_has_the_frames_and_the_rate_that_were_asked(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    file = tmp_path / "video.mp4"
    generated(
        *(cluster, "a boat", "-o", file, "--model", "wan2.2-t2v-a14b", "--steps", "2"),
        *("--width", "96", "--height", "64", "--frames", "9", "--fps", "24"),
    )
    with av.open(str(file)) as video:
        (stream,) = video.streams
        assert (stream.codec_context.name, stream.average_rate) == ("h264", Fraction(24))
        frames = [each.to_image() for each in video.decode(stream)]
    assert [each.size for each in frames] == [(96, 64)] * 9


def test_frames_of_a_video_can_be_had_as_they_were_drawn(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    file = tmp_path / "frames.zip"
    generated(
        *(cluster, "a boat", "-o", file, "--model", "wan2.2-t2v-a14b", "--steps", "2"),
        *("--width", "96", "--height", "64", "--frames", "5"),
    )
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [f"{number:04}.png" for number in range(5)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "wan2.2-t2v-a14b", "--frames", "80"), "video.num_frames is 80; allowed are"),
        (("--model", "qwen-image-edit"), "images are 0; this model takes 1"),
        (("--model", "flux.1-dev", "--image", "PICTURE"), "images are 1; this model takes none"),
        (
            ("--model", "qwen-image-edit", "--image", "PICTURE", "--image", "PICTURE"),
            "images are 2; this model takes 1",
        ),
        (("--model", "qwen-image-edit", "--image", "TEXT"), "is not a picture; allowed are PNG"),
        (
            ("--model", "qwen-image-edit", "--image", "BOMB"),
            "has too many pixels; allowed are at most",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_any_work(
    cluster: RunningCluster,
    tmp_path: Path,
    photograph: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    files = {"PICTURE": photograph, "TEXT": tmp_path / "text.png", "BOMB": tmp_path / "bomb.png"}
    files["TEXT"].write_text("not a picture")
    files["BOMB"].write_bytes(header_of(60_000, 60_000))
    suffix = "mp4" if "wan2.2-t2v-a14b" in arguments else "png"
    named = [files.get(each, each) for each in arguments]
    done = generate(cluster, "a boat", "-o", tmp_path / f"out.{suffix}", *named)
    assert done.returncode == 3
    assert said in done.stderr
    assert not (tmp_path / f"out.{suffix}").exists()
