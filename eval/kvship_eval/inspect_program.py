"""kvship-inspect, the program that runs a model in one process."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
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

    def sweep(self, cases: Sequence[dict[str, Any]]) -> Iterator[Any]:
        """What comes of each case (tools/policy_sweep.h), as soon as it is done; also an error unless it comes of all."""
        with tempfile.TemporaryDirectory(prefix="kvship-eval-") as folder:
            file = Path(folder) / "cases.jsonl"
            file.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
            command = [self._program, "sweep", self._model, f"--cases-file={file}"]
            # A pipe that nobody reads meanwhile would fill up.
            with (Path(folder) / "errors").open("w+", encoding="utf-8", errors="replace") as errors, \
                    subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
                assert process.stdout is not None
                num_done = 0
                try:
                    for line in process.stdout:
                        if line.endswith("\n"):  # else it died while it wrote
                            yield json.loads(line)
                            num_done += 1
                except BaseException:
                    process.kill()
                    raise
                if process.wait() != 0:
                    errors.seek(0)
                    raise failure(self._program, process.returncode, errors.read())
        if num_done < len(cases):
            raise RuntimeError(f"{self._program.name} ended after {num_done} of {len(cases)} cases")

    def answers(self, case: dict[str, Any]) -> Any:
        """To one case of a sweep."""
        [result] = self.sweep([case])
        return result["answers"]
