"""Valid cache profiles, for tests to vary."""

from datetime import UTC, datetime

from services.loaded_models.cache_profile import (
    CacheProfile,
    Calibration,
    Conditions,
    Fit,
    Measurement,
    ProfiledModel,
    TunedDefault,
)
from triptych.domain.acceleration import CacheDit, TeaCache
from triptych.domain.element_type import ElementType

COEFFICIENTS = (0.0, 0.0, 0.0, 1.5, 0.25)
DEFAULT = CacheDit(max_warmup_steps=3, taylorseer_order=1)
CONDITIONS = Conditions(
    made=datetime(2026, 1, 2, tzinfo=UTC),
    version="0.1.0",
    dtype=ElementType.FLOAT32,
    device="cpu",
    threads=1,
    clock="processor",
    prompts=2,
    steps=10,
    width=128,
    height=128,
    guidance_scale=4.0,
)
MEASURED = Measurement(
    cache=TeaCache(coefficients=COEFFICIENTS),
    speedup=2.0,
    smallest_speedup=1.5,
    largest_speedup=2.5,
    reused_share=0.5,
    min_psnr=30.0,
    median_psnr=None,
    min_ssim=0.9,
    median_ssim=1.0,
)
FIT = Fit(
    coefficients=(1.0, 2.0, 3.0, 4.0, 5.0),
    r_squared=0.75,
    pairs=36,
    r_squared_by_branch={"transformer cond": 0.8, "transformer uncond": 0.5},
)


def profile(model: ProfiledModel) -> CacheProfile:
    """With coefficients and a default that takes at least eight steps."""
    return CacheProfile(
        model=model,
        tea_cache=Calibration(
            conditions=CONDITIONS,
            polynomial="identity",
            coefficients=COEFFICIENTS,
            fit=FIT,
            measurements=(MEASURED,),
        ),
        default=TunedDefault(
            conditions=CONDITIONS, cache=DEFAULT, min_psnr=28.0, measurements=(MEASURED,)
        ),
    )
