"""Search: many settings on the same needle cases, each prompt read once, in process by kvship-inspect.

The services measure what the search has chosen (the other studies); here settings are only compared with each other.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from kvship_eval.cases import HALVES, Case, Kind, make_case, score
from kvship_eval.haystack import Haystack
from kvship_eval.records import Records

# Cases per kind and length: long prompts cost more.
NUM_CASES = {1000: 6, 2000: 6, 4000: 4, 7500: 2}


@dataclass(frozen=True)
class Point:
    """One case of a sweep."""

    kind: Kind
    num_tokens: int
    depth: float
    seed: int
    case: Case


def points(half: str, lengths: Sequence[int]) -> list[Point]:
    """The cases of a half, depths spread evenly."""
    texts, first_seed, kinds = HALVES[half]
    haystack = Haystack(texts)
    out = []
    for num_tokens in lengths:
        num_cases = NUM_CASES.get(num_tokens, 4)
        for kind in kinds:
            for i in range(num_cases):
                depth = (i + 0.5) / num_cases
                seed = first_seed + i
                out.append(Point(kind, num_tokens, depth, seed, make_case(kind, num_tokens, depth, seed, haystack)))
    return out


def run_sweep(inspect: Path, model: Path, half: str, settings: dict[str, str], lengths: Sequence[int],
              folder: Path) -> Records:
    """Answers of every setting (name -> options) to every case. Raises RuntimeError with what kvship-inspect says."""
    records = Records(folder, f"sweep-{half}")
    wanted = []
    for point in points(half, lengths):
        where = f"{point.kind}/{point.num_tokens}/{point.depth:.3f}/{point.seed}"
        missing = {name: text for name, text in settings.items() if f"{where}/{name}" not in records}
        if missing:
            wanted.append((where, point, missing))
    if not wanted:
        return records
    cases = folder / f"sweep-{half}.cases"
    with cases.open("w", encoding="utf-8") as file:
        for _, point, missing in wanted:
            file.write(json.dumps({"message": point.case.message, "max_tokens": point.case.max_tokens,
                                   "compressions": list(missing.values())}) + "\n")
    command = [str(inspect), "sweep", str(model), f"--cases-file={cases}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for (where, point, missing), line in zip(tqdm(wanted, desc=f"sweep {half}"), process.stdout):
            result = json.loads(line)
            for (name, text), answer in zip(missing.items(), result["answers"]):
                records.add(f"{where}/{name}", {
                    "half": half, "kind": str(point.kind), "length": point.num_tokens, "depth": point.depth,
                    "setting": name, "options": text, "prompt_tokens": result["prompt_tokens"],
                    "score": score(answer["text"], point.case.expected), "text": answer["text"],
                    "num_bytes": answer["num_bytes"], "kept_tokens": answer["kept_tokens"],
                    "retained_mass": answer["retained_mass"]})
        error = process.stderr.read()
        if process.wait() != 0:
            raise RuntimeError(error.strip())
    cases.unlink()
    return records
