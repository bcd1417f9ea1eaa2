import subprocess
from pathlib import Path

import pytest

from tools import check_protos

_BUF = "version: v2\nmodules:\n  - path: protos\nbreaking:\n  use: [WIRE_JSON]\n"
_PROTO = 'syntax = "proto3";\npackage a.v1;\nmessage A {\n  uint32 b = 1;\n}\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    root = tmp_path / "work"
    (root / "protos" / "a" / "v1").mkdir(parents=True)
    _git(root, "init", "--quiet", "--initial-branch=main")
    (root / "buf.yaml").write_text(_BUF)
    _write(root, _PROTO)
    _commit(root)
    return root


def _git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def _write(root: Path, proto: str) -> None:
    (root / "protos" / "a" / "v1" / "a.proto").write_text(proto)


def _commit(root: Path) -> None:
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message=change")


_BROKEN = _PROTO.replace("uint32 b = 1", "string b = 1")


def test_a_change_that_is_not_committed_is_compared_with_the_last_commit(checkout: Path) -> None:
    _write(checkout, _BROKEN)
    assert check_protos.main(checkout) != 0
    _write(checkout, _PROTO.replace("}", "  uint32 c = 2;\n}"))
    assert check_protos.main(checkout) == 0


def test_a_committed_change_is_compared_with_what_was_before_it(checkout: Path) -> None:
    _write(checkout, _BROKEN)
    _commit(checkout)
    (checkout / "other").write_text("a later commit")
    _commit(checkout)
    assert check_protos.main(checkout) != 0


def test_a_shallow_clone_says_that_it_has_nothing_to_compare(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shallow = checkout.parent / "shallow"
    _git(checkout, "clone", "--quiet", "--depth=1", f"file://{checkout}", str(shallow))
    assert check_protos.main(shallow) == 0
    assert "no earlier commit" in capsys.readouterr().out
    _write(shallow, _BROKEN)
    assert check_protos.main(shallow) != 0
