#!/usr/bin/env python3
"""Draws dashboards from the answers of a Prometheus to their own queries: draw.py URL FOLDER.

It reads the JSON files of this folder as Grafana would and lays panels out as Grafana does, but draws them with
matplotlib: for looking at a dashboard where there is no Grafana. The time range is that in which decode nodes were
scraped, at most the last hour. Each picture goes to FOLDER/NAME.png.
"""

import json
import math
import re
import sys
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import dates, pyplot, ticker  # noqa: E402

WINDOW = "30s"  # what rates are taken over
POINTS = 150  # of a curve
COLUMNS, COLUMN_INCHES, ROW_INCHES = 24, 0.55, 0.36  # of Grafana's grid
INK, FAINT = "#24292e", "#8a9199"


class Prometheus:
    """The HTTP API of a Prometheus, with the time range that is drawn."""

    def __init__(self, url: str):
        self.url = url
        now = datetime.now().timestamp()
        seen = self.range("kvship_decode_ready", now - 3600, now, 5)
        times = [time for series in seen for time, _ in series["values"]]
        if not times:
            raise SystemExit(f"{url} has seen no decode node in the last hour")
        self.begin, self.end = min(times), max(times)

    def _get(self, what: str, **parameters):
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}") as answer:
            return json.load(answer)["data"]["result"]

    def range(self, query: str, begin: float, end: float, step: float):
        return self._get("query_range", query=query, start=begin, end=end, step=step)

    def curves(self, query: str):
        """The labels, times and values of a query's series over the time range."""
        step = max(1.0, (self.end - self.begin) / POINTS)
        for series in self.range(self._filled(query), self.begin, self.end, step):
            points = [(datetime.fromtimestamp(time), float(value)) for time, value in series["values"]]
            points = [(time, value) for time, value in points if math.isfinite(value)]
            if points:
                yield series["metric"], *zip(*points)

    def _filled(self, query: str) -> str:
        """A query with the variables of the dashboards and of Grafana in it."""
        whole = f"{math.ceil(self.end - self.begin)}s"
        return query.replace("$__rate_interval", WINDOW).replace("$__range", whole).replace("$namespace", ".*")


def written(value: float, unit: str) -> str:
    """A value as people read it, in a unit of Grafana's."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit.startswith("suffix:"):
        return f"{value:.3g} {unit.removeprefix('suffix:')}"
    if unit == "s":
        for scale, name in ((86400, "days"), (3600, "h"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= scale:
                return f"{value / scale:.3g} {name}"
        return f"{value:.3g} s"
    if unit in ("bytes", "Bps"):
        power = min(4, int(math.log(abs(value), 1024))) if abs(value) >= 1024 else 0
        name = ("B", "KiB", "MiB", "GiB", "TiB")[power] + ("/s" if unit == "Bps" else "")
        return f"{value / 1024 ** power:.3g} {name}"
    return f"{value:.3g}" + (" req/s" if unit == "reqps" else "")


def legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match.group(1), ""), form)


def draw_number(axes, panel, prometheus: Prometheus) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    last = [values[-1] for target in panel["targets"] for _, _, values in prometheus.curves(target["expr"])]
    axes.set_axis_off()
    axes.text(0.5, 0.4, written(last[0], unit) if last else "no data", ha="center", va="center", fontsize=22, color=INK,
              transform=axes.transAxes)


def draw_curves(axes, panel, prometheus: Prometheus) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    stacked = "stacking" in panel["fieldConfig"]["defaults"].get("custom", {})
    found = [(legend(target["legendFormat"], labels), times, values) for target in panel["targets"]
             for labels, times, values in prometheus.curves(target["expr"])]
    # The names take room below: about so many fit side by side.
    names = sum(1 + len(name) // 40 for name, _, _ in found)
    if stacked:
        every = sorted({time for _, times, _ in found for time in times})
        rows = [[dict(zip(times, values)).get(time, 0) for time in every] for _, times, values in found]
        axes.stackplot(every, rows, labels=[name for name, _, _ in found], alpha=0.7)
    else:
        for name, times, values in found:
            axes.plot(times, values, label=name, linewidth=1.4)
    if not found:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)
        return
    axes.set_xlim(datetime.fromtimestamp(prometheus.begin), datetime.fromtimestamp(prometheus.end))
    low, high = axes.get_ylim()
    axes.set_ylim(min(0, low), high)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: written(value, unit)))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(labelsize=8, colors=FAINT)
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.spines[:].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=7, frameon=False, ncols=1 if names > 4 else 3)


def draw(dashboard, prometheus: Prometheus, path: Path) -> None:
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(COLUMNS * COLUMN_INCHES, (rows + 2) * ROW_INCHES), dpi=110)
    figure.text(0.01, 1 - 0.8 / (rows + 2), dashboard["title"], fontsize=15, color=INK, weight="bold", va="center")
    for panel in panels:
        at = panel["gridPos"]
        is_number = panel["type"] == "stat"
        below = 0.4 if is_number else 2.6  # rows for the axis' and the curves' names
        left, right = (0.4, 0.4) if is_number else (1.7, 0.5)
        axes = figure.add_axes(((at["x"] + left) / COLUMNS, 1 - (at["y"] + 2 + at["h"] - below) / (rows + 2),
                                (at["w"] - left - right) / COLUMNS, (at["h"] - below - 1.1) / (rows + 2)))
        axes.set_title(panel["title"], loc="left", fontsize=10, color=INK)
        (draw_number if is_number else draw_curves)(axes, panel, prometheus)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    prometheus = Prometheus(sys.argv[1])
    for path in sorted(Path(__file__).parent.glob("*.json")):
        draw(json.loads(path.read_text()), prometheus, Path(sys.argv[2]) / f"{path.stem}.png")


if __name__ == "__main__":
    main()
