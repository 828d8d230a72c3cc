"""What made a study's results: command, date, commit, machine and model, in FOLDER/NAME.runs.jsonl beside them."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Flags that say where things are here, not what was measured.
_PLACES = ("--server", "--prefill-pid", "--inspect", "--model", "--out")


@dataclass(frozen=True)
class Run:
    """One call of a study that measured something."""

    command: str
    date: str
    commit: str
    machine: str
    model: str


def command_line(arguments: Sequence[str]) -> str:
    """The call, without what holds for one machine only."""
    kept: list[str] = []
    skip_value = False
    for argument in arguments:
        if not skip_value and argument.split("=")[0] in _PLACES:
            skip_value = "=" not in argument
            continue
        if not skip_value:
            kept.append(argument)
        skip_value = False
    return shlex.join(["kvship-eval", *kept])


def _commit() -> str:
    """The checkout that this runs in, "" outside of one; "+" marks changes, results aside."""
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)eval/results")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except OSError:
        return ""


def _machine() -> str:
    """Processors and memory of where this runs; a service elsewhere is not seen."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor")
        kib = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text("ascii").splitlines()
                   if line.startswith("MemTotal:"))
    except (OSError, StopIteration):
        return "unknown"
    return f"{len(os.sched_getaffinity(0))} x {name}, {kib / 2**20:.0f} GiB"


def note(folder: Path, name: str, arguments: Sequence[str], model: str) -> None:
    """Writes down the run that begins; one that goes on where the same command stopped is the same run."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(command_line(arguments), datetime.date.today().isoformat(), _commit(), _machine(), model)
    known = [(past.command, past.commit, past.machine, past.model) for past in read(folder, name)]
    if (run.command, run.commit, run.machine, run.model) in known:
        return
    with (folder / f"{name}.runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def read(folder: Path, name: str) -> list[Run]:
    """The runs of a study, oldest first. Raises ValueError, naming the file, for one that is broken."""
    path = folder / f"{name}.runs.jsonl"
    if not path.exists():
        return []
    try:
        return [Run(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not list runs: {error}") from error
