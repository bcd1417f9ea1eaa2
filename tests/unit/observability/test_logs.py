import json
import subprocess
import sys
from typing import Any

_PROGRAM = """
import asyncio, logging
from services.observability.logs import bind_request, configure, get_logger

configure("encoder", {level!r}, {log_format!r})
log = get_logger("test")

async def handle(request_id):
    bind_request(request_id)
    await asyncio.sleep(0)
    log.info("handled", number=1)
    logging.getLogger("library").warning("careful %s", "now")

async def main():
    log.debug("quiet")
    await asyncio.gather(handle("a"), handle("b"))
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")

asyncio.run(main())
"""


def _lines(level: str = "info", log_format: str = "json") -> list[str]:
    # In a process of its own: logging is configured once per process.
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(level=level, log_format=log_format)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def _json_lines(level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(level)]


def test_every_line_is_one_json_object_that_names_process_level_and_time() -> None:
    lines = _json_lines()
    assert len(lines) == 5
    for line in lines:
        assert line["process"] == "encoder"
        assert line["level"] in ("info", "warning", "error")
        assert line["timestamp"].endswith("Z")


def test_lines_of_a_request_carry_its_id_and_others_do_not() -> None:
    lines = _json_lines()
    handled = [line["request_id"] for line in lines if line["event"] == "handled"]
    assert sorted(handled) == ["a", "b"]
    assert [line for line in lines if line["event"] == "failed" and "request_id" in line] == []


def test_libraries_write_the_same_kind_of_lines() -> None:
    careful = [line for line in _json_lines() if line["event"] == "careful now"]
    assert sorted(line["request_id"] for line in careful) == ["a", "b"]
    assert {line["level"] for line in careful} == {"warning"}


def test_an_exception_is_part_of_its_line() -> None:
    failed = _json_lines()[-1]
    assert failed["event"] == "failed"
    assert "ZeroDivisionError" in failed["exception"]


def test_the_level_decides_what_is_written() -> None:
    assert {line["level"] for line in _json_lines("error")} == {"error"}
    assert "quiet" in {line["event"] for line in _json_lines("debug")}


def test_the_console_format_is_for_people() -> None:
    assert any("handled" in line and "number" in line for line in _lines(log_format="console"))
