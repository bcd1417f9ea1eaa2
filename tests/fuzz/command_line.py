"""What people type."""

import string
from contextlib import redirect_stderr
from dataclasses import fields
from io import StringIO

import typer
from hypothesis import strategies as st

from tests.fuzz.campaign import OK, REFUSED_START, Target, documented
from triptych.cli.cache_option import read_cache
from triptych.cli.family_options import by_guidance, of_one_family
from triptych.cluster.address import Address
from triptych.cluster.errors import ClusterConfigurationError
from triptych.domain.acceleration import CacheDit, TeaCache
from triptych.domain.family_options import FluxOptions, LayeredOptions, VideoOptions
from triptych.domain.generation import GenerationRequest
from triptych.errors import InvalidRequestError
from triptych.request_writer import RequestWriter

_NUMBERS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "-1",
        "8",
        "0.1",
        "nan",
        "inf",
        "1e999",
        "99999999999999999999",
        "\uff11",
        "1_0",
        "true",
    ]
)
_LISTS = st.sampled_from(["1:2:3:4:5", ":", "1:", "nan:1:1:1:1", "1:2"])
_NAMES = st.sampled_from(
    [each.name for kind in (TeaCache, CacheDit) for each in fields(kind)] + ["", "speed"]
)
_VALUES = _NUMBERS | _LISTS | st.sampled_from(["fast", "static"]) | st.text(max_size=5)
_METHODS = st.sampled_from(["none", "tea_cache", "cache_dit", "", "TEA_CACHE"])
_SOUND = (
    *("max_warmup_steps=4", "warmup_interval=2", "max_cached_steps=-1", "fn_compute_blocks=1"),
    *("taylorseer_order=1", "scm_mask_policy=fast", "residual_diff_threshold=0.1"),
)
_INTEGERS = st.none() | st.sampled_from([0, 1, -1, 64, 2**32, 2**63, 2**64])
_FLOATS = st.none() | st.floats()


def cache_target() -> Target:
    """`--cache`, up to the message that would be sent."""
    options = st.lists(st.tuples(_NAMES, _VALUES).map("=".join), max_size=3)
    heads = st.tuples(_METHODS, _VALUES).map("=".join) | _METHODS
    sound = st.lists(st.sampled_from(_SOUND), max_size=3)
    texts = st.one_of(
        st.builds(lambda head, rest: ",".join([head, *rest]), heads, options),
        st.builds(lambda rest: ",".join(["cache_dit=0.12", *rest]), sound),
        st.builds(lambda rest, one: ",".join(["cache_dit", *rest, one]), sound, _VALUES),
        st.builds(lambda value: f"tea_cache={value}", _NUMBERS),
    )

    def attempt(text: str) -> str:
        try:
            cache = read_cache(text)
            RequestWriter(GenerationRequest(prompt="a cat", cache=cache))
        except typer.BadParameter:
            return REFUSED_START
        except InvalidRequestError:
            return documented("INVALID_ARGUMENT INVALID_REQUEST")
        return OK

    return Target("--cache", texts | st.text(string.printable, max_size=30), attempt, 10_000)


def request_target() -> Target:
    """Every other option of a request, as the parser of the command line hands it on."""
    requests = st.builds(
        GenerationRequest,
        prompt=st.text(max_size=10) | st.just("\ud800"),
        model=st.none() | st.text(max_size=10),
        width=_INTEGERS,
        height=_INTEGERS,
        steps=_INTEGERS,
        seed=_INTEGERS,
        guidance_scale=_FLOATS,
        preview_every_steps=_INTEGERS,
        dtype=st.sampled_from([None, "float32", "float64"]),
        media_format=st.sampled_from([None, "png", "gif"]),
        options=st.one_of(
            st.none(),
            st.builds(VideoOptions, num_frames=_INTEGERS, low_noise_guidance_scale=_FLOATS),
            st.builds(LayeredOptions, layers=_INTEGERS, resolution=_INTEGERS),
            st.builds(FluxOptions, true_guidance_scale=_FLOATS),
            st.builds(
                lambda scale, interval: by_guidance(None, scale, interval, None)[1],
                _FLOATS,
                st.none() | st.tuples(st.floats(), st.floats()),
            ),
        ),
    )

    def attempt(request: GenerationRequest) -> str:
        if request.options is not None:
            assert of_one_family(request.options) in {None, request.options}
        try:
            RequestWriter(request)
        except InvalidRequestError:
            return documented("INVALID_ARGUMENT INVALID_REQUEST")
        return OK

    return Target("options of a request", requests, attempt, 8000)


def address_target() -> Target:
    """`--listen` and `--metrics`."""
    hosts = st.sampled_from(["", "127.0.0.1", "[::1]", "::1", "a b", "localhost", "unix"])
    texts = st.tuples(hosts, _NUMBERS).map(":".join) | st.text(max_size=12)

    def attempt(text: str) -> str:
        with redirect_stderr(StringIO()):
            try:
                Address.parse(text)
            except ClusterConfigurationError:
                return REFUSED_START
        return OK

    return Target("addresses", texts, attempt, 3000)
