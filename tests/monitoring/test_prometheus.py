"""A real Prometheus watches both nodes under load: what the dashboards and rules ask it has answers."""

import json
import re
import time

import pytest
import yaml
from conftest import DASHBOARDS, ROOT
from monitored_pair import MonitoredPair

QUERIES = [pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {target['refId']}")
           for path in sorted(DASHBOARDS.glob("*.json")) for panel in json.loads(path.read_text())["panels"]
           for target in panel["targets"]]

ALERTS = [rule for group in yaml.safe_load((ROOT / "deploy/monitoring/rules/alerts.yaml").read_text())["groups"]
          for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("query", QUERIES)
def test_every_panel_has_data(prometheus, query):
    asked = query.replace("$__rate_interval", "1m").replace("$__range", "1m").replace("$namespace", "kvship")
    assert "$" not in asked
    assert prometheus.values(asked), asked


def eventually(condition, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def rules(prometheus, kind: str):
    return [rule for group in prometheus.ask("rules", type=kind)["groups"] for rule in group["rules"]]


def test_every_recording_rule_has_data(prometheus):
    recording = rules(prometheus, "record")
    assert recording
    for rule in recording:
        assert rule["health"] == "ok", rule
        assert prometheus.values(rule["name"]), rule


def test_every_alert_asks_for_metrics_that_exist_and_none_is_set_off(prometheus):
    alerts = rules(prometheus, "alert")
    assert alerts
    for rule in alerts:
        assert rule["health"] == "ok" and rule["state"] == "inactive", rule
        for metric in re.findall(r"[\w:]*kvship_[\w:]+|\bup\b", rule["query"]):
            assert prometheus.values(f"count({metric})"), f"{rule['name']} asks for {metric}"


def test_what_alerts_count_by_code_begins_at_0(prometheus):
    """Or the first of them would be none: a counter that appears as 1 has not increased."""
    asked = [(metric, code) for rule in ALERTS
             for metric, codes in re.findall(r'(kvship_\w+_total)\{code=~?"([A-Z_|]+)"', rule["expr"])
             for code in codes.split("|")]
    assert len(asked) == 7
    for metric, code in asked:
        assert prometheus.values(f'{metric}{{code="{code}"}}'), (metric, code)


def unfiltered(expression: str) -> list[str]:
    """An alert's alternatives, each with its comparisons saying 0 or 1 instead of dropping series, and with those that an
    `unless` drops kept: they have data where there is data to alert on, and where the labels on both sides are the same."""
    alternatives = re.split(r"\s+or\s+", expression)
    return [re.sub(r"(?<=\s)([<>]=?|[=!]=) (?!bool)", r"\1 bool ", alternative.strip()).replace("unless", "and")
            for alternative in alternatives]


def test_an_alerts_comparisons_are_taken_out():
    assert unfiltered("a / b > 0.9 unless c == 0\nor d < 2") == ["a / b > bool 0.9 and c == bool 0", "d < bool 2"]


@pytest.mark.parametrize(("alert", "expression"), [(rule["alert"], rule["expr"]) for rule in ALERTS])
def test_every_alert_has_data_to_alert_on(prometheus, alert, expression):
    for asked in unfiltered(expression):
        assert prometheus.values(asked), asked


def test_scalers_have_data_to_scale_by(prometheus):
    texts = [ROOT / "deploy/kustomize/components/autoscaling/scaled-objects.yaml"]
    triggers = [trigger for path in texts for each in yaml.safe_load_all(path.read_text())
                for trigger in each["spec"]["triggers"]]
    assert len(triggers) == 4
    for trigger in triggers:
        # Where nobody is refused, that part has no result, which counts as 0.
        asked = re.sub(r"> 0\b", ">= 0", trigger["metadata"]["query"])
        assert prometheus.values(asked), asked


def test_what_is_saved_is_what_was_not_shipped(prometheus):
    by_scorer = {"knorm": 0.0, "keep_all": 0.0}
    for scorer in by_scorer:
        whole, shipped, saved = (
            prometheus.values(f'sum(kvship_decode_kv_{what}_bytes_total{{scorer="{scorer}"}})')[0]
            for what in ("uncompressed", "shipped", "saved"))
        assert saved == max(0, whole - shipped)
        by_scorer[scorer] = whole / shipped
    assert by_scorer["knorm"] > 2 and by_scorer["keep_all"] == pytest.approx(1, abs=0.01)


def test_memory_is_saved_until_requests_end(prometheus):
    assert prometheus.values("max_over_time(kvship_decode_memory_saved_bytes[2m])")[0] > 0
    assert eventually(lambda: prometheus.values("kvship_decode_memory_saved_bytes") == [0])


def test_a_prefill_node_without_room_is_a_failure_and_the_request_a_rejection(binaries, tmp_path):
    with MonitoredPair(binaries, tmp_path, prefill_flags=["--max_queue_requests=1"]) as pair:
        pair.bench("--requests=40", "--concurrency=8", "--prompt_tokens=400", "--output_tokens=2", check=False)
        told = pair.metrics("decode")
    for name in ('prefill_failures_total{code="RESOURCE_EXHAUSTED"}', 'requests_total{code="RESOURCE_EXHAUSTED"}',
                 'rejections_total{reason="prefill"}'):
        count = re.search(rf"^kvship_decode_{name} (\d+)$", told, re.MULTILINE)
        assert int(count.group(1)) > 0, name
    assert 'kvship_decode_rejections_total{reason="pool"} 0\n' in told
