"""That the tables of flags and metrics in docs/ say what the programs say."""

import doc_tables
import pytest


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
