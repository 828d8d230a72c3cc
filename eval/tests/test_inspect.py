"""Studies that run kvship-inspect, against a stand-in for it."""

import json
import sys

import pytest
from kvship_eval import sweep
from kvship_eval.inspect_program import Inspect

# Answers the first case of a sweep, then dies.
DIES = f"""#!{sys.executable}
import json, os, signal, sys
flags = dict(flag.split("=", 1) for flag in sys.argv[3:])
case = json.loads(open(flags["--cases-file"]).readline())
answer = {{"text": "", "num_bytes": 1, "kept_tokens": 1, "retained_mass": 1}}
print(json.dumps({{"prompt_tokens": 7, "answers": [answer] * len(case["compressions"])}}), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
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
            sweep.run_sweep(program(DIES), tmp_path / "model", "choose", settings, [100], tmp_path)
        keys = [json.loads(line)["key"] for line in (tmp_path / "sweep-choose.jsonl").read_text().splitlines()]
        assert len(set(keys)) == len(keys) == num_answered * len(settings)


def test_what_inspect_says_is_the_error(program, tmp_path):
    inspect = Inspect(program("#!/bin/sh\necho no such model >&2\nexit 3\n"), tmp_path / "model")
    with pytest.raises(RuntimeError, match="^no such model$"):
        inspect.tokens("text")
    with pytest.raises(RuntimeError, match="exit code 3 and said nothing"):
        Inspect(program("#!/bin/sh\nexit 3\n"), tmp_path / "model").tokens("text")
