"""That the committed dashboards are what their sources make, and how pictures of them are made."""

import json
import subprocess
import sys

import pytest
from conftest import DASHBOARDS, ROOT

import docs
import draw
import generate

# What an operator must find, by the dashboards' titles.
PANELS = {
    "kvship: Cache savings": {"Cache bytes", "Compression ratio", "Compression ratio by model and policy",
                              "Bytes not shipped", "Decode memory", "Decode memory saved",
                              "Network time saved per request", "Retained mass", "Retained mass by policy"},
    "kvship: Serving": {"Time to first token", "Time between tokens", "Requests", "Running", "Waiting", "KV pool in use",
                        "Rejections", "Nodes ready"},
    "kvship: Transfers": {"Shipped by prefill node", "Speed by decode node", "Transfer time that requests wait for",
                          "Failures by code", "First certificate expires in"}}


def test_the_committed_dashboards_are_up_to_date():
    committed = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert committed == generate.texts(), "run ./dev docs"


def test_every_dashboard_can_be_drawn(prometheus, tmp_path):
    subprocess.run([sys.executable, DASHBOARDS / "draw.py", prometheus.url, tmp_path], check=True)
    assert {path.stem for path in tmp_path.iterdir()} == {path.stem for path in DASHBOARDS.glob("*.json")}


def test_the_dashboards_show_what_operators_look_for():
    shown = {told["title"]: {panel["title"] for panel in told["panels"]}
             for told in (json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json"))}
    assert shown.keys() == PANELS.keys()
    for title, panels in PANELS.items():
        assert panels <= shown[title]


def test_cache_bytes_are_shown_before_shipped_and_saved():
    [panel] = [panel for panel in json.loads((DASHBOARDS / "cache-savings.json").read_text())["panels"]
               if panel["title"] == "Cache bytes"]
    asked = " ".join(target["expr"] for target in panel["targets"])
    for what in ("uncompressed", "shipped", "saved"):
        assert f"kvship_decode_kv_{what}_bytes_total" in asked


def test_the_pictures_in_docs_are_of_these_dashboards():
    assert docs.DRAWN.read_text() == docs.sums_of_dashboards(), "run ./dev docs --pictures"
    assert {path.stem for path in DASHBOARDS.glob("*.json")} <= {path.stem for path in (ROOT / "docs").glob("*.png")}


@pytest.mark.parametrize("value, unit, text", [
    (0.0123, "s", "12.3 ms"), (7200, "s", "2 h"), (0, "s", "0 s"), (0.5, "percentunit", "50 %"), (3, "suffix:x", "3 x"),
    (999, "decbytes", "999 B"), (5.8e6, "decbytes", "5.8 MB"), (-2e3, "Bps", "-2 kB/s"), (0.3, "reqps", "0.3 req/s"),
    (15000, "short", "15 k")])
def test_values_are_written_as_people_read_them(value, unit, text):
    assert draw.written(value, unit) == text


def test_names_of_curves_are_made_of_labels():
    assert draw.legend("{{code}} on {{instance}}{{other}}", {"code": "OK", "instance": "a"}) == "OK on a"
