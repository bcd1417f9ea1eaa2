import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.model_files.checksums import Checksums, read_checksums
from triptych.domain.errors import ConfigurationError


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "vae").mkdir(parents=True)
    (path / "index.json").write_bytes(b"{}")
    (path / "vae" / "weights").write_bytes(b"\0" * 3_000_000)
    return path


def manifest(model: Path, *lines: str) -> Path:
    file = model.parent / "SHA256SUMS"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def sound(model: Path) -> Mapping[str, str]:
    return {
        file.relative_to(model).as_posix(): digest(file.read_bytes())
        for file in model.rglob("*")
        if file.is_file()
    }


def files(model: Path) -> list[Path]:
    return [model / "index.json", model / "vae" / "weights"]


def test_files_that_are_as_listed_pass(model: Path) -> None:
    lines = [f"{each}  {name}" for name, each in sound(model).items()]
    Checksums.read(manifest(model, *lines)).check(model, files(model))


def test_sha256sums_binary_marks_and_leading_dots_are_read(model: Path) -> None:
    lines = [f"{each} *./{name}" for name, each in sound(model).items()]
    Checksums.read(manifest(model, *lines)).check(model, files(model))


def test_a_file_that_is_another_is_named_with_what_was_expected_and_found(model: Path) -> None:
    expected = sound(model)
    checksums = Checksums(Path("list"), expected)
    (model / "vae" / "weights").write_bytes(b"\1")
    with pytest.raises(ConfigurationError) as refusal:
        checksums.check(model, files(model))
    for said in (str(model / "vae" / "weights"), expected["vae/weights"], digest(b"\1")):
        assert said in str(refusal.value)


def test_a_file_that_is_not_listed_is_refused_by_name(model: Path) -> None:
    listed = {name: each for name, each in sound(model).items() if name != "index.json"}
    with pytest.raises(ConfigurationError, match=r"does not list index\.json, which would"):
        Checksums(Path("list"), listed).check(model, files(model))


def test_a_file_is_read_once_however_often_it_is_asked_for(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksums = Checksums(Path("list"), sound(model))
    checksums.check(model, files(model))
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("it is read again"))
    checksums.check(model, files(model))


def test_a_file_that_is_gone_is_refused(model: Path) -> None:
    checksums = Checksums(Path("list"), sound(model))
    (model / "index.json").unlink()
    with pytest.raises(ConfigurationError, match=r"cannot read .*index\.json"):
        checksums.check(model, files(model))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2: is ''"),
        ("abc  vae/weights", "line 2: is 'abc"),
        (f"{'0' * 64}\tvae/weights", "line 2"),
        (f"{'0' * 63}G  vae/weights", "line 2"),
        (f"{'0' * 64}  /etc/passwd", "line 2"),
        (f"{'0' * 64}  ../vae/weights", "line 2"),
        (f"\\{'0' * 64}  vae\\nweights", "line 2"),
        (f"{'0' * 64}  index.json", "line 2: names index.json again"),
        (f"{'0' * 64}  ./index.json", "line 2: names index.json again"),
    ],
)
def test_a_line_that_is_not_one_of_sha256sum_is_refused(
    model: Path, line: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Checksums.read(manifest(model, f"{'1' * 64}  index.json", line))


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "list"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="model manifest: cannot read"):
        read_checksums(file)


def test_without_a_manifest_nothing_is_checked() -> None:
    assert read_checksums(None) is None
