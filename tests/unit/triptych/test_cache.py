from dataclasses import replace

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domain import examples
from triptych.cli.cache_option import cache_text, read_cache
from triptych.codec.tables import PARAMETERS, REQUESTS, STATISTICS
from triptych.domain.acceleration import Cache, CacheDit, NoCache, TeaCache
from triptych.domain.cache_statistics import BranchStatistics, CacheStatistics
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationRequest
from triptych.v1 import generation_pb2

numbers = st.floats(0, 1e6)
counts = st.integers(0, 1000)
caches = (
    st.just(NoCache())
    | st.builds(
        TeaCache,
        rel_l1_thresh=numbers,
        coefficients=st.tuples(*[numbers] * 5),
        compute_last_step=st.booleans(),
    )
    | st.builds(
        CacheDit,
        fn_compute_blocks=counts,
        bn_compute_blocks=counts,
        max_warmup_steps=counts,
        max_cached_steps=st.integers(-1, 99),
        max_continuous_cached_steps=st.integers(-1, 99),
        residual_diff_threshold=numbers,
        warmup_interval=counts,
        max_accumulated_residual_diff_threshold=st.none() | numbers,
        taylorseer_order=st.none() | st.integers(1, 4),
        scm_mask_policy=st.sampled_from(["slow", "medium", "fast", "ultra"]),
        scm_policy=st.sampled_from(["dynamic", "static"]),
    )
)


def sent(cache: Cache) -> generation_pb2.GenerationParameters:
    return REQUESTS.write(GenerationRequest(prompt="a cat", cache=cache))


@given(caches)
def test_a_cache_comes_back_from_the_cluster_as_it_was_asked(cache: Cache) -> None:
    understood = REQUESTS.read(sent(cache)).cache
    assert understood is not None
    told = PARAMETERS.write(replace(examples.PARAMETERS, cache=understood))
    assert PARAMETERS.read(told, strict=False).cache == cache


@pytest.mark.parametrize("cache", [NoCache(), TeaCache(), CacheDit()])
def test_what_a_cache_leaves_out_means_the_same_whether_it_is_sent_or_not(cache: Cache) -> None:
    method = sent(cache).acceleration.WhichOneof("cache")
    assert method is not None
    bare = generation_pb2.GenerationParameters()
    getattr(bare.acceleration, method).SetInParent()
    assert REQUESTS.read(bare).cache == REQUESTS.read(sent(cache)).cache == cache


@pytest.mark.parametrize(
    ("cache", "field"),
    [
        (CacheDit(fn_compute_blocks=-1), "acceleration.cache_dit.fn_compute_blocks"),
        (CacheDit(warmup_interval=-1), "acceleration.cache_dit.warmup_interval"),
        (CacheDit(taylorseer_order=-1), "acceleration.cache_dit.taylorseer.order"),
        (CacheDit(scm_mask_policy="odd"), "acceleration.cache_dit.scm.mask_policy"),
        (CacheDit(scm_policy="static"), "acceleration.cache_dit.scm.policy"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_field(cache: Cache, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(cache)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("text", "cache"),
    [
        (None, None),
        ("none", NoCache()),
        ("tea_cache", TeaCache()),
        ("tea_cache=0.2", TeaCache(rel_l1_thresh=0.2)),
        (
            "tea_cache=0.15,coefficients=0:0:0:1:0,compute_last_step=false",
            TeaCache(rel_l1_thresh=0.15, coefficients=(0, 0, 0, 1, 0), compute_last_step=False),
        ),
        ("cache_dit", CacheDit()),
        (
            "cache_dit=0.12,fn_compute_blocks=8,max_cached_steps=-1,scm_mask_policy=fast,"
            "warmup_interval=2,max_accumulated_residual_diff_threshold=1.5",
            CacheDit(
                warmup_interval=2,
                max_accumulated_residual_diff_threshold=1.5,
                residual_diff_threshold=0.12,
                fn_compute_blocks=8,
                max_cached_steps=-1,
                scm_mask_policy="fast",
            ),
        ),
    ],
)
def test_the_command_line_reads_methods_thresholds_and_options(
    text: str | None, cache: Cache | None
) -> None:
    assert read_cache(text) == cache


@pytest.mark.parametrize(
    "cache",
    [
        NoCache(),
        TeaCache(rel_l1_thresh=0.1234567, coefficients=(1e-9, 0, -2.5, 1, 0)),
        TeaCache(rel_l1_thresh=0.0, compute_last_step=False),
        CacheDit(residual_diff_threshold=0.24, max_cached_steps=-1, scm_policy="dynamic"),
        CacheDit(residual_diff_threshold=1.0, taylorseer_order=2, scm_mask_policy="ultra"),
    ],
)
def test_a_cache_is_shown_as_the_command_line_would_read_it(cache: Cache) -> None:
    assert read_cache(cache_text(cache)) == cache


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "method is ''"),
        ("tea", "method is 'tea'; allowed are none, tea_cache, cache_dit"),
        ("none=1", "none has no threshold"),
        ("tea_cache=", "rel_l1_thresh is ''; allowed is a number"),
        ("none=", "none has no threshold"),
        ("tea_cache=much", "rel_l1_thresh is 'much'; allowed is a number"),
        ("tea_cache,fn_compute_blocks=1", "tea_cache has no fn_compute_blocks"),
        ("tea_cache=0.1,rel_l1_thresh=0.2", "says something twice; allowed is each option once"),
        ("cache_dit,warmup_interval=1,warmup_interval=2", "says something twice"),
        ("cache_dit,max_warmup_steps=1.5", "max_warmup_steps is '1.5'; allowed is a whole number"),
        ("tea_cache,compute_last_step=maybe", "compute_last_step is 'maybe'; allowed is true or"),
    ],
)
def test_what_the_command_line_cannot_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        read_cache(text)


def test_statistics_arrive_as_the_cluster_made_them() -> None:
    branches = (BranchStatistics("cond", 20, 30), BranchStatistics("uncond", 25, 25))
    did = CacheStatistics(branches, estimated_speedup=2.5, realised_speedup=None)
    message = STATISTICS.write(did)
    assert (message.computed_forwards, message.reused_forwards) == (45, 55)
    assert STATISTICS.read(message, strict=False) == did


def test_statistics_know_what_share_was_reused() -> None:
    assert CacheStatistics((BranchStatistics("cond", 30, 10),), None, None).reused_share == 0.25
