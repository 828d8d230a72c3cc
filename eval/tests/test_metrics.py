"""LongBench's metrics against hand-made values and independent implementations."""

import math

import pytest
from kvship_eval import longbench, metrics
from kvship_eval.divergence import kl_and_agreement
from rapidfuzz.distance import LCSseq

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


@pytest.mark.parametrize("answer, reference", [*CASES, ("a b c d e f", "b d f a c"), ("x y", "x y"), ("one two one", "one one")])
def test_rouge_l_counts_the_longest_common_subsequence(answer, reference):
    said, wanted = answer.split(), reference.split()
    longest = LCSseq.similarity(said, wanted)
    f = 2 * longest / (len(said) + len(wanted)) if longest else 0.0  # harmonic mean of LCS / m and LCS / n
    assert metrics.rouge_l(answer, reference) == pytest.approx(f)


def test_classification_halves_for_a_second_name():
    classes = ["Number", "Date", "Person", "Other number"]
    assert metrics.classification("Type: Number", "Number", classes) == 1
    assert metrics.classification("Number or Date", "Number", classes) == 0.5
    assert metrics.classification("Date", "Number", classes) == 0
    assert metrics.classification("Other number", "Other number", classes) == 1


def test_numbers_are_shares_of_what_is_said():
    assert metrics.retrieval("Paragraph 12", "Paragraph 12") == 1
    assert metrics.retrieval("Paragraph 1 or 12", "Paragraph 12") == 0.5
    assert metrics.retrieval("none", "Paragraph 12") == 0
    assert metrics.count("There are 7 of 30", "7") == 0.5
    with pytest.raises(ValueError, match="names no paragraph"):
        metrics.retrieval("1", "12")


@pytest.mark.parametrize("answer, reference", [("    return a * b\nmore", "    return a * b"), ("# note\nx = 1", "x = 2"),
                                               ("```\n", "x"), ("\n\nfoo(bar)", "foo(baz)")])
def test_code_is_its_first_line_by_matching_blocks(answer, reference):
    line = next((each for each in answer.lstrip("\n").split("\n") if not set("`#") & set(each)), "")
    # Ratcliff and Obershelp by hand: twice the matched characters over all characters.
    def matched(a, b):
        best = max(((i, j, n) for i in range(len(a)) for j in range(len(b))
                    for n in [next((k for k in range(min(len(a) - i, len(b) - j)) if a[i + k] != b[j + k]),
                                   min(len(a) - i, len(b) - j))]), key=lambda found: found[2], default=(0, 0, 0))
        i, j, n = best
        return n + matched(a[:i], b[:j]) + matched(a[i + n:], b[j + n:]) if n else 0
    wanted = 2 * matched(line, reference) / (len(line) + len(reference)) if line else 0
    assert metrics.code_similarity(answer, reference) == pytest.approx(wanted, abs=0.0051)


def test_scores_are_the_best_over_references_and_of_the_first_line():
    assert longbench.score("triviaqa", "Belgium\nQuestion: next", ["France", "Belgium"], []) == 1
    assert longbench.score("hotpotqa", "Belgium\nQuestion: next", ["Belgium"], []) < 1


def test_every_set_has_a_sample_and_table_1_has_its_columns():
    assert len(longbench.SETS) == 16
    for name in longbench.SETS:
        assert longbench.load(name, None), name
    text = longbench.table([{"set": "lcc", "policy": "full", "score": 0.5}])
    assert "50.00" in text and "Mistral" in text and "43.82" in text


def test_wrong_data_is_named(tmp_path):
    (tmp_path / "lcc.jsonl").write_text('{"input": "", "context": 3, "answers": []}\n')
    with pytest.raises(ValueError, match="lcc.jsonl:1: field 'context' is 3"):
        longbench.load("lcc", tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        longbench.load("trec", tmp_path)


def test_long_prompts_lose_their_middle():
    cut = longbench.cut_middle("a" * 50_000 + "b" * 50_000, 1000)
    assert len(cut) == 3910 and cut.startswith("a" * 1955) and cut.endswith("b" * 1955)


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
