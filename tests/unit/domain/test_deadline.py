import math

import pytest

from triptych.domain.deadline import Deadline
from triptych.domain.errors import DeadlineExceeded


def test_a_deadline_ahead_lets_pass_and_tells_what_is_left() -> None:
    deadline = Deadline.after(1000)
    deadline.check("waiting")
    assert 999 < deadline.remaining_seconds() <= 1000


def test_a_passed_deadline_is_an_error_that_says_what_was_being_done() -> None:
    deadline = Deadline.after(-1)
    assert deadline.remaining_seconds() == 0
    with pytest.raises(DeadlineExceeded, match="the deadline passed while waiting for the vae"):
        deadline.check("waiting for the vae")


def test_an_earlier_deadline_keeps_time_for_its_caller() -> None:
    deadline = Deadline.after(10)
    assert deadline.monotonic_time - deadline.earlier(0.5).monotonic_time == pytest.approx(0.5)


def test_a_deadline_may_be_never() -> None:
    assert Deadline.after(math.inf).remaining_seconds() == math.inf
