"""Filler text: paragraphs of plain text files, in an order drawn from a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

# Texts that every Debian has, split so that what is reported was never used for a choice.
LICENSES = Path("/usr/share/common-licenses")
CHOOSE_TEXTS = tuple(LICENSES / name for name in ("GPL-2", "LGPL-2.1", "GFDL-1.2", "Artistic"))
REPORT_TEXTS = tuple(LICENSES / name for name in ("MPL-1.1", "MPL-2.0", "Apache-2.0", "CC0-1.0"))

# English text in SmolLM2's tokenizer; prompts report their true length.
CHARS_PER_TOKEN = 4.6


class Haystack:
    """Sentences-long paragraphs of the given files. Raises ValueError for a file without text."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._paragraphs: list[str] = []
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"haystack file {file} cannot be read: {error}") from error
            blocks = (re.sub(r"\s+", " ", block).strip() for block in re.split(r"\n\s*\n", text))
            # Headings and numbers alone make no paragraph.
            self._paragraphs += [block for block in blocks if len(block) > 80]
        if not self._paragraphs:
            raise ValueError(f"haystack files {', '.join(map(str, files))} hold no paragraph of text")

    def document(self, num_tokens: int, rng: random.Random) -> str:
        """Paragraphs of about num_tokens together."""
        return "\n\n".join(self.paragraphs(int(num_tokens * CHARS_PER_TOKEN), rng))

    def paragraphs(self, num_chars: int, rng: random.Random) -> list[str]:
        """About num_chars of text; paragraphs come again, in another order, where there are too few."""
        chosen: list[str] = []
        total = 0
        while total < num_chars:
            for paragraph in rng.sample(self._paragraphs, len(self._paragraphs)):
                if total >= num_chars:
                    break
                paragraph = paragraph[: max(40, num_chars - total)]
                chosen.append(paragraph)
                total += len(paragraph) + 2
        return chosen
