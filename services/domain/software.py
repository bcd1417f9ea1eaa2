"""Which releases of what decides on a picture's bits this process runs."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from triptych.domain.receipt import SoftwareVersion

_PACKAGES: Final = ("triptych", "torch", "diffusers", "transformers", "cache-dit", "pillow", "av")


@cache
def software_versions() -> tuple[SoftwareVersion, ...]:
    """Of the packages that are installed; none of them is imported."""
    found = ((name, _version(name)) for name in _PACKAGES)
    return tuple(SoftwareVersion(name, release) for name, release in found if release)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
