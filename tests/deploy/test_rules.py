"""The alert rules, by Prometheus's own tool."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.helm import ROOT
from tests.deploy.prometheus import CONFIG, RULES, promtool

pytestmark = pytest.mark.deploy
CASES = Path(__file__).parent / "rules_test.yaml"
PAGE = ROOT / "docs" / "monitoring.md"


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_the_rules_and_the_configuration_that_names_them_are_well_formed(tmp_path: Path) -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # Where the compose file mounts the chart's.
    mounted = CONFIG.read_text().replace("/etc/triptych/rules.yaml", str(RULES))
    assert str(RULES) in mounted
    (tmp_path / "prometheus.yml").write_text(mounted)
    checked = promtool("check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    ran = promtool("test", "rules", CASES)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    tried = {
        (case["name"], bool(each["exp_samples"]))
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for each in case["promql_expr_test"]
        if case["name"] in each["expr"]
    }
    assert tried == {(each["alert"], fires) for each in alerts() for fires in (True, False)}


@pytest.mark.parametrize("alert", alerts(), ids=lambda each: each["alert"])
def test_every_alert_says_how_grave_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/monitoring.md#{alert['alert'].lower()}"
    assert re.search(rf"^### {alert['alert']}$", PAGE.read_text(), re.MULTILINE)
