"""What the studies' plots share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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


def interval(scores: Sequence[float], full: Sequence[float] | None = None) -> tuple[float, float]:
    """Of the mean over cases, or of its share of the mean of `full` on the same cases: 95 %, by a bootstrap of a fixed seed.

    NaN where `full` may be nothing.
    """
    drawn = np.random.default_rng(0).integers(0, len(scores), (4000, len(scores)))
    means = np.asarray(scores)[drawn].mean(axis=1)
    if full is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            means = means / np.asarray(full)[drawn].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def span(scores: Sequence[float], full: Sequence[float] | None = None) -> str:
    """An interval in hundredths, "46-70%"; "-" where all cases agree, of which a bootstrap tells nothing."""
    low, high = interval(scores, full)
    return "-" if low == high else f"{100 * low:.0f}-{100 * high:.0f}%"


def tokens_label(num_tokens: int) -> str:
    """"500", "2K", "7.5K"."""
    return str(num_tokens) if num_tokens < 1000 else f"{num_tokens / 1000:g}K"


def listed(values: Iterable[object]) -> str:
    """"a, b and c"; "nothing" of nothing."""
    words = [str(value) for value in values]
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part) or "nothing"


def byte_axis(axis: Axes) -> None:
    """The x axis counts how many times fewer bytes a cache takes."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_xlabel("times fewer bytes than the full cache in f16")


def describe(folder: Path, name: str, title: str, text: str) -> None:
    """Writes NAME.caption.json for the report: what was asked, on what, and what the picture shows."""
    (folder / f"{name}.caption.json").write_text(json.dumps({"title": title, "text": text}) + "\n", encoding="utf-8")


def save(figure: Figure, folder: Path, name: str, title: str, text: str) -> Path:
    """Writes NAME.png and its caption."""
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    describe(folder, name, title, text)
    return path
