"""That the committed dashboards are what their sources make, and how pictures of them are made."""

import subprocess
import sys

import pytest
from conftest import DASHBOARDS

import draw
import generate


def test_the_committed_dashboards_are_up_to_date():
    committed = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert committed == generate.texts(), "run ./dev docs"


def test_every_dashboard_can_be_drawn(prometheus, tmp_path):
    subprocess.run([sys.executable, DASHBOARDS / "draw.py", prometheus.url, tmp_path], check=True)
    assert {path.stem for path in tmp_path.iterdir()} == {path.stem for path in DASHBOARDS.glob("*.json")}


@pytest.mark.parametrize("value, unit, text", [
    (0.0123, "s", "12.3 ms"), (7200, "s", "2 h"), (0, "s", "0 s"), (0.5, "percentunit", "50 %"), (3, "suffix:x", "3 x"),
    (999, "decbytes", "999 B"), (5.8e6, "decbytes", "5.8 MB"), (-2e3, "Bps", "-2 kB/s"), (0.3, "reqps", "0.3 req/s"),
    (15000, "short", "15 k")])
def test_values_are_written_as_people_read_them(value, unit, text):
    assert draw.written(value, unit) == text


def test_names_of_curves_are_made_of_labels():
    assert draw.legend("{{code}} on {{instance}}{{other}}", {"code": "OK", "instance": "a"}) == "OK on a"
