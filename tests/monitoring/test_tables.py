"""That the tables of flags and metrics in docs/ say what the programs say, and that docs/ names no others."""

import re
import subprocess

import doc_tables
import pytest
from conftest import ROOT

# What the documents of users name of other programs' flags. docs/development.md, which is about the scripts, is left out.
FLAGS_OF_OTHERS = {
    "kubectl": {"all", "dry-run", "for", "from-file", "replicas"}, "curl": {"cacert", "resolve"}, "systemctl": {"now"},
    "useradd": {"system"}, "cluster-autoscaler": {"max-graceful-termination-sec"},
    "debootstrap": {"variant"}, "docker": {"read-only"}, "scripts/image.sh": {"build-image", "runtime-image", "tag"},
    "./dev": {"decode", "long", "pictures", "rates"}, "podman-compose": {"scale"},
    "guidellm": {"target", "data", "rate-type", "max-requests"},
    "vllm": {"base-url", "model", "tokenizer", "dataset-name", "random-input-len", "random-output-len", "num-prompts",
             "max-concurrency", "ignore-eos"},
    "bench_serving": {"backend"},
    "aiperf": {"url", "endpoint-type", "streaming", "isl", "osl", "extra-inputs", "request-count",
               "server-metrics"},
    "lm_eval": {"batch_size"},
    "the endpoint picker": {"model-server-metrics-port", "total-queued-requests-metric", "total-running-requests-metric",
                            "kv-cache-usage-percentage-metric", "lora-info-metric", "cache-info-metric"},
    "every program": {"helpfull"}}
DOCUMENTS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}


def test_the_tables_in_docs_are_what_the_programs_tell(binaries, pair):
    pair.bench("--requests=2", "--prompt_tokens=200", "--output_tokens=4")
    told = {f"kvship-{role}": pair.metrics(role) for role in pair.admin_ports}
    for path, by_name in doc_tables.tables(binaries, told).items():
        text = path.read_text()
        assert doc_tables.with_tables(text, by_name) == text, "run ./dev docs"


def test_flags_are_read_of_help_texts_that_are_wrapped(tmp_path):
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\ncat <<'END'\ntool: does it\n\n  Flags from ../a/main.cc:\n"
                       "    --one (the first (of two);\n      on two lines); default: \"x;y\";\n"
                       "    --two (a|b); default: ;\n\n  Flags from absl/other.cc:\n    --three (no); default: 1;\nEND\n")
    program.chmod(0o755)
    assert doc_tables.flag_table(str(tmp_path), "tool").splitlines()[2:] == [
        "| `--one` | `x;y` | the first (of two); on two lines |", r"| `--two` |  | a\|b |"]


def test_metrics_are_listed_with_the_labels_of_all_their_series():
    told = ('# HELP a_total What\n# TYPE a_total counter\na_total{code="OK"} 1\na_total{code="NO",why="x"} 2\n'
            '# HELP b_seconds How long\n# TYPE b_seconds histogram\nb_seconds_count 1\nb_seconds_bucket{le="1"} 1\n')
    assert doc_tables.metric_table(told).splitlines()[2:] == [
        "| `a_total{code,why}` | counter | What |", "| `b_seconds` | histogram | How long |"]


def test_a_table_without_a_place_is_an_error():
    with pytest.raises(KeyError, match="flags of kvship"):
        doc_tables.with_tables("text", {"flags of kvship": "table"})


def test_the_documents_name_flags_that_exist(binaries):
    known = set()
    for program in doc_tables.PROGRAMS:
        told = subprocess.run([f"{binaries}/{program}", "--helpfull"], capture_output=True, text=True, check=False).stdout
        known |= set(re.findall(r"^ +--(\w+) \(", told, re.MULTILINE))
    named = {(document, flag) for document, text in DOCUMENTS.items() if document != "development.md"
             for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", text)}
    assert len(named) > 50
    others = set().union(*FLAGS_OF_OTHERS.values())
    assert not {(document, flag) for document, flag in named
                if flag not in others and flag.replace("-", "_") not in known}


def test_the_documents_name_metrics_that_exist():
    # The tables of docs/metrics.md are held to the programs above; what is written with dots stands for several.
    known = set(re.findall(r"^\| `(kvship_\w+)", DOCUMENTS["metrics.md"], re.MULTILINE))
    known |= {name.replace("decode", "prefill", 1) for name in known if "_trace_" in name}
    named = {(document, name) for document, text in DOCUMENTS.items()
             for name in re.findall(r"\bkvship_(?:decode|prefill)_\w+\b(?!\.\.\.)", text)}
    assert len(named) > 50
    assert not {(document, name) for document, name in named
                if re.sub(r"_(bucket|sum|count)$", "", name) not in known}
