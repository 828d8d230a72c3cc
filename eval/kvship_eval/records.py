"""Results as JSON lines: one record per case, found again by its key, so that a rerun goes on where the last one stopped.

A record also has digests of the model and of what it was asked: one of another model, text or setting is not taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def digest(value: object) -> str:
    """Of JSON values and dataclasses: equal for equal ones."""
    return hashlib.sha256(json.dumps(value, default=asdict).encode()).hexdigest()[:16]


class Records:
    """The records of one study in FOLDER/NAME.jsonl. Raises ValueError, naming the line, for a file that is none.

    Who adds to them says which `model` is measured, a digest: records of another one, or from before records named it, are refused
    with a ValueError. `before_first` is called before the first record is added.
    """

    def __init__(self, folder: Path, name: str, model: str = "", before_first: Callable[[], None] = lambda: None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.jsonl"
        self._model = model
        self._before_first: Callable[[], None] | None = before_first
        self._records: dict[str, Record] = {}
        if self.path.exists():
            self._read()
        if model:
            self._check_models()

    def _read(self) -> None:
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

    def _check_models(self) -> None:
        for key, record in self._records.items():
            if "model" not in record:
                raise self._other(key, "does not say of which model, text and options it is")
            if record["model"] != self._model:
                raise self._other(key, "is of another model, or of a server with other defaults")

    def _other(self, key: str, why: str) -> ValueError:
        return ValueError(f"{self.path}: the record '{key}' {why}, and what is measured now cannot stand beside it; "
                          "choose another folder with --out, or move the file away")

    def holds(self, key: str, asked: object) -> bool:
        """Whether this was measured. Raises ValueError where the key's record is of something else than `asked`."""
        if key not in self._records:
            return False
        if self._records[key].get("asked") != digest(asked):
            raise self._other(key, "is of another text or other options")
        return True

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def of(self, **fields: Any) -> list[Record]:
        """The records whose fields have these values."""
        return [record for record in self if all(record.get(name) == value for name, value in fields.items())]

    def add(self, key: str, asked: object, record: Record) -> None:
        """`asked` is all that decides what was measured, the model aside: texts, options, numbers."""
        if self._before_first is not None:
            self._before_first()
            self._before_first = None
        record = {"key": key, "model": self._model, "asked": digest(asked), **record}
        self._records[key] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def mean_ratio(records: Iterable[Record]) -> float:
    """How many times fewer bytes than the full cache in f16 were shipped, over all of the records."""
    records = list(records)
    return sum(record["uncompressed_bytes"] for record in records) / sum(record["shipped_bytes"] for record in records)
