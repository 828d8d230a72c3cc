"""The tables of flags and metrics in docs/, made of what the programs tell of themselves.

A table stands between two lines, `<!-- begin NAME, made by ./dev docs -->` and `<!-- end NAME -->`; what is around it is
written by hand.
"""

import re
import subprocess
import tempfile
from pathlib import Path

from monitored_pair import ROOT, MonitoredPair

PROGRAMS = ("kvship-prefill", "kvship-decode", "kvship")


def flag_table(binaries: str, program: str) -> str:
    """The flags of a program with defaults and help, of its `--helpfull`; those of its libraries are left out."""
    told = subprocess.run([f"{binaries}/{program}", "--helpfull"], capture_output=True, text=True, check=False).stdout
    own = re.search(r"Flags from \S*/main\.cc:\n(.*?)(?:\n\n|\Z)", told, re.DOTALL)
    flags = re.findall(r"--(\w+) \((.*?)\); default: (.*?);(?= --|\s*$)", " ".join(own.group(1).split()))
    rows = [f"| `--{name}` | {code(default)} | {cell(text)} |" for name, text, default in flags]
    return "\n".join(["| flag | default | what |", "|---|---|---|", *rows])


def code(default: str) -> str:
    value = default.strip('"')
    return f"`{value}`" if value else ""


def cell(text: str) -> str:
    return text.replace("|", r"\|")


def metric_table(exposition: str) -> str:
    """The metrics of a program with kind, labels and help, of what it tells Prometheus."""
    rows = []
    for name, text, kind in re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$", exposition, re.MULTILINE):
        labels = []
        for series in re.findall(rf"^{name}(?:_bucket|_sum|_count)?{{(.*)}} ", exposition, re.MULTILINE):
            labels += [label for label in re.findall(r'(\w+)="', series) if label not in (*labels, "le")]
        written = f"{name}{{{','.join(labels)}}}" if labels else name
        rows.append(f"| `{written}` | {kind} | {cell(text)} |")
    return "\n".join(["| name | kind | what |", "|---|---|---|", *rows])


def expositions(binaries: str) -> dict[str, str]:
    """What both servers tell Prometheus after some traffic, by program."""
    with tempfile.TemporaryDirectory() as folder, MonitoredPair(binaries, Path(folder)) as pair:
        pair.bench("--requests=4", "--prompt_tokens=200", "--output_tokens=4")
        return {f"kvship-{role}": pair.metrics(role) for role in pair.admin_ports}


def tables(binaries: str, told: dict[str, str]) -> dict[Path, dict[str, str]]:
    """By file and name. `told` are expositions."""
    return {ROOT / "docs/flags.md": {f"flags of {program}": flag_table(binaries, program) for program in PROGRAMS},
            ROOT / "docs/metrics.md": {f"metrics of {program}": metric_table(text) for program, text in told.items()}}


def with_tables(text: str, by_name: dict[str, str]) -> str:
    """A file's text with its tables replaced. KeyError for a table that has no place in it."""
    for name, table in by_name.items():
        begin, end = f"<!-- begin {name}, made by ./dev docs -->", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found or not found_end:
            raise KeyError(f"there is no place for the {name}; wanted the lines {begin} and {end}")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text
