"""What windows of a text vote for, per layer: the paper's observations (arXiv 2404.14469, Fig. 2 to 5).

Hit rate: of the tokens that generation attends to, the share that the prompt's windows had voted for. Overlap: of the votes of
two questions on one document; with the question last, and with it first.

Recall@B: of the B prompt tokens that an answer, made with the full cache, attends to most, the share that is among the B tokens
which a policy keeps. The oracle is the sum of the answer's attention, not pooled (tools/oracle_recall.h).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from kvship_eval.haystack import REPORT_TEXTS, Haystack
from kvship_eval.inspect_program import Inspect
from kvship_eval.plots import listed, save
from kvship_eval.policy import RIVALS, Policy
from kvship_eval.records import Record, Records

WINDOW = 128
NUM_PROMPT_WINDOWS = 20
NUM_GENERATED_WINDOWS = 4
QUESTIONS = ("What does the document say about the rights of those who receive a copy?",
             "What does the document say about damages and who is liable for them?")
RECALL_FACTORS = (8, 16, 32)
ORACLE_TOKENS = 128


def _share(found: Sequence[int], among: Sequence[int]) -> float:
    """The share of `found` that is in `among`; NaN of nothing."""
    return len(set(found) & set(among)) / len(found) if found else float("nan")


def _hit_rates(inspect: Inspect, prompt: list[int]) -> list[list[float]]:
    """[window][layer]: of what all generated windows attend to, the share that the window voted for; means over heads."""
    num_generated = NUM_GENERATED_WINDOWS * WINDOW
    output = inspect.with_tokens("generate", prompt, f"--max-tokens={num_generated}")["tokens"]
    if len(output) < WINDOW:
        raise RuntimeError(f"the model ended its text after {len(output)} tokens; wanted at least {WINDOW}")
    tokens = prompt + output
    prefix = len(prompt) - NUM_PROMPT_WINDOWS * WINDOW
    ends = [prefix + WINDOW * (i + 1) for i in range(NUM_PROMPT_WINDOWS + len(output) // WINDOW)]
    windows = ",".join(f"{end - WINDOW}:{end}" for end in ends)
    measured = inspect.with_tokens("attention", tokens, f"--prefix-tokens={prefix}", f"--windows={windows}",
                                   f"--generated-from={len(prompt)}")["windows"]
    rates = []
    for window in measured[:NUM_PROMPT_WINDOWS]:
        layers = []
        for layer, heads in enumerate(window["voted"]):
            shares = [_share(later["attended"][layer][head], voted) for head, voted in enumerate(heads)
                      for later in measured[NUM_PROMPT_WINDOWS:]]
            layers.append(float(np.nanmean(shares)) if not np.all(np.isnan(shares)) else float("nan"))
        rates.append(layers)
    return rates


def _overlaps(inspect: Inspect, document: str, first: bool) -> list[float]:
    """Per layer: the overlap of the last windows' votes for two questions on the document."""
    votes = []
    for question in QUESTIONS:
        text = f"{question}\n\n{document}\n\n" if first else f"{document}\n\n{question}\nAnswer:"
        tokens = inspect.tokens(text)
        skipped = len(inspect.tokens(f"{question}\n\n")) if first else 0
        prefix = len(inspect.tokens(document)) + skipped - WINDOW
        begin = len(tokens) - 32
        windows = inspect.with_tokens("attention", tokens, f"--prefix-tokens={prefix}",
                                      f"--windows={begin}:{len(tokens)}")["windows"]
        # As positions in the document, wherever it stands.
        votes.append([[[position - skipped for position in head if position >= skipped] for head in layer]
                      for layer in windows[0]["voted"]])
    return [float(np.mean([_share(ours, theirs) for ours, theirs in zip(a, b)])) for a, b in zip(*votes)]


def _recalls(inspect: Inspect, message: str, policies: Sequence[Policy]) -> Record:
    """Of every policy: tokens kept and both recalls, means over heads and layers."""
    answers = inspect.answers({"message": message, "max_tokens": 1, "oracle_tokens": ORACLE_TOKENS,
                               "compressions": [policy.options for policy in policies]})
    # A layer that keeps nothing of the middle has no recall there: null, then NaN.
    return {policy.name: {"kept_tokens": answer["kept_tokens"], "all": float(np.mean(answer["recall"])),
                          "middle": float(np.nanmean(np.array(answer["middle_recall"], dtype=float)))}
            for policy, answer in zip(policies, answers, strict=True)}


def run(inspect: Inspect, records: Records, length: int, num_documents: int) -> None:
    """Hit rates of each window, overlaps and recalls on documents of about `length` tokens."""
    haystack = Haystack(REPORT_TEXTS)
    policies = [policy.at_bytes(factor) for factor in RECALL_FACTORS for policy in RIVALS]
    with tqdm(total=4 * num_documents, desc="observe") as bar:
        for i in range(num_documents):
            document = haystack.document(length, random.Random(f"observe/{i}"))
            if not records.holds(f"hit_rate/{i}", document):
                tokens = inspect.tokens(document)
                if len(tokens) <= NUM_PROMPT_WINDOWS * WINDOW:
                    raise ValueError(f"--length {length} gives {len(tokens)} tokens; wanted more than the "
                                     f"{NUM_PROMPT_WINDOWS * WINDOW} of the windows")
                records.add(f"hit_rate/{i}", document, {"study": "hit_rate", "rates": _hit_rates(inspect, tokens)})
            bar.update()
            for name, first in (("question_last", False), ("question_first", True)):
                asked: tuple[object, ...] = document, QUESTIONS
                if not records.holds(f"{name}/{i}", asked):
                    records.add(f"{name}/{i}", asked, {"study": name, "overlaps": _overlaps(inspect, document, first)})
                bar.update()
            message = f"{document}\n\n{QUESTIONS[i % len(QUESTIONS)]}"
            asked = message, policies
            if not records.holds(f"recall/{i}", asked):
                recalls = _recalls(inspect, message, policies)
                records.add(f"recall/{i}", asked, {"study": "recall", "recalls": recalls})
            bar.update()


def table(recalls: Sequence[Record]) -> str:
    """Recall@B by policy and budget, means over the documents: of the whole prompt, and of its middle."""
    budgets = [f"{factor}x" for factor in RECALL_FACTORS]

    def mean(policy: str, budget: str, name: str) -> float:
        return float(np.mean([document[f"{policy} {budget}"][name] for document in recalls]))

    policies = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in recalls[0]))
    kept = {budget: f"{budget}: {mean(policies[0], budget, 'kept_tokens'):.0f} kept" for budget in budgets}
    lines = [" ".join([f"{'recall@B':22}", *(f"{kept[budget]:>15}" for budget in budgets)]),
             " ".join([f"{'policy':22}", *(f"{'all':>8} {'middle':>6}" for _ in budgets)])]
    for policy in policies:
        lines.append(" ".join([f"{policy:22}", *(f"{mean(policy, budget, 'all'):8.2f} {mean(policy, budget, 'middle'):6.2f}"
                                                 for budget in budgets)]))
    return "\n".join(lines) + "\n"


def _write_table(folder: Path, records: Records) -> str:
    """Writes the table; what the caption says of it, nothing where no recall was measured."""
    recalls = [record["recalls"] for record in records.of(study="recall")]
    if not recalls:
        return ""
    (folder / "observe.txt").write_text(table(recalls), encoding="utf-8")
    return (f" In the table: recall@B, means over {len(recalls)} documents with a question in the chat template, all layers and "
            f"all KV heads. Of the B prompt tokens to which the answer (up to {ORACLE_TOKENS} tokens, greedy, full cache) gives "
            "most attention in all, not pooled, the share that is among the B tokens which the policy keeps; budgets are "
            f"{listed(f'{factor}x' for factor in RECALL_FACTORS)} fewer bytes than the full cache in f16. Middle: without the "
            "first 4 tokens and the observation window, both among what is kept and among what is wanted.")


def plot(folder: Path) -> list[Path]:
    """Hit rate by window and layer, and overlap by layer: means over the documents; recalls as a text file."""
    records = Records(folder, "observe")
    measured = {study: np.array([record[values] for record in records.of(study=study)])
                for study, values in (("hit_rate", "rates"), ("question_last", "overlaps"), ("question_first", "overlaps"))}
    if not all(map(len, measured.values())):
        return []
    # A layer that gave no token enough attention on any document stays blank.
    rates = np.ma.masked_invalid(measured["hit_rate"]).mean(axis=0).filled(np.nan)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    image = left.imshow(rates, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=left)
    left.set_title(f"hit rate of a window's votes, last window {np.nanmean(rates[-1]):.2f}")
    left.set_xlabel("layer")
    left.set_ylabel("window of the prompt, the last at the bottom")
    for name, label in (("question_last", "question last"), ("question_first", "question first")):
        overlaps = measured[name]
        right.fill_between(range(overlaps.shape[1]), overlaps.min(axis=0), overlaps.max(axis=0), alpha=0.2)
        right.plot(overlaps.mean(axis=0), marker="o", label=label)
    right.set_title("overlap of the votes of two questions on one document")
    right.set_xlabel("layer")
    right.set_ylim(0, 1)
    right.grid(alpha=0.3)
    right.legend()
    num_documents = len(measured["hit_rate"])
    of_table = _write_table(folder, records)
    return [save(figure, folder, "observe", "What windows vote for (the paper's Fig. 2 to 5)",
                 f"Means over {num_documents} documents: the last {NUM_PROMPT_WINDOWS} windows of {WINDOW} tokens of each, each "
                 "window voting for 5 % of the text before all of them, and up to "
                 f"{NUM_GENERATED_WINDOWS * WINDOW} tokens generated after it. Left, by layer (across) and window "
                 "(down): of the tokens to which generation gives more than 0.05 of its attention, the share that the window had "
                 f"voted for; {np.nanmean(rates[-1]):.2f} for the last window, {np.nanmean(rates[0]):.2f} for the first. In blank "
                 "layers no token got that much. Right: how far the votes for two questions on a document agree (bands: from the "
                 f"least document to the most), {measured['question_last'].mean():.2f} with the question after the document and "
                 f"{measured['question_first'].mean():.2f} with it before.{of_table}")]
