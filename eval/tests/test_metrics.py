"""LongBench's metrics against hand-made values and independent implementations."""

import json
import math
import random
import re

import pytest
from kvship_eval import longbench, longbench_sets, metrics
from kvship_eval.divergence import kl_and_agreement
from kvship_eval.longbench_sets import SETS
from rouge import Rouge

CASES = [
    ("The cat sat on the mat.", "A cat sat."),
    ("amber", "amber falcon"),
    ("nothing shared", "two words"),
    ("", "something"),
    ("a the an", "the"),
    ("New York, New York!", "new york"),
]


@pytest.mark.parametrize("answer, reference, wanted", [
    (*CASES[0], 2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2)),  # cat sat on mat / cat sat
    (*CASES[1], 2 / 3),
    (*CASES[2], 0.0),
    (*CASES[3], 0.0),
    (*CASES[4], 0.0),  # articles are no words
    (*CASES[5], 2 / 3),
])
def test_token_f1_is_squads(answer, reference, wanted):
    assert metrics.token_f1(answer, reference) == pytest.approx(wanted)


SUMMARIES = [
    ("a b c d e f", "b d f a c"),
    ("x y", "x y"),
    ("one two one", "one one"),
    ("The mayor spoke. The crowd left early. ", "Early, the crowd left. The mayor did not speak."),
    ("No stop at the end", "It ends. There is none"),
    ("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5"),
    ("...", "something"),
    ("  ", "something "),
    ("U.S. sales rose 3.5 % .", "In the U.S. sales rose by 3.5 %."),
    ("b a b a", "a b a b"),  # two subsequences of the same length
]


@pytest.mark.parametrize("answer, reference", [*CASES, *SUMMARIES])
def test_rouge_l_is_the_published_packages(answer, reference):
    try:
        wanted = Rouge().get_scores([answer], [reference], avg=True)["rouge-l"]["f"]
    except ValueError:  # no sentence: the published evaluation gives 0
        wanted = 0.0
    assert metrics.rouge_l(answer, reference) == pytest.approx(wanted, abs=1e-12)


def test_rouge_l_of_drawn_texts_is_the_published_packages():
    rng = random.Random(7)
    for _ in range(50):
        answer, reference = ("".join(rng.choice(("w ", "x ", "y ", "z ", ". ", ".")) for _ in range(40)) for _ in range(2))
        wanted = Rouge().get_scores([answer], [reference], avg=True)["rouge-l"]["f"]
        assert metrics.rouge_l(answer, reference) == pytest.approx(wanted, abs=1e-12), (answer, reference)


@pytest.mark.parametrize("answer, reference, wanted", [
    ("Type: Number", "Number", 1),
    ("Number or Date", "Number", 1 / 2),
    ("Date", "Number", 0),
    ("", "Number", 0),
    ("number", "Number", 0),  # case counts
    ("Other number", "Other number", 1),
    ("Large city of a country", "Large city of a country", 1 / 2),  # "city" goes, "country" after it stays
])
def test_classification_is_a_share_of_the_classes_named(answer, reference, wanted):
    classes = ["Number", "Date", "Person", "Other number", "city", "country", "Large city of a country"]
    assert metrics.classification(answer, reference, classes) == wanted


@pytest.mark.parametrize("answer, wanted", [("Paragraph 12", 1), ("Paragraph 1 or 12", 1 / 2), ("12, 12 or 3", 2 / 3), ("112", 0),
                                            ("012", 0), ("none", 0), ("", 0)])
def test_numbers_are_shares_of_what_is_said(answer, wanted):
    assert metrics.retrieval(answer, "Paragraph 12") == wanted
    assert metrics.count(answer, "12") == wanted


def test_a_reference_without_a_paragraph_is_named():
    with pytest.raises(ValueError, match="names no paragraph"):
        metrics.retrieval("1", "12")


def matched(a, b):
    """Ratcliff and Obershelp by hand: the characters of the longest common block, and of what lies left and right of it."""
    def block(i, j):
        return next((k for k, (x, y) in enumerate(zip(a[i:], b[j:])) if x != y), min(len(a) - i, len(b) - j))

    blocks = ((i, j, block(i, j)) for i in range(len(a)) for j in range(len(b)))
    i, j, n = max(blocks, key=lambda found: found[2], default=(0, 0, 0))
    return n + matched(a[:i], b[:j]) + matched(a[i + n:], b[j + n:]) if n else 0


@pytest.mark.parametrize("answer, reference, line", [
    ("    return a * b\nmore", "    return a * b", "    return a * b"),
    ("# note\nx = 1", "x = 2", "x = 1"),
    ("// note\ny = f(x)", "y = g(x)", "y = f(x)"),
    ("x = 1  # one\ny = 2", "x = 1", "y = 2"),  # a line that ends in a comment is passed over whole
    ("```\n", "x", ""),
    ("\n\nfoo(bar)", "foo(baz)", "foo(bar)"),
    ("x = 1\n\ny", "", "x = 1"),
    ("", "x", ""),
])
def test_code_is_its_first_line_by_matching_blocks(answer, reference, line):
    wanted = round(200 * matched(line, reference) / (len(line) + len(reference))) / 100
    assert metrics.code_similarity(answer, reference) == wanted


def test_scores_are_the_best_over_references_and_of_the_first_line():
    assert SETS["triviaqa"].score("\nBelgium\nQuestion: next", ["France", "Belgium"], []) == 1
    assert SETS["hotpotqa"].score("Belgium\nQuestion: next", ["Belgium"], []) < 1
    assert SETS["hotpotqa"].score("Belgium", [], []) == 0
    assert {name for name, each in SETS.items() if each.first_line} == {"trec", "triviaqa", "samsum"}


@pytest.mark.parametrize("name", SETS)
def test_an_empty_answer_scores_nothing(name):
    assert SETS[name].score("", ["Paragraph 1"], ["Paragraph 1"]) == 0


def test_output_lengths_are_the_published_ones():
    assert {name: each.max_tokens for name, each in SETS.items()} == {
        "narrativeqa": 128, "qasper": 128, "multifieldqa_en": 64, "hotpotqa": 32, "2wikimqa": 32, "musique": 32, "gov_report": 512,
        "qmsum": 512, "multi_news": 512, "trec": 64, "triviaqa": 32, "samsum": 128, "passage_count": 32, "passage_retrieval_en": 32,
        "lcc": 64, "repobench-p": 64}


def test_published_files_take_the_place_of_ours(tmp_path):
    prompts, lengths = tmp_path / "prompts.json", tmp_path / "lengths.json"
    prompts.write_text(json.dumps({"lcc": "Go on:\n{context}", "trec": "{context}|{input}", "more": "of others"}))
    lengths.write_text(json.dumps({"lcc": 7, "trec": 9}))
    sets = longbench_sets.chosen(["lcc", "trec"], prompts, lengths)
    assert (sets["lcc"].template, sets["lcc"].max_tokens) == ("Go on:\n{context}", 7)
    assert sets["trec"].template.format(context="{x}", input="y") == "{x}|y"
    assert longbench_sets.chosen(["lcc"], None, None) == {"lcc": SETS["lcc"]}


@pytest.mark.parametrize("content, says", [
    ("{", "prompts.json is no JSON"),
    ("[]", "holds a list; wanted an object of sets"),
    ('{"trec": "{context}"}', "has nothing for the set 'lcc'; wanted its prompt"),
    ('{"lcc": 7}', "'lcc' is 7; wanted its prompt"),
    ('{"lcc": "{context} {question}"}', "has the placeholder {question}; wanted {context} and {input}"),
    ('{"lcc": "{}"}', "has the placeholder {}"),
    ('{"lcc": "{context"}', "the prompt of 'lcc' cannot be filled in"),
    ('{"lcc": "{input}"}', "has no placeholder {context}"),
])
def test_wrong_prompts_are_named(tmp_path, content, says):
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        longbench_sets.chosen(["lcc"], path, None)
    assert says in str(error.value)


@pytest.mark.parametrize("value", ["0", '"64"', "6.5", "true", "null"])
def test_wrong_lengths_are_named(tmp_path, value):
    path = tmp_path / "lengths.json"
    path.write_text(f'{{"lcc": {value}}}')
    with pytest.raises(ValueError, match="lengths.json: 'lcc' is .*; wanted its output tokens"):
        longbench_sets.chosen(["lcc"], None, path)
    with pytest.raises(ValueError, match="missing.json cannot be read"):
        longbench_sets.chosen(["lcc"], None, tmp_path / "missing.json")


def test_every_set_has_a_sample_and_table_1_has_its_columns():
    assert len(SETS) == 16
    for name in SETS:
        assert longbench.load(name, None), name
    text = longbench.table([{"set": "lcc", "policy": "full", "score": 0.5}])
    assert "50.00" in text and "Mistral" in text and "43.82" in text


def test_wrong_data_is_named(tmp_path):
    (tmp_path / "lcc.jsonl").write_text('{"input": "", "context": 3, "answers": []}\n')
    with pytest.raises(ValueError, match="lcc.jsonl:1: field 'context' is 3"):
        longbench.load("lcc", tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        longbench.load("trec", tmp_path)
    (tmp_path / "trec.jsonl").write_text('{"input": "", "context": "", "answers": ["a"], "all_classes": null}\n')
    with pytest.raises(ValueError, match="trec.jsonl:1: field 'all_classes' is None"):
        longbench.load("trec", tmp_path)


class WordTokens:
    """A client whose tokens are words with the space before them."""

    def tokenize(self, text):
        self.words = re.findall(r" ?[^ ]+", text)
        return list(range(len(self.words)))

    def detokenize(self, ids):
        return "".join(self.words[i] for i in ids)


@pytest.mark.parametrize("max_tokens, wanted", [(5, "a b c d e"), (4, "a b d e"), (3, "a e"), (2, "a e")])
def test_long_prompts_lose_the_middle_of_their_tokens(max_tokens, wanted):
    assert longbench.cut_middle(WordTokens(), "a b c d e", max_tokens) == wanted


class FakeToken:
    def __init__(self, top):
        self.top = [(token, math.log(probability)) for token, probability in top.items()]


def test_divergence_is_that_of_the_distributions():
    p, q = FakeToken({1: 0.5, 2: 0.25, 3: 0.25}), FakeToken({1: 0.25, 2: 0.5, 3: 0.25})
    kl, agreement = kl_and_agreement([p, p], [p, q])
    assert kl == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2, abs=1e-6)
    assert agreement == 0.5
    with pytest.raises(ValueError, match="2 and 1 forced tokens"):
        kl_and_agreement([p, p], [p])
