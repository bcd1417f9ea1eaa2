import pytest

from services.gateway.access import Quota, Tenant
from services.gateway.quotas import Quotas
from triptych.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    QuotaExceeded,
    RemoteFailure,
    StageUnavailable,
    TriptychError,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tenant(name: str = "alice", **quota: float) -> Tenant:
    return Tenant(name=name, key_sha256=("0" * 64,), quota=Quota.model_validate(quota))


def refused(quotas: Quotas, who: Tenant, pixel_steps: int = 1) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as caught:
        quotas.take(who, pixel_steps)
    return caught.value


def test_a_tenant_without_limits_is_always_admitted() -> None:
    quotas, who = Quotas(Clock()), tenant()
    for _ in range(1000):
        quotas.take(who, 10**12)


def test_requests_come_back_at_their_rate() -> None:
    clock, who = Clock(), tenant(requests_per_minute=3)
    quotas = Quotas(clock)
    for _ in range(3):
        quotas.take(who, 1)
    wait = refused(quotas, who).retry_after_seconds
    assert wait == pytest.approx(20)
    clock.now += 19
    assert refused(quotas, who).retry_after_seconds == pytest.approx(1)
    clock.now += 1.001
    quotas.take(who, 1)
    refused(quotas, who)


def test_no_more_than_a_minutes_worth_is_saved_up() -> None:
    clock, who = Clock(), tenant(requests_per_minute=2)
    quotas = Quotas(clock)
    quotas.take(who, 1)
    clock.now += 3600
    for _ in range(2):
        quotas.take(who, 1)
    refused(quotas, who)


def test_a_large_request_overdraws_and_is_paid_off() -> None:
    clock, who = Clock(), tenant(pixel_steps_per_minute=1000)
    quotas = Quotas(clock)
    quotas.take(who, 3000)
    error = refused(quotas, who)
    assert "pixel_steps_per_minute is 1000" in str(error)
    assert error.retry_after_seconds == pytest.approx(120, abs=1)
    clock.now += error.retry_after_seconds or 0
    quotas.take(who, 1)


def test_a_rate_below_one_a_minute_admits_one_in_its_time() -> None:
    clock, who = Clock(), tenant(requests_per_minute=0.5)
    quotas = Quotas(clock)
    quotas.take(who, 1)
    assert refused(quotas, who).retry_after_seconds == pytest.approx(120)


@pytest.mark.parametrize(
    "error",
    [
        QueueFull("denoiser", 3, 1.0),
        StageUnavailable("it is down"),
        InvalidRequest.of("prompt", "has too many tokens"),
        RemoteFailure("full", status="RESOURCE_EXHAUSTED", reason="STORE_FULL"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_pixel_steps_that_the_cluster_could_not_take_are_given_back(error: TriptychError) -> None:
    quotas = Quotas(Clock())
    who = tenant(pixel_steps_per_minute=1000, requests_per_minute=3)
    for _ in range(2):
        quotas.take(who, 3000)
        quotas.give_back(who, 3000, error.status)
    quotas.take(who, 1)
    # The requests are not: all three were asked.
    assert "requests_per_minute is 3" in str(refused(quotas, who))


@pytest.mark.parametrize("status", ["INTERNAL", DeadlineExceeded.status])
def test_those_of_other_failures_are_not(status: str) -> None:
    quotas, who = Quotas(Clock()), tenant(pixel_steps_per_minute=1000)
    quotas.take(who, 3000)
    quotas.give_back(who, 3000, status)
    assert "pixel_steps_per_minute is 1000" in str(refused(quotas, who))


def test_of_two_used_up_quotas_the_one_that_lasts_longer_is_told() -> None:
    quotas = Quotas(Clock())
    who = tenant(requests_per_minute=1, pixel_steps_per_minute=1000)
    quotas.take(who, 10_000)
    told = refused(quotas, who)
    assert "pixel_steps_per_minute" in str(told)
    assert told.retry_after_seconds == pytest.approx(540, abs=1)


def test_what_is_undone_was_never_taken() -> None:
    quotas, who = Quotas(Clock()), tenant(requests_per_minute=1, pixel_steps_per_minute=1000)
    quotas.take(who, 3000)
    quotas.undo(who, 3000)
    quotas.take(who, 1000)
    refused(quotas, who)
