"""What is on record is measured once, and nothing else is taken for it; no server."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import grpc
import kvship
import pytest
from kvship.v1 import generation_pb2, types_pb2
from kvship_eval import cli, longbench, longeval, needle, overhead, policies, sensitivity, service
from kvship_eval.cases import HALVES, Cases, Kind
from kvship_eval.haystack import CHOOSE_TEXTS, REPORT_TEXTS, Haystack
from kvship_eval.longbench_sets import SETS
from kvship_eval.policy import KEEP_ALL, Policy
from kvship_eval.records import Records

OTHER = Policy(KEEP_ALL.name, "scorer=snapkv,budget_tokens=64")


NUM_PROMPT_TOKENS = 1000
FULL_BYTES = 2 * 32 * 32 * 256


class Client:
    """Counts what it is asked; every answer is one token, of which it is sure. Two heads' caches, in int4 unless whole."""

    def __init__(self):
        self.asked = 0

    def _shipped(self, compression):
        options = dict(pair.split("=") for pair in compression.split(","))
        if options["scorer"] == "keep_all":
            return FULL_BYTES
        budget = int(options.get("budget_tokens", 64))
        if budget < 16:
            raise kvship.InvalidRequest(grpc.StatusCode.INVALID_ARGUMENT, "wanted at least the 16 that are always kept")
        # Of ada one head keeps five tokens that the other does not.
        more = 5 if options.get("allocator") == "ada" else 0
        return sum(-(-tokens // 32) * 32 * 80 + 4 * tokens for tokens in (budget + more, budget - more))

    def generate(self, *_, compression, **options):
        self.asked += 1
        forced = options.get("forced_tokens") or [5]
        kv = generation_pb2.KvReport(uncompressed_bytes=FULL_BYTES, shipped_bytes=self._shipped(compression))
        report = generation_pb2.GenerateReport(usage=generation_pb2.Usage(prompt_tokens=NUM_PROMPT_TOKENS), kv=kv)
        return kvship.Generation("answer", [kvship.Token(token, 0.0, ((token, 0.0),)) for token in forced], report)

    def tokenize(self, text):
        return text.split()

    def detokenize(self, ids):
        return " ".join(ids)


def cases_of(text):
    return Cases(dataclasses.replace(HALVES["report"], texts=text, kinds=[Kind("single", "digits")]))


def ask_needle(client, records, text=REPORT_TEXTS, policy=KEEP_ALL):
    needle.run(client, records, [policy], cases_of(text), [200], 1)


def ask_longeval(client, records, text=None, policy=KEEP_ALL):
    longeval.run(client, records, [policy], [200], 1, 0)


def ask_sensitivity(client, records, text=REPORT_TEXTS, policy=KEEP_ALL):
    sensitivity.run(client, records, policy.options, [16], [5], ["avg"], cases_of(text), [200], 1)


def ask_policies(client, records, text=REPORT_TEXTS, policy=KEEP_ALL):
    policies.run(client, records, [policy], [4.0], cases_of(text), [200], 1)


def ask_longbench(client, records, text=None, policy=KEEP_ALL):
    data = None if text is None else text[0]
    longbench.run(client, records, [policy], {"lcc": SETS["lcc"]}, data, 1000, 1)


def ask_overhead(client, records, text=REPORT_TEXTS, policy=KEEP_ALL):
    overhead.run(client, records, [policy], [200], [1], 12, 1, Haystack(text), None)


@pytest.fixture
def other_data(tmp_path):
    (tmp_path / "lcc.jsonl").write_text(json.dumps({"input": "", "context": "other code", "answers": ["x"]}) + "\n")
    return tmp_path


@pytest.fixture
def measured_at_once(monkeypatch):
    def measure(client, prompt, policy, *_):
        client.generate(prompt, compression=policy.options)
        return {"ms_per_token": 1.0}

    monkeypatch.setattr(overhead, "measure", measure)


@pytest.mark.parametrize("ask", [ask_needle, ask_longeval, ask_sensitivity, ask_policies, ask_longbench, ask_overhead])
def test_a_rerun_asks_nothing_and_another_text_or_policy_is_refused(ask, tmp_path, other_data, measured_at_once):
    client, out = Client(), tmp_path / "out"
    ask(client, Records(out, "study", "model"))
    asked, before = client.asked, (out / "study.jsonl").read_bytes()
    assert asked > 0
    ask(client, Records(out, "study", "model"))
    assert client.asked == asked
    others = {"policy": OTHER}
    if ask is not ask_longeval:  # whose text is its own
        others["text"] = [other_data] if ask is ask_longbench else CHOOSE_TEXTS
    for name, other in others.items():
        with pytest.raises(ValueError, match=r"study.jsonl: the record '.*' is of another text or other options.*--out"):
            ask(client, Records(out, "study", "model"), **{name: other})
    assert client.asked == asked and (out / "study.jsonl").read_bytes() == before


def test_records_of_another_model_are_refused_and_can_still_be_read(tmp_path):
    ask_needle(Client(), Records(tmp_path, "needle", "model"))
    with pytest.raises(ValueError, match=r"needle.jsonl: the record 'single-.*' is of another model.*--out"):
        Records(tmp_path, "needle", "other model")
    assert len(Records(tmp_path, "needle")) == 1


def test_what_answers_is_the_model_with_its_defaults():
    def identity(weights, window):
        return service.identity(types_pb2.ModelInfo(name="model", identity=weights,
                                                    default_compression=types_pb2.CompressionOptions(window=window)))
    assert identity(b"one", 16) == identity(b"one", 16)
    assert len({identity(b"one", 16), identity(b"two", 16), identity(b"one", 32)}) == 3


def test_records_that_name_no_model_are_plotted_and_not_added_to(tmp_path):
    ask_needle(Client(), Records(tmp_path, "needle"))
    file = tmp_path / "needle.jsonl"
    old = {name: value for name, value in json.loads(file.read_text()).items() if name not in ("model", "asked")}
    file.write_text(json.dumps({**old, "uncompressed_bytes": 2, "shipped_bytes": 1}) + "\n")
    assert needle.plot(tmp_path)[0].exists()
    with pytest.raises(ValueError, match="the record 'single-.*' does not say of which model"):
        ask_needle(Client(), Records(tmp_path, "needle", "model"))


def test_records_come_back_and_survive_an_interruption(tmp_path):
    records = Records(tmp_path, "study")
    records.add("a", "question", {"score": 1})
    with records.path.open("a") as file:
        file.write('{"key": "b", "sco')
    again = Records(tmp_path, "study")
    assert again.holds("a", "question") and not again.holds("b", "question")
    again.add("b", "question", {"score": 0})
    assert [record["score"] for record in Records(tmp_path, "study")] == [1, 0]
    (tmp_path / "bad.jsonl").write_text("no json\n{}\n")
    with pytest.raises(ValueError, match="bad.jsonl:1 is not a record"):
        Records(tmp_path, "bad")


def test_a_run_is_noted_once_it_adds_something(tmp_path):
    args = SimpleNamespace(out=tmp_path)
    records = cli._records(args, "needle", "a name", "identity")
    assert not (tmp_path / "needle.runs.jsonl").exists()
    ask_needle(Client(), records)
    noted = (tmp_path / "needle.runs.jsonl").read_text()
    assert json.loads(noted)["model"] == "a name"
    (tmp_path / "needle.runs.jsonl").unlink()
    ask_needle(Client(), cli._records(args, "needle", "a name", "identity"))
    assert not (tmp_path / "needle.runs.jsonl").exists()


@pytest.mark.parametrize("options, factor, budget", [
    ("scorer=snapkv,encoder=int4", 32, 96),  # 3.05 pages
    ("scorer=snapkv,encoder=int4", 16, 192),
    ("scorer=snapkv,encoder=int4,allocator=ada", 32, 91),  # 96 and 86: the same pages
    ("scorer=snapkv,encoder=int4", 2, NUM_PROMPT_TOKENS),
    ("scorer=snapkv,encoder=int4", 200, 15),  # which is refused, and not measured
])
def test_a_budget_is_the_largest_that_its_bytes_allow(tmp_path, options, factor, budget):
    client, records = Client(), Records(tmp_path, "policies", "model")
    arguments = [Policy("rival", options)], [factor], cases_of(REPORT_TEXTS), [200], 1
    policies.run(client, records, *arguments)
    [fitted] = records.of(study="budget")
    assert fitted["budget_tokens"] == budget
    measured = records.of(study="needle", policy=f"rival {factor}x")
    assert [each["options"] for each in measured] == ([f"{options},budget_tokens={budget}"] if budget >= 16 else [])
    assert all(each["shipped_bytes"] * factor <= each["uncompressed_bytes"] for each in measured)


def test_results_go_to_a_folder_of_their_own():
    assert cli._parser().parse_args(["needle"]).out == Path("kvship-eval-results")


def test_what_chooses_settings_looks_at_the_half_for_that():
    halves = {study: cli._parser().parse_args([study, *flags]).half for study, flags in (
        ("needle", ()), ("policies", ()), ("sensitivity", ()), ("sweep", ("--inspect=program", "--model=model")))}
    assert halves == {"needle": "report", "policies": "report", "sensitivity": "choose", "sweep": "choose"}
