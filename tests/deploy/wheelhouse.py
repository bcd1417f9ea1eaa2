"""The wheels from which images are built without a network."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.deploy.engine import ROOT

_DIRECTORY = ROOT / "deploy" / "docker" / "wheelhouse"


@contextmanager
def collected_wheels() -> Iterator[None]:
    """Has all that the images need where their recipe looks, and takes away what it brought.

    Skips if the wheels are not to be had.
    """
    before = set(_DIRECTORY.glob("*.whl"))
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [
        *described["build-system"]["requires"],
        *described["project"]["dependencies"],
        *described["project"]["optional-dependencies"]["stages"],
        *described["project"]["optional-dependencies"]["s3"],
        # Of redis, before Python 3.11.3: Debian has 3.11.2.
        "async-timeout",
    ]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(_DIRECTORY)]
    command += ["--find-links", str(_DIRECTORY), "--constraint", str(ROOT / "constraints.txt")]
    try:
        ran = subprocess.run([*command, *needed], capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            pytest.skip(f"the images' wheels are not to be had: {ran.stderr.strip()[-500:]}")
        yield
    finally:
        for each in set(_DIRECTORY.glob("*.whl")) - before:
            each.unlink()
