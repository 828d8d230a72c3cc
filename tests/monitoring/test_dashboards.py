"""That the committed dashboards are what their sources make."""

from conftest import DASHBOARDS

import generate


def test_the_committed_dashboards_are_up_to_date():
    committed = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert committed == generate.texts(), "run ./dev docs"
