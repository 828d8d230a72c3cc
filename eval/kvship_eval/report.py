"""All plots and tables of a folder as one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
figure { margin: 2rem 0; } img { max-width: 100%; } figcaption { color: #555; }
pre { background: #f4f4f4; padding: 1rem; overflow-x: auto; font-size: 13px; }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd; } pre { background: #2a2a2a; }
  figcaption { color: #aaa; } img { background: #fff; } }
"""


def write_report(folder: Path) -> Path:
    """FOLDER/report.html with every plot (PNG with a caption) and table (.txt). Raises ValueError where there is none."""
    parts = []
    for image in sorted(folder.glob("*.png")):
        caption_file = image.with_suffix(".caption.json")
        caption = json.loads(caption_file.read_text(encoding="utf-8")) if caption_file.exists() else image.stem
        data = base64.b64encode(image.read_bytes()).decode("ascii")
        parts.append(f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
                     f"<figcaption>{html.escape(caption)}</figcaption></figure>")
    for table in sorted(folder.glob("*.txt")):
        parts.append(f"<h2>{html.escape(table.stem)}</h2><pre>{html.escape(table.read_text(encoding='utf-8'))}</pre>")
    if not parts:
        raise ValueError(f"{folder} holds no plot and no table; wanted the results of a study")
    path = folder / "report.html"
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>kvship studies</title><style>{_STYLE}</style>'
                    f"<h1>kvship studies</h1>{''.join(parts)}</html>", encoding="utf-8")
    return path
