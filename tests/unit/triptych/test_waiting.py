"""How long `triptych generate` waits for a cluster that is starting."""

from typing import Any

import pytest

from triptych.cli import generate as module
from triptych.errors import UnavailableError
from triptych.status import Failure


class Starting:
    """A cluster that loads for so many requests, and what the user is shown meanwhile."""

    def __init__(self, refusals: int, reason: str = "STAGE_LOADING") -> None:
        self.left = refusals
        self.said: list[str] = []
        self._reason = reason

    async def generate(self, prompt: str) -> str:
        if self.left:
            self.left -= 1
            said = "the vae is loading its model; repeat the request later"
            raise UnavailableError(Failure("UNAVAILABLE", self._reason, said))
        return f"a picture of {prompt}"

    def say(self, text: str) -> None:
        self.said.append(text)

    def on_event(self, event: object) -> None:
        raise AssertionError


async def _drawn(cluster: Any, wait: float, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.001)
    return await module._patiently(lambda: cluster.generate("a cat"), wait, cluster)


async def test_a_cluster_that_is_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Starting(3)
    assert await _drawn(cluster, 60.0, monkeypatch) == "a picture of a cat"
    assert cluster.said == ["waiting for the cluster: the vae is loading its model"] * 3


@pytest.mark.parametrize(("wait", "reason"), [(0.0, "STAGE_LOADING"), (60.0, "STAGE_UNAVAILABLE")])
async def test_one_that_is_down_or_takes_too_long_is_not(
    wait: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Starting(1, reason)
    with pytest.raises(UnavailableError):
        await _drawn(cluster, wait, monkeypatch)
    assert cluster.left == 0
