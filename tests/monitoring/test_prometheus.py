"""A real Prometheus watches both nodes under load: what the dashboards and rules ask it has answers."""

import json
import re
import time

import pytest
from conftest import DASHBOARDS

QUERIES = [pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {target['refId']}")
           for path in sorted(DASHBOARDS.glob("*.json")) for panel in json.loads(path.read_text())["panels"]
           for target in panel["targets"]]


@pytest.mark.parametrize("query", QUERIES)
def test_every_panel_has_data(prometheus, query):
    asked = query.replace("$__rate_interval", "1m").replace("$__range", "1m").replace("$namespace", ".*")
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
        for metric in re.findall(r"kvship_\w+(?=[{ )=])|\bup\b", rule["query"]):
            assert prometheus.values(f"count({metric})"), f"{rule['name']} asks for {metric}"


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
