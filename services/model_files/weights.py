"""Finds weight files, and checks them without loading them: minutes of work are for good ones."""

import json
from collections.abc import Iterator
from pathlib import Path

from triptych.domain.errors import ConfigurationError

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_POINTER = b"version https://git-lfs.github.com/spec/"
# They run code when they are read.
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def weight_patterns(subfolder: str) -> tuple[str, ...]:
    """What weight files of a component are called, whichever library reads them.

    Variants (fp16 beside the usual) and pickles are called otherwise.
    """
    return tuple(
        f"{subfolder}/{stem}{shard}.safetensors"
        for stem in _STEMS.values()
        for shard in ("", "-*-of-*")
    )


def check_weights(folder: Path, library: str) -> None:
    """Checks that a component's weights are whole safetensors files, named as its library reads.

    Args:
        folder: the component's subfolder.
        library: "diffusers" or "transformers", as in model_index.json.

    Raises:
        ConfigurationError: weights are missing, pickled or truncated.
    """
    stem = _STEMS.get(library)
    if stem is None:
        allowed = ", ".join(_STEMS)
        raise ConfigurationError(f"{folder}: library {library!r} is unknown; known are {allowed}")
    files = list(_files(folder, stem))
    if not files:
        raise ConfigurationError(_what_is_missing(folder, stem))
    for file in files:
        check_weight_file(file)


def is_weights(file: Path) -> bool:
    """Whether a model's file is one of weights."""
    return file.suffix == ".safetensors"


def weight_files(folder: Path) -> Iterator[Path]:
    """The weight files of a component that are there, whichever library reads them.

    Raises:
        ConfigurationError: an index of shards is none, or names what is not there.
    """
    for stem in _STEMS.values():
        yield from _files(folder, stem)


def _files(folder: Path, stem: str) -> Iterator[Path]:
    whole = folder / f"{stem}.safetensors"
    if whole.is_file():
        yield whole
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        for name in _shards(index):
            yield folder / name


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(f"{index}: is not an index of weight files ({error!r})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigurationError(f"{index}: names {name!r}; allowed are files beside the index")
        if not (index.parent / name).is_file():
            raise ConfigurationError(f"{index}: names {name}, which is missing; fetch it as well")
    return names


def _what_is_missing(folder: Path, stem: str) -> str:
    wanted = f"{stem}.safetensors or {stem}.safetensors.index.json with its shards"
    variants = sorted(file.name for file in folder.glob(f"{stem}*.safetensors"))
    if variants:
        return (
            f"{folder}: holds {', '.join(variants)}, a variant, and not the usual weights; rename"
            f" the variant's files to serve it: needed is {wanted}"
        )
    pickles = sorted(each.name for each in folder.iterdir() if each.suffix in _PICKLES)
    if pickles:
        return f"{folder}: holds {', '.join(pickles)}; only safetensors are loaded: {wanted}"
    return f"{folder}: has no weights; needed is {wanted}"


def check_fetched(file: Path) -> None:
    """Checks that a file is not what git-lfs leaves in the place of one.

    Raises:
        ConfigurationError: it is, or cannot be read.
    """
    try:
        with file.open("rb") as opened:
            beginning = opened.read(len(_POINTER))
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error}") from error
    if beginning == _POINTER:
        raise ConfigurationError(f"{file}: is a pointer of git-lfs, not the file; fetch it again")


def check_weight_file(file: Path) -> None:
    """Checks that a safetensors file is whole.

    Raises:
        ConfigurationError: it is not, or not there.
    """
    # Deferred: a process without the stages' dependencies may still read configurations.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{file}: is not a whole safetensors file ({error}); fetch it again"
        ) from error
