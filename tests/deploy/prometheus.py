"""Prometheus, as the tests run it: with the files of `deploy/`."""

import json
import re
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.helm import CHART, ROOT

RULES = CHART / "files" / "rules.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
_TOOLS = ROOT / "build" / "deploy-tools"
_LISTENING = re.compile(r'msg="Listening on" address=(\S+)')
_READY = "Server is ready to receive web requests"


@cache
def binary(name: str) -> str:
    """`prometheus` or `promtool`: this machine's, or out of Debian's package, unpacked."""
    if found := shutil.which(name):
        return found
    unpacked = _TOOLS / "prometheus"
    if not unpacked.exists():
        if shutil.which("apt-get") is None:
            pytest.skip(f"{name} is not installed, and there is no apt-get to fetch it with")
        _TOOLS.mkdir(parents=True, exist_ok=True)
        fetched = subprocess.run(
            ["apt-get", "download", "prometheus"],
            cwd=_TOOLS,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if fetched.returncode != 0:
            pytest.skip(f"{name} is not installed, and not to be had: {fetched.stderr.strip()}")
        (package,) = _TOOLS.glob("prometheus_*.deb")
        subprocess.run(["dpkg", "-x", package, unpacked], check=True, timeout=100)
    return str(unpacked / "usr" / "bin" / name)


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


class Prometheus:
    """One that runs.

    Args:
        address: host:port.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression has now; fails if it cannot be evaluated."""
        answer = self._get(f"query?{urllib.parse.urlencode({'query': expression})}")
        samples: list[dict[str, Any]] = answer["data"]["result"]
        return samples

    def firing(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire, by their names."""
        alerts = self._get("alerts")["data"]["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}", timeout=30) as answer:
            return json.load(answer)


@contextmanager
def running_prometheus(targets: Sequence[str], directory: Path) -> Iterator[Prometheus]:
    """Scrapes and evaluates every second, by the rules as they are but without their `for`.

    Args:
        targets: host:port of each process.
        directory: for what it writes.
    """
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (directory / "rules.yaml").write_text(yaml.safe_dump(rules))
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(directory / "rules.yaml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        binary("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Prometheus(_ready_at(process))
        finally:
            process.terminate()


def _ready_at(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said, address = "", None
    for line in process.stderr:
        said += line
        if found := _LISTENING.search(line):
            address = found.group(1)
        if _READY in line:
            assert address is not None, said
            # What it says from now on nobody reads; a full pipe would stop it.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return address
    raise AssertionError(f"Prometheus ended:\n{said}")
