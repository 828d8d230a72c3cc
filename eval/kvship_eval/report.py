"""All studies of a folder as one HTML file that needs no other."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from kvship_eval import runs

_STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #5a5a5a; --page: #fff; --box: #f3f4f6; --line: #d8dade; }
@media (prefers-color-scheme: dark) {
  :root { --text: #dcdcdc; --quiet: #a0a0a0; --page: #16181c; --box: #22252b; --line: #3a3e46; } }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto 4rem; padding: 0 1.2rem;
  color: var(--text); background: var(--page); }
h1 { margin-bottom: .3rem; } section { border-top: 1px solid var(--line); margin-top: 2.5rem; }
p { max-width: 50rem; } code { font-size: .9em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--quiet); } dd { margin: 0; }
img { max-width: 100%; background: #fff; border-radius: 6px; padding: 8px; box-sizing: border-box; }
pre { background: var(--box); border-radius: 6px; padding: 1rem; overflow-x: auto; font-size: 12.5px; line-height: 1.4; }
.made { color: var(--quiet); font-size: .9em; }
"""


def _distinct(values: Iterable[str]) -> str:
    return escape(", ".join(dict.fromkeys(value for value in values if value)) or "not on record")


def _header(all_runs: Sequence[runs.Run]) -> str:
    dates = sorted(run.date for run in all_runs)
    date = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "not on record"
    rows = (("model", _distinct(run.model for run in all_runs)), ("machine", _distinct(run.machine for run in all_runs)),
            ("measured", date), ("commit", _distinct(run.commit for run in all_runs)))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _section(folder: Path, name: str, made_by: Sequence[runs.Run]) -> str:
    caption = json.loads((folder / f"{name}.caption.json").read_text(encoding="utf-8"))
    parts = [f"<h2>{escape(caption['title'])}</h2><p>{escape(caption['text'])}</p>"]
    for run in made_by:
        commit = f", commit {escape(run.commit)}" if run.commit else ""
        parts.append(f'<p class="made">{escape(run.date)}{commit}: <code>{escape(run.command)}</code></p>')
    image, table = folder / f"{name}.png", folder / f"{name}.txt"
    if image.exists():
        data = base64.b64encode(image.read_bytes()).decode("ascii")
        parts.append(f'<img alt="{escape(caption["title"])}" src="data:image/png;base64,{data}">')
    if table.exists():
        parts.append(f"<pre>{escape(table.read_text(encoding='utf-8'))}</pre>")
    return f'<section id="{escape(name)}">{"".join(parts)}</section>'


def write_report(folder: Path, names: Sequence[str]) -> Path:
    """FOLDER/report.html with the plots, tables, captions and runs of the named results, in that order.

    Raises ValueError where there are none.
    """
    if not names:
        raise ValueError(f"{folder} holds no results of a study")
    made_by = {name: runs.read(folder, name) for name in names}
    page = ['<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>kvship: studies</title><style>{_STYLE}</style></head><body><h1>kvship: what compression costs</h1>",
            _header([run for study in made_by.values() for run in study]),
            *(_section(folder, name, study) for name, study in made_by.items()), "</body></html>\n"]
    path = folder / "report.html"
    path.write_text("".join(page), encoding="utf-8")
    return path
