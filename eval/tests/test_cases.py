"""Cases, records, budgets and the command line; no server."""

import json
import subprocess
import sys

import numpy as np
import pytest
from kvship_eval import longeval, needle, policies, runs, sweep
from kvship_eval.cases import ANSWERS, FORMS, FUNCTION_CALL, HALVES, Cases, Kind, score
from kvship_eval.haystack import CHOOSE_TEXTS, Haystack
from kvship_eval.longeval import lines_case
from kvship_eval.plots import interval, span
from kvship_eval.policy import TOKEN_BYTES, Policy
from kvship_eval.records import Records
from kvship_eval.report import write_report

@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_case_holds_what_it_asks_for(half, form, answer):
    cases = Cases(HALVES[half])
    case = cases.needle(Kind(form, answer), 1000, 0.5, 7)
    assert score(case.message, case.expected) == 1
    assert len(case.expected) == (2 if form in ("multi_value", "multi_query") else 1)
    assert 3500 < len(case.message) < 5500
    assert case == cases.needle(Kind(form, answer), 1000, 0.5, 7)
    assert case != cases.needle(Kind(form, answer), 1000, 0.5, 8)


def test_a_request_for_a_call_holds_the_function_that_does_it():
    cases = Cases(HALVES["report"])
    for i in range(20):
        case = cases.needle(FUNCTION_CALL, 700, 0.5, i)
        name, key = case.expected
        described = [json.loads(line) for line in case.message.splitlines() if line.startswith("{")]
        [right] = [function for function in described if function["name"] == name]
        assert key in right["parameters"]["properties"]
        assert 0.4 < described.index(right) / len(described) < 0.6
        request = case.message.splitlines()[-1]
        assert name not in request and name.split("_")[1] in request
        assert len({function["name"].split("_")[1] + function["description"] for function in described}) == len(described)
    assert len(cases.needle(FUNCTION_CALL, 20_000, 0.5).message.splitlines()) == 148  # there are no more


def test_depth_is_where_the_fact_stands():
    places = []
    for depth in (0.0, 0.5, 1.0):
        case = Cases(HALVES["report"]).needle(Kind("single", "digits"), 2000, depth)
        places.append(case.message.index(case.expected[0]) / len(case.message))
    assert places[0] < 0.05 and 0.35 < places[1] < 0.65 and places[2] > 0.9


def test_score_is_a_share_and_forgives_case_and_spaces():
    assert score("It is AMBER\n falcon.", ("amber falcon", "river")) == 0.5


def test_the_halves_share_no_text_wording_seed_or_kind():
    chosen, reported = HALVES["choose"], HALVES["report"]
    assert not set(chosen.texts) & set(reported.texts) and not set(chosen.kinds) & set(reported.kinds)
    assert chosen.seed != reported.seed
    for parts in ("places", "words", "acts"):
        assert not set(getattr(chosen.wording, parts)) & set(getattr(reported.wording, parts))
    for answer in ANSWERS:
        assert chosen.wording.sentences[answer] != reported.wording.sentences[answer]


def test_a_missing_haystack_is_named(tmp_path):
    with pytest.raises(ValueError, match="missing.txt cannot be read"):
        Haystack([tmp_path / "missing.txt"])
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="hold no paragraph"):
        Haystack([tmp_path / "empty.txt"])


def test_longeval_asks_for_the_line_at_the_depth():
    case = lines_case(1000, 0.0, 1)
    assert case.expected[0] in case.message.split("\n")[2]
    assert 1500 < len(case.message) < 4500
    longest = lines_case(longeval.MOST_TOKENS, 1.0, 1).message.split("\n")
    assert len({line.split(":")[0] for line in longest if line.startswith("line ")}) == 4400


def test_equal_bytes_give_smaller_tokens_more_places():
    shares = {encoder: float(Policy("p", f"scorer=snapkv,encoder={encoder}").at_bytes(16).options.split("=")[-1])
              for encoder in ("f16", "int8", "int4")}
    assert shares["f16"] == pytest.approx(256 / 16 / 260, abs=1e-4)
    assert shares["int4"] == pytest.approx(256 / 16 / 84, abs=1e-4)


def test_every_encoder_has_its_bytes():
    # A page of 32 tokens of 64 channels, and 4 bytes of position per token: kernels/page_layout.h.
    pages = {"f32": 2 * 32 * 64 * 4, "f16": 2 * 32 * 64 * 2, "bf16": 2 * 32 * 64 * 2, "fp8": 2 * 32 * 64 + 16,
             "int8": 2 * 32 * 64 + 512, "int4": 32 * 64 + 512}
    assert {encoder: num_bytes / 32 + 4 for encoder, num_bytes in pages.items()} == TOKEN_BYTES


@pytest.mark.parametrize("options, says", [
    ("encoder=int3", "policy 'p' has the encoder 'int3'; wanted one of f32, f16, bf16, fp8, int8, int4"),
    ("foo", "policy 'p' has the option 'foo'; wanted NAME=VALUE, such as encoder=int4"),
])
def test_a_policy_without_bytes_is_named(options, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        Policy("p", options).at_bytes(4)


def test_spaces_around_options_do_not_count():
    assert Policy("p", "scorer=snapkv, encoder = int4,").share(16) == Policy("p", "scorer=snapkv,encoder=int4").share(16)


def test_a_share_of_the_tokens_is_asked_for_without_a_servers_least():
    assert Policy("p", "scorer=snapkv").at_bytes(4).asked.endswith(",min_tokens=0")
    for text in ("scorer=snapkv,budget_tokens=64", "budget_ratio=0.19,min_tokens=256"):
        policy = Policy("p", text)
        assert policy.at_bytes(4) == policy and policy.asked == text


def needle_record(policy, length):
    return {"policy": policy, "length": length, "depth": 0.5, "score": 0.5, "kind": "single-digits", "uncompressed_bytes": 80,
            "shipped_bytes": 80 if policy == "keep_all" else 10}


def test_a_report_says_what_was_asked_and_what_was_run(tmp_path):
    records = Records(tmp_path, "needle")
    for policy in ("keep_all", "other"):
        for length in (500, 2000):
            records.add(f"{policy}{length}", "", needle_record(policy, length))
    runs.note(tmp_path, "needle", ["needle", "--cases", "1", "--server=here:1"], "a <model>")
    assert needle.plot(tmp_path)[0].stat().st_size > 1000
    page = write_report(tmp_path, ["needle"]).read_text()
    for part in ("data:image/png;base64", "Needles in a haystack", "single-digits", "500 and 2K tokens",
                 f"8.0x fewer bytes) 50% ({span([0.5, 0.5])})", "kvship-eval needle --cases 1<", "a &lt;model&gt;", "prefers-color-scheme: dark"):
        assert part in page
    assert "http" not in page.replace("http-equiv", "") and "here:1" not in page
    with pytest.raises(ValueError, match="holds no results"):
        write_report(tmp_path, [])


def test_longeval_has_a_table_of_ours(tmp_path):
    records = Records(tmp_path, "longeval")
    for policy, score in (("keep_all", 1), ("other", 0)):
        for length in (200, 300):
            records.add(f"{policy}{length}", "", {**needle_record(policy, length), "score": score})
    longeval.plot(tmp_path)
    rows = [line.split() for line in (tmp_path / "longeval.txt").read_text().splitlines()]
    assert rows == [["lines", "found", "200", "300", "mean", "95", "%", "bytes"],
                    ["keep_all", "100%", "100%", "100%", span([1, 1]), "1.0x"], ["other", "0%", "0%", "0%", span([0, 0]), "8.0x"]]


def test_intervals_are_those_of_means_and_of_their_shares():
    scores = [1.0] * 36 + [0.0] * 36
    assert interval(scores) == pytest.approx((0.5 - 0.1155, 0.5 + 0.1155), abs=0.015)  # 1.96 * sqrt(0.25 / 72)
    assert interval(scores) == interval(scores)
    assert interval(scores, [1.0] * 72) == pytest.approx(interval(scores), abs=0.015)
    assert span([0.0, 0.0], [0.0, 0.0]) == "-"


def test_cases_that_agree_leave_the_next_one_open():
    low, high = interval([1.0] * 72)
    # Of Beta(72.5, 0.5), which Jeffreys' prior makes of 72 of 72.
    assert (low, high) == pytest.approx((0.966, 1.0), abs=0.003)
    low, high = interval([1.0] * 66 + [0.0] * 6, [1.0] * 66 + [0.0] * 6)
    assert low < 0.98 and high > 1.02
    assert interval([1.0] * 12, [1.0] * 12)[0] < low  # the fewer, the wider


def test_intervals_hold_the_truth_where_nearly_all_cases_agree():
    """Of 72 cases of which the full cache finds 92 %, a policy loses 2 %: of 20 intervals 19 are to hold 98 %."""
    drawn = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        full = drawn.random(72) < 0.92
        low, high = interval(full & (drawn.random(72) >= 0.02), full)
        held += low <= 0.98 <= high
    assert held >= 90


def test_a_sweep_has_a_table_of_shares_of_the_full_cache(tmp_path):
    records = Records(tmp_path, "sweep-choose")
    for setting, scores in (("keep_all", (1, 0.5)), ("half 4x", (0.75, 0)), ("few 8x", (1,))):
        for i, score in enumerate(scores):
            records.add(f"case {i}/{setting}", "", {
                "setting": setting, "kind": "single-digits", "length": 1000, "depth": i, "score": score, "prompt_tokens": 10,
                "num_bytes": 80 if setting == "keep_all" else 20})
    sweep.plot(tmp_path)
    rows = [line.split()[:5] for line in (tmp_path / "sweep-choose.txt").read_text().splitlines()]
    assert rows[1] == ["few", "8x", "4.0x", "100%", "100%"]  # of the one case that it was asked
    assert rows[2] == ["keep_all", "1.0x", "75%", "100%", "-"]
    assert rows[3] == ["half", "4x", "4.0x", "38%", "50%"]


def test_where_the_full_cache_finds_nothing_there_are_no_shares(tmp_path):
    records = Records(tmp_path, "sweep-choose")
    for setting, score in (("keep_all", 0), ("other", 1)):
        records.add(f"case/{setting}", "", {"setting": setting, "kind": "single-digits", "length": 1000, "depth": 0, "score": score,
                                            "prompt_tokens": 10, "num_bytes": 80})
    sweep.plot(tmp_path)
    rows = [line.split() for line in (tmp_path / "sweep-choose.txt").read_text().splitlines()]
    assert rows[1:] == [["other", "1.0x", "100%", "-", "-"], ["keep_all", "1.0x", "0%", "-", "-"]]

    records = Records(tmp_path, "policies")
    for policy, score in (("keep_all", 0), ("other 8x", 1)):
        records.add(policy, "", {**needle_record(policy, 1000), "study": "needle", "score": score, "retained_mass": 1,
                                 "chosen_mass": 1, "prefill_ms": 1, "compress_ms": 1})
    policies.plot(tmp_path)
    rows = [line.split()[:-6] for line in (tmp_path / "policies.txt").read_text().splitlines()]
    assert [row[-1] for row in rows[1:]] == ["-", "-"]


def test_a_run_that_goes_on_is_the_same_run(tmp_path):
    for _ in range(2):
        runs.note(tmp_path, "study", ["study", "--lengths", "500", "--out", str(tmp_path), "--prefill-pid=7"], "model")
    runs.note(tmp_path, "study", ["study", "--policy", "a b:c"], "model")
    commands = [run.command for run in runs.read(tmp_path, "study")]
    assert commands == ["kvship-eval study --lengths 500", "kvship-eval study --policy 'a b:c'"]
    (tmp_path / "bad.runs.jsonl").write_text('{"command": "only"}\n')
    with pytest.raises(ValueError, match="bad.runs.jsonl does not list runs"):
        runs.read(tmp_path, "bad")


@pytest.mark.parametrize("flags, says", [
    (["needle", "--server=127.0.0.1:1", "--kinds", "double-digits"], "'double-digits' is no kind"),
    (["needle", "--lengths", "0"], "'0' is not a whole number above 0"),
    (["policies", "--factors", "0.5"], "'0.5' is no list of finite factors of at least 1"),
    (["policies", "--factors", "4,nan"], "'4,nan' is no list of finite factors"),
    (["sweep", "--factors", "inf"], "'inf' is no list of finite factors"),
    (["policies", "--policy", "x:foo"], "argument --policy: policy 'x' has the option 'foo'; wanted NAME=VALUE"),
    (["sweep", "--policy", "encoder=int3"], "policy 'encoder=int3' has the encoder 'int3'; wanted one of f32, f16"),
    (["needle", "--policy", "x:scorer=snapkv", "--policy", "x:scorer=h2o"],
     "argument --policy: two policies have the name 'x'; wanted one of each"),
    (["needle", "--policy", "keep_all:scorer=snapkv"],
     "policy 'keep_all' has the options 'scorer=snapkv'; that name is the full cache's, scorer=keep_all,encoder=f16"),
    (["longeval", "--lengths", "1000,96861"], "'1000,96861' has a length above 96860, the most that there are lines for"),
    (["report", "--out", "/proc/1/none"], "kvship-eval report: "),
])
def test_wrong_flags_are_one_sentence(flags, says):
    done = subprocess.run([sys.executable, "-m", "kvship_eval.cli", *flags], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and says in done.stderr and "Traceback" not in done.stderr


def test_choose_texts_are_there():
    assert all(path.exists() for path in CHOOSE_TEXTS), json.dumps([str(path) for path in CHOOSE_TEXTS])
