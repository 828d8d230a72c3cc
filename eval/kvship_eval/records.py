"""Results as JSON lines: one record per case, found again by its key, so that a rerun goes on where the last one stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Records:
    """The records of one study in FOLDER/NAME.jsonl. Raises ValueError, naming the line, for a file that is none."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.jsonl"
        self._records: dict[str, Record] = {}
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                self._records[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) and not line.endswith("\n"):
                    # What an interrupted run left half written.
                    self.path.write_text("".join(lines[:-1]), encoding="utf-8")
                    return
                raise ValueError(f"{self.path}:{number} is not a record of a study: {error}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def of(self, **fields: Any) -> list[Record]:
        """The records whose fields have these values."""
        return [record for record in self if all(record.get(name) == value for name, value in fields.items())]

    def add(self, key: str, record: Record) -> None:
        record = {"key": key, **record}
        self._records[key] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def mean_ratio(records: Iterable[Record]) -> float:
    """How many times fewer bytes than the full cache in f16 were shipped, over all of the records."""
    records = list(records)
    return sum(record["uncompressed_bytes"] for record in records) / sum(record["shipped_bytes"] for record in records)
