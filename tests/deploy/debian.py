"""Debian's packages: unpacked rather than installed, and as the base of images."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

PYTHON = (3, 11)
"""The version that the base image has."""
_SUITE = "bookworm"
_INCLUDED = "python3-venv,redis-server"


def unpacked(packages: tuple[str, ...], downloads: Path) -> dict[str, str]:
    """Fetches packages, and what they need that is not installed.

    Skips if they are not to be had.

    Args:
        packages: their names.
        downloads: where they stay, packed and unpacked.

    Returns:
        The environment in which their commands work.
    """
    archives, root = downloads / "packages", downloads / "unpacked"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    kept = ("--option", f"Dir::Cache::archives={archives}")
    wanted = ("--download-only", "--yes", "--no-install-recommends", *kept, *packages)
    _fetch(("apt-get", "install", *wanted), os.environ)
    for each in archives.glob("*.deb"):
        subprocess.run(["dpkg", "-x", each, root], check=True)
    usr = root / "usr"
    environment = {
        **os.environ,
        "PATH": f"{usr / 'bin'}:{usr / 'sbin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(usr / "lib" / "python3" / "dist-packages"),
        "DEBOOTSTRAP_DIR": str(usr / "share" / "debootstrap"),
    }
    for nft in (usr / "sbin").glob("ip*tables-nft"):
        # As its installation would.
        link = nft.with_name(nft.name.removesuffix("-nft"))
        link.unlink(missing_ok=True)
        link.symlink_to(nft.name)
        (libraries,) = (usr / "lib").glob("*-linux-gnu")
        environment["LD_LIBRARY_PATH"] = str(libraries)
        environment["XTABLES_LIBDIR"] = str(libraries / "xtables")
    return environment


def base_image(downloads: Path, environment: Mapping[str, str]) -> Path:
    """A file system to import, on which all of the compose file's images can be built.

    Skips if Debian is not to be had.

    Args:
        downloads: where it stays.
        environment: in which `debootstrap` works.
    """
    image, root = downloads / "base.tar", downloads / "base"
    if not image.exists():
        shutil.rmtree(root, ignore_errors=True)
        # What it mounts goes when it ends, however it ends.
        debootstrap = ("unshare", "--mount", "debootstrap", "--variant=minbase")
        _fetch((*debootstrap, f"--include={_INCLUDED}", _SUITE, str(root)), environment)
        packed = image.with_suffix(".partial")
        subprocess.run(["tar", "--create", "--file", packed, "--directory", root, "."], check=True)
        packed.rename(image)
        shutil.rmtree(root)
    return image


def _fetch(command: tuple[str, ...], environment: Mapping[str, str]) -> None:
    ran = subprocess.run(
        list(command),
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        said = " ".join(ran.stdout.splitlines()[-3:])
        pytest.skip(f"Debian's packages are not to be had: `{' '.join(command)}` said: {said}")
