"""What the scalers ask Prometheus gives the replicas that were meant, in promtool's own evaluation."""

import math
import os
import subprocess

import pytest
import yaml
from manifests import KUSTOMIZE, named, overlay

# Two nodes of each pool, and one of another namespace, which must not count.
PODS = [("kvship", "a"), ("kvship", "b"), ("elsewhere", "c")]


def series(metric: str, values: list[str], **labels: str) -> list[dict[str, str]]:
    """The same metric of each pod, in promtool's notation of values over time, a sample each 15 s."""
    extra = "".join(f',{name}="{value}"' for name, value in labels.items())
    return [{"series": f'{metric}{{namespace="{namespace}",pod="{pod}"{extra}}}', "values": value}
            for (namespace, pod), value in zip(PODS, values)]


def pool(reserved: list[int]) -> list[dict[str, str]]:
    return (series("kvship_decode_pool_reserved_bytes", [f"{value}+0x40" for value in reserved]) +
            series("kvship_decode_pool_capacity_bytes", ["100+0x40"] * 3))


def draining(role: str, values: list[int]) -> list[dict[str, str]]:
    return series(f"kvship_{role}_draining", [f"{value}+0x40" for value in values])


def refused(per_sample: list[int], reason: str = "pool") -> list[dict[str, str]]:
    return pool([0, 0, 0]) + series("kvship_decode_rejections_total", [f"0+{value}x40" for value in per_sample],
                                    reason=reason)


@pytest.fixture
def evaluate(tmp_path):
    """Asks promtool whether a query gives these values, by their labels, after ten minutes."""
    def ask(query: str, input_series: list[dict[str, str]], wanted: dict[str, float]) -> None:
        test = {"evaluation_interval": "15s", "tests": [{
            "interval": "15s", "input_series": input_series, "promql_expr_test": [{
                "expr": query, "eval_time": "10m",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in wanted.items()]}]}]}
        (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
        done = subprocess.run([os.path.join(os.environ["KVSHIP_PROMETHEUS"], "promtool"), "test", "rules",
                               tmp_path / "test.yaml"], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return ask


def triggers(role: str) -> list[tuple[str, float]]:
    """The queries of a pool's ScaledObject, and what one replica stands for."""
    scaled = named(overlay("h200"), "ScaledObject", f"kvship-{role}")
    return [(each["metadata"]["query"], float(each["metadata"]["threshold"])) for each in scaled["spec"]["triggers"]]


def test_prefill_nodes_follow_the_tokens_in_their_queues(evaluate):
    query, threshold = triggers("prefill")[0]
    waiting = series("kvship_prefill_unread_tokens", ["60000+0x40", "40000+0x40", "900000+0x40"])
    evaluate(query, waiting, {"{}": 100000})
    assert math.ceil(100000 / threshold) == 4


def test_decode_nodes_follow_the_fill_of_their_pools(evaluate):
    query, threshold = triggers("decode")[0]
    for reserved, value, replicas in [([90, 80, 100], 1.7, 3), ([70, 60, 0], 1.3, 2), ([10, 0, 100], 0.1, 1)]:
        evaluate(query, pool(reserved), {"{}": value})
        assert math.ceil(value / threshold) == replicas


def test_decode_nodes_grow_while_requests_are_refused(evaluate):
    query, threshold = triggers("decode")[1]
    # 3 in 15 s and 6 in 15 s: 0.6 per second, so three nodes more than the two there are.
    evaluate(query, refused([3, 6, 50]), {"{}": 5})
    assert threshold == 1


def test_prefill_nodes_grow_while_all_are_full(evaluate):
    query, threshold = triggers("prefill")[1]
    queues = series("kvship_prefill_unread_tokens", ["9+0x40"] * 3)
    evaluate(query, queues + refused([3, 6, 50], "prefill"), {"{}": 5})
    evaluate(query, queues + refused([3, 6, 50]), {})
    assert threshold == 1


@pytest.mark.parametrize(("role", "reason"), [("decode", "pool"), ("prefill", "prefill")])
def test_pods_that_drain_are_none_of_those_there_are(evaluate, role, reason):
    query, _ = triggers(role)[1]
    pods = series("kvship_prefill_unread_tokens", ["9+0x40"] * 3) + refused([3, 0, 50], reason)
    # 0.2 per second.
    evaluate(query, pods + draining(role, [0, 0, 0]), {"{}": 3})
    evaluate(query, pods + draining(role, [1, 0, 0]), {"{}": 2})
    evaluate(query, pods + draining(role, [1, 1, 0]), {})


def test_prefill_pods_that_load_are_none_of_those_there_are(evaluate):
    query, _ = triggers("prefill")[1]
    loaded = series("kvship_prefill_unread_tokens", ["9+0x40"])
    evaluate(query, loaded + draining("prefill", [0, 0, 0]) + refused([3, 0, 50], "prefill"), {"{}": 2})


@pytest.mark.parametrize("reason", ["prefill", "client", "http", "memory"])
def test_decode_nodes_do_not_grow_for_what_they_do_not_bring(evaluate, reason):
    query, _ = triggers("decode")[1]
    evaluate(query, refused([3, 6, 50], reason), {})


def test_nobody_refused_scales_nothing(evaluate):
    query, _ = triggers("decode")[1]
    evaluate(query, refused([0, 0, 50]), {})
    evaluate(query, pool([50, 50, 50]), {})


def adapter_query(name: str) -> str:
    """As prometheus-adapter asks for the pods of the namespace kvship."""
    values = yaml.safe_load((KUSTOMIZE / "components/autoscaling-hpa/prometheus-adapter.yaml").read_text())
    [rule] = [rule for rule in values["rules"]["custom"] if rule["name"]["as"] == name]
    return (rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
            .replace("<<.LabelMatchers>>", 'namespace="kvship",pod=~"a|b"').replace("<<.GroupBy>>", "pod"))


@pytest.mark.parametrize(("name", "input_series", "wanted"), [
    ("kvship_prefill_unread_tokens", series("kvship_prefill_unread_tokens", ["60+0x40", "40+0x40", "9+0x40"]), (60, 40)),
    ("kvship_decode_pool_fill_ratio", series("kvship_decode_pool_fill_ratio", ["0.9+0x40", "0.2+0x40", "1+0x40"]),
     (0.9, 0.2)),
    ("kvship_decode_rejections_per_second", refused([3, 0, 50]) + refused([9, 9, 9], "client"), (0.2, 0))])
def test_the_adapter_gives_the_autoscalers_what_they_ask_for(evaluate, name, input_series, wanted):
    evaluate(adapter_query(name), input_series, {f'{{pod="{pod}"}}': value for (_, pod), value in zip(PODS, wanted)})
    autoscalers = yaml.safe_load_all((KUSTOMIZE / "components/autoscaling-hpa/autoscalers.yaml").read_text())
    asked = [metric["pods"]["metric"]["name"] for each in autoscalers for metric in each["spec"]["metrics"]]
    assert name in asked
