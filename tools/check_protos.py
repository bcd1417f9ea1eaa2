"""Whether the protos still say what clients of an earlier commit understand.

    python -m tools.check_protos

Compared is what is in the working tree: with the last commit, where the protos were changed since;
otherwise with what they were before the last commit that changed them. No network is needed, and a
clone of any depth will do: one that does not reach so far back has nothing to compare, and says so.
"""

import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROTOS = ("protos", "buf.yaml")


def main(root: Path = ROOT) -> int:
    """The exit code: that of buf."""
    commit = earlier_commit(root)
    if commit is None:
        print("protos: there is no earlier commit here to compare them with")
        return 0
    buf = Path(sys.executable).with_name("buf")
    with tempfile.TemporaryDirectory() as folder:
        archive = _git(root, "archive", commit, *PROTOS)
        assert archive is not None, "a commit that changed the protos has them"
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        command = [str(buf), "breaking", "--against", folder]
        compared = subprocess.run(command, cwd=root, check=False)
    print(f"protos: compared with commit {commit[:12]}")
    return compared.returncode


def earlier_commit(root: Path) -> str | None:
    """What the protos are compared with; None where git has nothing to compare them with."""
    if _git(root, "diff", "--quiet", "HEAD", "--", "protos") is None:
        return _resolved(root, "HEAD")
    changed = _git(root, "log", "-1", "--format=%H", "--", "protos")
    return None if not changed else _resolved(root, f"{changed.decode().strip()}^")


def _resolved(root: Path, name: str) -> str | None:
    found = _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    has_protos = found and _git(root, "cat-file", "-e", f"{name}:protos") is not None
    return found.decode().strip() if found and has_protos else None


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints; None where it fails."""
    ended = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    return ended.stdout if ended.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
