import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.artifacts.artifact_store import ArtifactStore
from services.artifacts.directory import ABANDONED_SECONDS, DirectoryPlace
from tests.unit.artifacts import writing_process
from tests.unit.artifacts.artifact_places import Clock
from triptych.domain.errors import ConfigurationError, ResourceExhausted


def key_of(artifact_id: str) -> ArtifactKey:
    return ArtifactKey("tenant", ArtifactKind.RESULT, artifact_id)


def test_processes_that_are_killed_while_they_write_leave_whole_artifacts_alone(
    tmp_path: Path,
) -> None:
    root, drawn = tmp_path / "store", random.Random(5)
    command = [sys.executable, writing_process.__file__, f"file://{root}"]
    processes = [
        subprocess.Popen([*command, f"writer{number}"], stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    committed = []
    for process in processes:
        assert process.stdout is not None
        committed += [process.stdout.readline().strip() for _ in range(drawn.randint(1, 30))]
        process.kill()
        with process:
            committed += process.stdout.read().split()
    store = ArtifactStore(DirectoryPlace(root))
    listed = {each.artifact_id for each in store.list("tenant")}
    assert set(committed) <= listed
    for artifact_id in listed:
        assert b"".join(store.read(key_of(artifact_id))[1]) == writing_process.content(artifact_id)
    now = time.time() + ABANDONED_SECONDS + 1
    later = ArtifactStore(DirectoryPlace(root, lambda: now), clock=lambda: now)
    assert later.sweep() == len(listed)
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_draft_that_is_still_written_to_is_left_alone(tmp_path: Path) -> None:
    clock = Clock(time.time())
    store = ArtifactStore(DirectoryPlace(tmp_path / "store", clock))
    with store.begin(key_of("a"), ttl_seconds=60) as writer:
        clock.now += ABANDONED_SECONDS - 10
        store.sweep()
        writer.write(b"whole")
        writer.commit("image/png")
    assert b"".join(store.read(key_of("a"))[1]) == b"whole"


def test_nobody_else_may_read_the_directory(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = ArtifactStore(DirectoryPlace(root))
    with store.begin(key_of("a"), ttl_seconds=60) as writer:
        writer.commit("image/png")
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o077 for path in [root, *files]} == {0}


@pytest.mark.parametrize("prepare", ["file", "open", "missing"])
def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path, prepare: str) -> None:
    root = tmp_path / "store"
    if prepare == "file":
        root.touch()
        expected = "cannot create .*store: File exists"
    elif prepare == "open":
        root.mkdir(mode=0o755)
        root.chmod(0o755)
        expected = ".* has the mode 0755; it must be 0700"
    else:
        root = root / "deeper"
        expected = "cannot create .*deeper: No such file or directory"
    with pytest.raises(ConfigurationError, match=f"^artifacts: {expected}"):
        DirectoryPlace(root)


def test_a_full_file_system_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(DirectoryPlace(tmp_path / "store"))
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    with full, store.begin(key_of("a"), ttl_seconds=60) as writer, vars(writer._draft)["_file"]:
        monkeypatch.setattr(writer._draft, "_file", full)
        with pytest.raises(ResourceExhausted, match=r"the file system of .* is full"):
            writer.write(b"data")
