"""kvship-inspect, the program that runs a model in one process."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def failure(program: Path, code: int, errors: str) -> RuntimeError:
    """What is to be said of the program's end; `code` is as of subprocess."""
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    return RuntimeError(errors.strip() or f"{program.name} ended with {how} and said nothing")


class Inspect:
    """kvship-inspect on one model. Raises RuntimeError with what it says."""

    def __init__(self, program: Path, model: Path) -> None:
        self._program = program
        self._model = model

    def __call__(self, command: str, *flags: str) -> Any:
        done = subprocess.run([self._program, command, self._model, *flags], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise failure(self._program, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def identity(self) -> str:
        """Of the model: its weights, shapes and tokenizer."""
        return str(self("model")["identity"])

    def tokens(self, text: str) -> list[int]:
        """The ids of a text."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            return list(self("tokenize", f"--text-file={file.name}")["ids"])

    def with_tokens(self, command: str, tokens: Sequence[int], *flags: str) -> Any:
        """A command on a prompt of ids."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(list(tokens), file)
            file.flush()
            return self(command, f"--tokens-file={file.name}", *flags)

    def answers(self, case: dict[str, Any]) -> Any:
        """To one case of a sweep (tools/policy_sweep.h)."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
            json.dump(case, file)
            file.flush()
            return self("sweep", f"--cases-file={file.name}")["answers"]
