import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych import AsyncClient, Client, UnavailableError
from triptych.cli.app import app

NOBODY = "127.0.0.1:1"
WRONG = pytest.mark.parametrize("seconds", [-1.0, math.nan])


@pytest.mark.parametrize("seconds", [math.inf, 1e10])
async def test_a_timeout_without_end_is_not_one_that_has_passed(seconds: float) -> None:
    with Client(NOBODY, timeout=seconds) as client:
        with pytest.raises(UnavailableError):
            client.models()
        with pytest.raises(UnavailableError):
            client.generate("a red circle", timeout=seconds)
    async with AsyncClient(NOBODY) as asynchronous:
        with pytest.raises(UnavailableError):
            await asynchronous.models(timeout=seconds)


@WRONG
async def test_what_is_no_time_is_refused(seconds: float) -> None:
    refused = f"timeout is {seconds}; allowed are seconds from 0 on"
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=refused):
            kind(NOBODY, timeout=seconds)
    with Client(NOBODY) as client, pytest.raises(ValueError, match=refused):
        client.generate("a red circle", timeout=seconds)


@WRONG
def test_the_command_refuses_it_too(seconds: float, tmp_path: Path) -> None:
    told = ("--output", f"{tmp_path}/a.png", "--target", NOBODY, "--timeout", str(seconds))
    result = CliRunner().invoke(app, ("generate", "a red circle", *told))
    assert result.exit_code == 2
    # In a frame, which breaks the line.
    assert f"timeout is {seconds}; allowed are" in result.stderr
