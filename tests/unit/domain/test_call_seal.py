import pytest

from triptych.domain.call_seal import WINDOW_SECONDS, CallSeal
from triptych.domain.errors import CallRefused

METHOD = "/triptych.v1.StageService/Drain"


class Clock:
    """Stands still unless a test moves it."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("late", [0.0, WINDOW_SECONDS - 1, 1 - WINDOW_SECONDS])
def test_a_signature_holds_for_a_while_whichever_clock_is_ahead(late: float) -> None:
    clock = Clock()
    signature = CallSeal("s" * 32, clock=clock).sign(METHOD, b"arguments")
    clock.now += late
    CallSeal("s" * 32, clock=clock).check(METHOD, b"arguments", signature)


@pytest.mark.parametrize("late", [WINDOW_SECONDS + 1, -WINDOW_SECONDS - 1])
def test_a_signature_of_another_time_is_refused(late: float) -> None:
    clock = Clock()
    signature = CallSeal("s" * 32, clock=clock).sign(METHOD, b"")
    clock.now += late
    with pytest.raises(CallRefused, match="allowed are 60 s"):
        CallSeal("s" * 32, clock=clock).check(METHOD, b"", signature)


def test_a_signature_that_was_used_is_remembered_as_long_as_it_would_hold() -> None:
    clock = Clock()
    seal = CallSeal("s" * 32, clock=clock)
    signature = seal.sign(METHOD, b"")
    seal.check(METHOD, b"", signature)
    clock.now += WINDOW_SECONDS
    seal.check(METHOD, b"", seal.sign(METHOD, b""))
    with pytest.raises(CallRefused, match="used before"):
        seal.check(METHOD, b"", signature)


@pytest.mark.parametrize(
    ("method", "arguments", "secret"),
    [
        (METHOD, b"others", "s" * 32),
        ("/triptych.v1.TensorStoreService/Release", b"", "s" * 32),
        (METHOD, b"", "t" * 32),
    ],
)
def test_a_signature_is_of_one_method_its_arguments_and_one_secret(
    method: str, arguments: bytes, secret: str
) -> None:
    signature = CallSeal("s" * 32).sign(METHOD, b"")
    with pytest.raises(CallRefused, match="not this cluster's"):
        CallSeal(secret).check(method, arguments, signature)


@pytest.mark.parametrize("signature", ["", "1:2:3", "x" * 10_000])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(CallRefused, match="must be signed with the cluster's secret"):
        CallSeal("s" * 32).check(METHOD, b"", signature)
