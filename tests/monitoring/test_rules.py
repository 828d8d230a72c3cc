"""The rules' unit tests in promtool; and that every alert has one, and a place in the operations guide."""

import re
import subprocess

import pytest
from conftest import ROOT
from monitored_pair import program

RULES = sorted((ROOT / "deploy/monitoring/rules").glob("*.yaml"))
UNIT_TESTS = ROOT / "tests/monitoring/rules_test.yaml"
ALERTS = re.findall(r"- alert: (\w+)", "".join(path.read_text() for path in RULES))


def promtool(*arguments, stdin: str | None = None) -> None:
    done = subprocess.run([program("promtool"), *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr


def test_the_rules_pass_their_unit_tests():
    promtool("check", "rules", "--lint-fatal", *RULES)
    promtool("test", "rules", UNIT_TESTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_seen_firing_and_silent_and_explained(alert):
    cases = re.findall(rf"alertname: {alert}\b(.*?)(?=\n  - name|alertname:|\Z)", UNIT_TESTS.read_text(), re.DOTALL)
    assert any("exp_alerts: []" in case for case in cases) and any("exp_labels" in case for case in cases)
    assert f"\n### {alert}\n" in (ROOT / "docs/operations.md").read_text()
    assert f"docs/operations.md#{alert.lower()}\n" in "".join(path.read_text() for path in RULES)


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_promtool_finds_nothing_wrong_with_the_metrics(pair, role):
    pair.bench("--requests=2", "--prompt_tokens=200", "--output_tokens=4")
    promtool("check", "metrics", stdin=pair.metrics(role))
