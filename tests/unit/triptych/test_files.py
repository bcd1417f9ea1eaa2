import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych.cli.app import app
from triptych.whole_file import write_whole


@contextmanager
def _files_of_at_most(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_whole_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    write_whole(target, b"before")
    with _files_of_at_most(100), pytest.raises(OSError, match="too large") as caught:
        write_whole(target, bytes(1000))
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_key_file_that_holds_no_text_holds_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe\x00")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ("models", "--api-key-file", "key"))
    assert result.exit_code == 2
    assert "key holds no key" in result.stderr
