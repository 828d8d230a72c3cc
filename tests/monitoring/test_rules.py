"""The rules' unit tests in promtool; and that every alert has one, and a place in the operations guide."""

import re
import subprocess

import pytest
import yaml
from conftest import ROOT
from kvship_processes import free_ports
from monitored_pair import MonitoredPair, program

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


def test_every_recording_rule_is_computed_in_a_unit_test():
    rules = [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    recorded = {(rule["record"], rule.get("labels", {}).get("quantile")) for rule in rules if "record" in rule}
    computed = set()
    for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        for case in test.get("promql_expr_test", []):
            name = re.search(r"[\w:]+:kvship_[\w:]+", case["expr"])[0]
            computed |= {(name, quantile) for sample in case["exp_samples"]
                         for quantile in re.findall(r'quantile="(.*?)"', sample["labels"]) or [None]}
    assert recorded == computed


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_promtool_finds_nothing_wrong_with_the_metrics(pair, role):
    pair.bench("--requests=2", "--prompt_tokens=200", "--output_tokens=4")
    promtool("check", "metrics", stdin=pair.metrics(role))


def test_promtool_finds_nothing_wrong_with_the_metrics_of_tracing(binaries, tmp_path):
    [nobody] = free_ports(1)
    endpoint = [f"--otlp_endpoint=http://127.0.0.1:{nobody}"]
    with MonitoredPair(binaries, tmp_path, prefill_flags=endpoint, decode_flags=endpoint) as traced:
        traced.bench("--requests=2", "--prompt_tokens=200", "--output_tokens=4")
        for role in traced.admin_ports:
            told = traced.metrics(role)
            assert f"\nkvship_{role}_trace_spans_dropped_total " in told
            promtool("check", "metrics", stdin=told)
