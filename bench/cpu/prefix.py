#!/usr/bin/env python3
"""What it saves to keep the beginnings of prompts: the time to the first token of a second question about the same text.

Two pairs of servers, one whose prefill process keeps beginnings and one whose does not, asked in turn: a text that is
new to both with a question, then the same text with another one. Figures are medians over the rounds, each with a
text of its own. Prints a table and writes it as JSON.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile

from compare import ROOT, commit, document_text, load_at_start, machine, say, write_report

sys.path.insert(0, os.path.join(ROOT, "demo"))
from kvship_processes import ProcessError, ServerPair, free_port_arguments  # noqa: E402

COMPRESSION = "scorer=snapkv,budget_tokens=512"
QUESTIONS = ("Who is in charge of the archive?", "What is the archive for?")


def write_prompt(folder, length, text_number, question):
    """A text that begins in another place of the demo's document than others do, and the question."""
    path = os.path.join(folder, "prompt.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{document_text(length, start=997 * text_number)}\n\n{question}")
    return path


def measure_text(pairs, folder, length, text_number):
    """{"keeps, first": report, ...} of a text's first and second question to each pair."""
    reports = {}
    names = sorted(pairs, reverse=text_number % 2 == 1)
    for which, question in zip(("first", "second"), QUESTIONS):
        path = write_prompt(folder, length, text_number, question)
        for name in names:
            reports[f"{name}, {which}"] = pairs[name].generate(path, COMPRESSION, 8, stdout=subprocess.DEVNULL)
            say(f"{length} tokens, text {text_number + 1}, {name}, {which} question: first token after "
                f"{reports[f'{name}, {which}']['timing']['first_token_ms']:.0f} ms")
    return reports


def medians(length, rounds):
    def median(name, *path):
        def value(reports):
            found = reports[name]
            for key in path:
                found = found[key]
            return found
        return statistics.median(value(reports) for reports in rounds)

    first_token = ("timing", "first_token_ms")
    return {"text_tokens": length,
            "prompt_tokens": median("keeps, second", "usage", "prompt_tokens"),
            "reused_tokens": median("keeps, second", "usage", "reused_tokens"),
            "plain_first_token_ms": median("plain, second", *first_token),
            "keeps_first_token_ms": median("keeps, second", *first_token),
            # Each round's two pairs, one after the other: what keeping costs a text that is new.
            "keeping_costs": statistics.median(
                reports["keeps, first"]["timing"]["prefill_ms"] / reports["plain, first"]["timing"]["prefill_ms"] - 1
                for reports in rounds)}


def table(rows):
    lines = ["| prompt tokens | not read anew | first token, without, ms | with, ms | times sooner | keeping costs a new text |",
             "|---|---|---|---|---|---|"]
    lines += [f"| {row['prompt_tokens']} | {row['reused_tokens']} | {row['plain_first_token_ms']:.0f} | "
              f"{row['keeps_first_token_ms']:.0f} | {row['plain_first_token_ms'] / row['keeps_first_token_ms']:.1f} | "
              f"{100 * row['keeping_costs']:+.1f} % |" for row in rows]
    return "\n".join(lines)


def parse_flags():
    parser = argparse.ArgumentParser(prog="./dev bench prefix", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "bin"), help=argparse.SUPPRESS)
    parser.add_argument("--lengths", default="1000,2000,4000,7500", help="lengths of the texts in tokens, about")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that medians are taken over")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the prefill processes")
    parser.add_argument("--prefix-cache-bytes", type=int, default=1 << 30, help="of the one that keeps beginnings (1 GiB)")
    parser.add_argument("--output", default=os.path.join(ROOT, "bench", "results", "prefix.json"))
    args = parser.parse_args()
    args.lengths = [int(length) for length in args.lengths.split(",")]
    return args


def measure(args):
    def pair(folder, *prefill_flags):
        os.mkdir(folder)
        ports = argparse.Namespace(model=args.model, bin=args.bin, **free_port_arguments())
        return ServerPair(ports, folder, prefill_flags=(f"--threads={args.threads}", *prefill_flags))

    with tempfile.TemporaryDirectory() as folder, \
            pair(os.path.join(folder, "keeps"), f"--prefix_cache_bytes={args.prefix_cache_bytes}") as keeps, \
            pair(os.path.join(folder, "plain")) as plain:
        pairs = {"keeps": keeps, "plain": plain}
        return [medians(length, [measure_text(pairs, folder, length, place * args.rounds + number)
                                 for number in range(args.rounds)])
                for place, length in enumerate(args.lengths)]


def main():
    args = parse_flags()
    load = load_at_start()
    try:
        rows = measure(args)
    except ProcessError as error:
        sys.exit(str(error))
    report = {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine(args),
              "load_at_start": load, "model": os.path.basename(args.model), "rounds": args.rounds,
              "prefix_cache_bytes": args.prefix_cache_bytes, "compression": COMPRESSION, "medians": rows}
    print(table(rows))
    write_report(report, args.output)


if __name__ == "__main__":
    main()
