#!/usr/bin/env python3
"""Writes the Grafana dashboards, one JSON file each, into this folder (or into the one that is named).

What a dashboard shows is in savings.py, serving.py and transfers.py; how panels are made is in panels.py.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

import savings
import serving
import transfers

DASHBOARDS = {"cache-savings.json": savings.dashboard, "serving.json": serving.dashboard,
              "transfers.json": transfers.dashboard}


def texts() -> dict[str, str]:
    """The files' contents, by their names."""
    return {name: json.dumps(make().build(), cls=JSONEncoder, sort_keys=True, indent=2) + "\n"
            for name, make in DASHBOARDS.items()}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
