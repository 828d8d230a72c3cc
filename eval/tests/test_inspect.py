"""Studies that run kvship-inspect, against a stand-in for it."""

import json
import sys

import pytest
from kvship_eval import observe, sweep
from kvship_eval.cases import HALVES, Cases
from kvship_eval.inspect_program import Inspect
from kvship_eval.policy import RIVALS
from kvship_eval.records import Records

POINTS = sweep.points(Cases(HALVES["choose"]), [100])

# Answers the first case of a sweep, says more than a pipe holds, then ends as told.
ENDS = f"""#!{sys.executable}
import json, os, signal, sys
flags = dict(flag.split("=", 1) for flag in sys.argv[3:])
case = json.loads(open(flags["--cases-file"]).readline())
answer = {{"text": "", "num_bytes": 1, "kept_tokens": 1, "retained_mass": 1}}
print(json.dumps({{"prompt_tokens": 7, "answers": [answer] * len(case["compressions"])}}), flush=True)
sys.stderr.write(" " * (1 << 20))
END
"""
DIES = ENDS.replace("END", "print(1, end='', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
STOPS = ENDS.replace("END", "")

# Gives every compression the same recalls, in two layers, of which one keeps nothing of the middle.
RECALLS = f"""#!{sys.executable}
import json, sys
flags = dict(flag.split("=", 1) for flag in sys.argv[3:])
case = json.loads(open(flags["--cases-file"]).readline())
assert case["message"].startswith("a document") and case["oracle_tokens"] == 128
answer = {{"kept_tokens": 7, "recall": [0.5, 1.0], "middle_recall": [None, 0.25]}}
print(json.dumps({{"answers": [answer] * len(case["compressions"])}}))
"""


@pytest.fixture
def program(tmp_path):
    def make(text):
        path = tmp_path / "kvship-inspect"
        path.write_text(text)
        path.chmod(0o700)
        return path
    return make


def test_a_sweep_that_dies_says_so_and_goes_on_from_there(program, tmp_path):
    settings = {"keep_all": "scorer=keep_all", "half": "budget_ratio=0.5"}
    for num_answered in (1, 2):
        with pytest.raises(RuntimeError, match="kvship-inspect ended with signal 9 and said nothing"):
            records = Records(tmp_path, "sweep-choose")
            sweep.run_sweep(Inspect(program(DIES), tmp_path / "model"), records, "choose", settings, POINTS)
        keys = [json.loads(line)["key"] for line in (tmp_path / "sweep-choose.jsonl").read_text().splitlines()]
        assert len(set(keys)) == len(keys) == num_answered * len(settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kvship-inspect", "sweep-choose.jsonl"]


def test_a_sweep_without_all_of_its_answers_is_an_error(program, tmp_path):
    with pytest.raises(RuntimeError, match="kvship-inspect ended after 1 of 16 cases"):
        sweep.run_sweep(Inspect(program(STOPS), tmp_path / "model"), Records(tmp_path, "sweep-choose"), "choose",
                        {"keep_all": "scorer=keep_all"}, POINTS)


def test_a_sweep_of_other_settings_under_the_same_names_is_refused(program, tmp_path):
    for text, says in (("budget_ratio=0.5", "ended after"), ("budget_ratio=0.25", "of another text or other options")):
        with pytest.raises((RuntimeError, ValueError), match=says):
            sweep.run_sweep(Inspect(program(STOPS), tmp_path / "model"), Records(tmp_path, "sweep-choose"), "choose",
                            {"half": text}, POINTS)


def test_what_inspect_says_is_the_error(program, tmp_path):
    inspect = Inspect(program("#!/bin/sh\necho no such model >&2\nexit 3\n"), tmp_path / "model")
    with pytest.raises(RuntimeError, match="^no such model$"):
        inspect.tokens("text")
    with pytest.raises(RuntimeError, match="exit code 3 and said nothing"):
        Inspect(program("#!/bin/sh\nexit 3\n"), tmp_path / "model").tokens("text")


def test_recalls_are_means_over_layers_and_documents(program, tmp_path):
    policies = [policy.at_bytes(factor) for factor in observe.RECALL_FACTORS for policy in RIVALS]
    recalls = observe._recalls(Inspect(program(RECALLS), tmp_path / "model"), "a document and a question", policies)
    assert len(recalls) == len(RIVALS) * len(observe.RECALL_FACTORS)
    assert all(recall == {"kept_tokens": 7, "all": 0.75, "middle": 0.25} for recall in recalls.values())
    other = {name: {"kept_tokens": 9, "all": 0.25, "middle": 0.75} for name in recalls}
    rows = [line.split() for line in observe.table([recalls, other]).splitlines()]
    assert rows[0] == ["recall@B", "8x:", "8", "kept", "16x:", "8", "kept", "32x:", "8", "kept"]
    assert rows[2] == ["default", *["0.50", "0.50"] * 3] and len(rows) == 2 + len(RIVALS)


def test_recalls_stand_under_the_picture_once_they_are_measured(tmp_path):
    records = Records(tmp_path, "observe")
    records.add("hit_rate/0", "", {"study": "hit_rate", "rates": [[0.5, 1.0]] * observe.NUM_PROMPT_WINDOWS})
    for study in ("question_last", "question_first"):
        records.add(f"{study}/0", "", {"study": study, "overlaps": [0.5, 1.0]})
    observe.plot(tmp_path)
    caption = tmp_path / "observe.caption.json"
    assert "recall@B" not in caption.read_text() and not (tmp_path / "observe.txt").exists()
    recalls = {policy.at_bytes(factor).name: {"kept_tokens": 9, "all": 0.25, "middle": 0.75} for policy in RIVALS
               for factor in observe.RECALL_FACTORS}
    records.add("recall/0", "", {"study": "recall", "recalls": recalls})
    observe.plot(tmp_path)
    assert "recall@B, means over 1 documents" in caption.read_text() and "0.75" in (tmp_path / "observe.txt").read_text()
