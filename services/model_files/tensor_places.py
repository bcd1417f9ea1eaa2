"""Whether a component has a place for each of its tensors, told from their headers alone.

Both libraries leave out what they have no place for and draw what is missing at random, and only
warn: scales of quantised weights, for example, or an adapter's tensors.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from services.model_files.weights import weight_files
from triptych.domain.errors import ConfigurationError

Shape = tuple[int, ...]

NOT_NEEDED: Mapping[str, Sequence[str]] = {
    # The head that a causal model has on top of its base.
    "Qwen3Model": (r"^lm_head\.weight$",),
    # The half that writes.
    "T5EncoderModel": (r"^decoder\.", r"^lm_head\.weight$"),
    "UMT5EncoderModel": (r"^decoder\.", r"^lm_head\.weight$"),
    # The half that looks at pictures, and what compares it with this one.
    "CLIPTextModel": (r"^vision_model\.", r"^(visual|text)_projection\.weight$", r"^logit_scale$"),
    # BAGEL's: the head that writes text, and what the encoder reads of the same file.
    "FlowTransformer": (r"^language_model\.(lm_head|model\.norm|model\.embed_tokens)\.weight$",),
    "VisionTower": (r"^vit_model\.vision_model\.head\.",),
    "CLIPTextModelWithProjection": (
        r"^vision_model\.",
        r"^visual_projection\.weight$",
        r"^logit_scale$",
    ),
}
"""By class, tensors that fuller versions of it have and it draws the same without."""

# Tables that every version computes itself; older ones wrote them down.
_COMPUTED = (r"(^|\.)position_ids$", r"(^|\.)rotary_emb\.inv_freq$")


# What a weight file is called that has no shards beside it.
_WHOLE = ("diffusion_pytorch_model", "model")


class Header(NamedTuple):
    """What a weight file says of a tensor."""

    file: Path
    shape: Shape


class Misfits(NamedTuple):
    """Names of tensors that files and configuration do not agree about."""

    missing: Iterable[str]
    unplaced: Iterable[str]
    reshaped: Iterable[str]


def check_places(kind: object, folder: Path) -> None:
    """Checks the tensors of a component against its configuration; none of them is read.

    Args:
        kind: the class of diffusers or transformers that the component will be loaded as.
        folder: its subfolder.

    Raises:
        ConfigurationError: naming the first tensor that is missing, of another shape than the
            configuration says, or without a place.
        Exception: whatever the libraries raise for a configuration that is not the class's.
    """
    library_class: Any = kind
    by_diffusers = hasattr(kind, "load_config")
    files = list(weight_files(folder))
    whole = [file for file in files if file.stem in _WHOLE]
    shards = [file for file in files if file not in whole]
    # Of both, diffusers reads the shards and transformers the whole.
    headers = read_headers(shards or whole if by_diffusers else whole or shards)
    shapes = {name: header.shape for name, header in headers.items()}
    compare = _compared_by_diffusers if by_diffusers else _compared_by_transformers
    found = compare(library_class, folder, shapes)
    lacking = sorted({*found.missing, *found.reshaped})
    if lacking:
        raise ConfigurationError(
            f"{folder}: {len(lacking)} weights are missing or of"
            f" another shape than config.json says, the first is {lacking[0]}"
        )
    refuse_unplaced(library_class.__name__, found.unplaced, headers)


def refuse_unplaced(owner: str, unplaced: Iterable[str], headers: Mapping[str, Header]) -> None:
    """Refuses what a component would be drawn without.

    Args:
        owner: the component's class.
        unplaced: names of tensors without a place, as the files or the library call them.
        headers: all of the component's tensors.

    Raises:
        ConfigurationError: one is not among NOT_NEEDED.
    """
    allowed = re.compile("|".join((*_COMPUTED, *NOT_NEEDED.get(owner, ()))))
    left = sorted(name for name in unplaced if not allowed.search(name))
    if left:
        first = _as_published(left[0], headers)
        raise ConfigurationError(
            f"{headers[first].file}: {first} has no place in a {owner} of this configuration"
            f" ({len(left)} tensors have none); the model would be drawn without it"
        )


def _as_published(name: str, headers: Iterable[str]) -> str:
    """What a tensor is called in its file; a library may have put others before its name."""
    parts = name.split(".")[::-1]

    def alike(published: str) -> int:
        pairs = zip(parts, published.split(".")[::-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    return max(headers, key=alike)


def read_headers(files: Iterable[Path]) -> dict[str, Header]:
    """The tensors of weight files, whose data is not read."""
    headers: dict[str, Header] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                headers[name] = Header(file, tuple(opened.get_slice(name).get_shape()))
    return headers


def _compared_by_diffusers(
    kind: Any,  # noqa: ANN401 - published without types
    folder: Path,
    found: Mapping[str, Shape],
) -> Misfits:
    with torch.device("meta"):
        empty = kind.from_config(kind.load_config(folder, local_files_only=True))
    # Of older names of an attention's weights; it moves keys, whatever their values are.
    found = empty._fix_state_dict_keys_on_load(dict(found))  # noqa: SLF001 - what loading does
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    named = kind._keys_to_ignore_on_load_unexpected or ()  # noqa: SLF001 - as loading does
    by_design = [re.compile(pattern) for pattern in named]
    return Misfits(
        missing=wanted.keys() - found.keys(),
        unplaced=[
            name
            for name in found.keys() - wanted.keys()
            if not any(pattern.search(name) for pattern in by_design)
        ],
        reshaped=[name for name in found.keys() & wanted.keys() if found[name] != wanted[name]],
    )


def _compared_by_transformers(
    kind: Any,  # noqa: ANN401 - published without types
    folder: Path,
    found: Mapping[str, Shape],
) -> Misfits:
    # It renames, splits and joins tensors as it reads them: let it, with empty ones.
    empty = {name: torch.empty(shape, device="meta") for name, shape in found.items()}
    config = kind.config_class.from_pretrained(folder, local_files_only=True)
    _, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=empty,
        device_map="meta",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    reshaped = [name for name, *_ in report["mismatched_keys"]]
    return Misfits(report["missing_keys"], report["unexpected_keys"], reshaped)
