"""`--cache`, read."""

from dataclasses import fields
from typing import Annotated, Final

import typer

from triptych.domain.acceleration import Cache, CacheDit, NoCache, TeaCache

_KINDS: Final = {"none": NoCache, "tea_cache": TeaCache, "cache_dit": CacheDit}
# What a number right after the method sets.
_SHORT: Final = {"tea_cache": "rel_l1_thresh", "cache_dit": "residual_diff_threshold"}
_FLOATS: Final = frozenset({*_SHORT.values(), "max_accumulated_residual_diff_threshold"})
_WORDS: Final = frozenset({"scm_mask_policy", "scm_policy"})
_SWITCHES: Final = {"true": True, "false": False}

CacheText = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="METHOD[=THRESHOLD][,NAME=VALUE...]",
        help="How to reuse work between steps: none; tea_cache=0.2;"
        " cache_dit=0.24,max_warmup_steps=8,taylorseer_order=1,scm_mask_policy=fast, and so on.",
        rich_help_panel="Speed",
    ),
]


def read_cache(text: str | None) -> Cache | None:
    """The cache a person asked for.

    Raises:
        typer.BadParameter: it cannot be read; the message says what can.
    """
    if text is None:
        return None
    first, *others = text.split(",")
    method, given_one, threshold = first.partition("=")
    if method not in _KINDS:
        raise _bad(f"method is {method!r}; allowed are {', '.join(_KINDS)}")
    named = [part.partition("=")[::2] for part in others]
    if given_one:
        if method not in _SHORT:
            raise _bad(f"{method} has no threshold")
        named.append((_SHORT[method], threshold))
    given = dict(named)
    if len(given) < len(named):
        raise _bad(f"{text} says something twice; allowed is each option once")
    kind = _KINDS[method]
    allowed = {option.name for option in fields(kind)} - {"kind"}
    if unknown := sorted(given.keys() - allowed):
        known = ", ".join(sorted(allowed)) or "none"
        raise _bad(f"{method} has no {', '.join(unknown)}; allowed are {known}")
    values: dict[str, object] = {name: _value(name, value) for name, value in given.items()}
    return kind(**values)  # type: ignore[no-any-return]


def cache_text(cache: Cache) -> str:
    """What a person would write to ask for these effective options."""
    given = {option.name: getattr(cache, option.name) for option in fields(cache)}
    method = given.pop("kind")
    parts = [method]
    if method in _SHORT:
        parts = [f"{method}={given.pop(_SHORT[method])}"]
    for name, value in given.items():
        if isinstance(value, bool):
            parts.append(f"{name}={str(value).lower()}")
        elif isinstance(value, tuple | list):
            parts += [f"{name}={':'.join(map(str, value))}"] if value else []
        elif value is not None:
            parts.append(f"{name}={value}")
    return ",".join(parts)


def _value(name: str, text: str) -> object:
    try:
        if name == "coefficients":
            return tuple(float(each) for each in text.split(":"))
        if name == "compute_last_step":
            return _SWITCHES[text]
        if name in _WORDS:
            return text
        return float(text) if name in _FLOATS else int(text)
    except (ValueError, KeyError) as error:
        kinds = {
            "coefficients": "numbers with : between them",
            "compute_last_step": "true or false",
        }
        kind = kinds.get(name, "a number" if name in _FLOATS else "a whole number")
        raise _bad(f"{name} is {text!r}; allowed is {kind}") from error


def _bad(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--cache")
