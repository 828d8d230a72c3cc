"""What the studies' plots share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


def heat_map(axis: Axes, values: np.ndarray, columns: Sequence[str], rows: Sequence[str], title: str) -> None:
    """Shares in [0, 1] as colours, red to green; what was not measured stays grey."""
    axis.set_facecolor("0.85")
    axis.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_title(title, fontsize=10)
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            axis.text(j, i, f"{value:.2f}".rstrip("0").rstrip("."), ha="center", va="center", fontsize=8)


def byte_axis(axis: Axes) -> None:
    """The x axis counts how many times fewer bytes a cache takes."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_xlabel("times fewer bytes than the full cache in f16")


def save(figure: Figure, folder: Path, name: str, caption: str) -> Path:
    """Writes NAME.png, and its caption for the report."""
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    (folder / f"{name}.caption.json").write_text(json.dumps(caption), encoding="utf-8")
    return path
