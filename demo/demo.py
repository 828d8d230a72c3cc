#!/usr/bin/env python3
"""The demo: one process reads a document, another answers a question about it from the compressed KV cache.

A code drawn at random for this run is written into the document at a random place, and the question asks for
it: without the document nobody could answer. The same prompt is then sent with the server's default, which
also quantizes, and with the whole cache kept, and the runs are shown side by side. Exit code 0 means that the answer
over the compressed cache was right. With more than one process of a kind, it also shows which of them served what.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from kvship_processes import ProcessError, ServerPair, add_port_flags

HERE = os.path.dirname(os.path.abspath(__file__))
QUESTION = "What is the access code of the archive?"
FACT = "The access code of the archive is {code}."
CODE_DIGITS = 7
MAX_ANSWER_TOKENS = 40

# What is sent to each decode process at a time, to show how requests are spread.
SPREAD_REQUESTS = 8
SPREAD_PROMPT_TOKENS = 300
SPREAD_OUTPUT_TOKENS = 16

COUNT_TIMEOUT_S = 2


def say(text=""):
    print(text, file=sys.stderr, flush=True)


def place_code(document, code, rng):
    """The document with the sentence about the code after a random sentence, and how far in it stands."""
    ends = [match.end() for match in re.finditer(r"[.!?](?= [A-Z])", document)]
    at = rng.choice(ends)
    return document[:at] + " " + FACT.format(code=code) + document[at:], at / len(document)


def holds_code(text, code):
    return code in re.sub(r"(?<=\d)[ ,.-](?=\d)", "", text)


def megabytes(num_bytes):
    return f"{num_bytes / 1e6:,.1f} MB"


def milliseconds(value):
    return f"{value:,.1f} ms" if value < 1000 else f"{value / 1000:,.2f} s"


def column(report, code):
    """The cells of one run, top to bottom, as (label, text)."""
    usage, kv, timing = report["usage"], report["kv"], report["timing"]
    return [
        ("prompt tokens", f"{usage['prompt_tokens']:,}"),
        ("kept tokens per KV head", f"{kv['kept_tokens']:,.0f}"),
        ("KV bytes, uncompressed", megabytes(kv["uncompressed_bytes"])),
        ("KV bytes, shipped", megabytes(kv["shipped_bytes"])),
        ("ratio", f"{kv['uncompressed_bytes'] / max(1, kv['shipped_bytes']):.1f} x"),
        ("retained attention mass, mean", f"{kv['retained_mass_mean']:.3f}"),
        ("retained attention mass, least", f"{kv['retained_mass_min']:.3f}"),
        ("time to first token", milliseconds(timing["first_token_ms"])),
        ("    queue", milliseconds(timing["queue_ms"])),
        ("    prefill", milliseconds(timing["prefill_ms"])),
        ("    compress", milliseconds(timing["compress_ms"])),
        ("    transfer", milliseconds(timing["transfer_ms"])),
        ("    first decode", milliseconds(timing["first_decode_ms"])),
        ("output tokens per second", f"{timing['tokens_per_second']:.1f}"),
        ("answer", "right" if holds_code(report["text"], code) else "WRONG"),
    ]


def table(names, columns):
    label_width = max(len(label) for label, _ in columns[0])
    widths = [max([len(name)] + [len(text) for _, text in cells]) for name, cells in zip(names, columns)]
    line = "  ".join(["-" * label_width] + ["-" * width for width in widths])
    rows = ["  ".join([" " * label_width] + [name.rjust(width) for name, width in zip(names, widths)]), line]
    for row in zip(*columns):
        cells = [text.rjust(width) for (_, text), width in zip(row, widths)]
        rows.append("  ".join([row[0][0].ljust(label_width)] + cells))
    return "\n".join(rows)


class Served:
    """Counts the requests that each process has served since this was made."""

    def __init__(self, servers):
        self.pools = {"prefill": servers.prefill_servers, "decode": servers.decode_servers}
        self.before = self.totals()

    def totals(self):
        return {f"{role} {number}": int(server.count(f"kvship_{role}_requests_total"))
                for role, pool in self.pools.items() for number, server in enumerate(pool, 1)}

    def requests(self, expected):
        """By process, once both pools have counted `expected`: a client has its answer a moment before that."""
        deadline = time.monotonic() + COUNT_TIMEOUT_S
        while True:
            counts = {name: total - self.before[name] for name, total in self.totals().items()}
            least = min(sum(count for name, count in counts.items() if name.startswith(role)) for role in self.pools)
            if least >= expected or time.monotonic() > deadline:
                return counts
            time.sleep(0.02)


def show_spread(servers):
    """Sends requests to all decode processes at a time, and prints how many each process served."""
    served = Served(servers)
    clients = [servers.start_client("bench", index, f"--requests={SPREAD_REQUESTS}", f"--concurrency={SPREAD_REQUESTS}",
                                    f"--prompt-tokens={SPREAD_PROMPT_TOKENS}", f"--seed={index}",
                                    f"--output-tokens={SPREAD_OUTPUT_TOKENS}", stdout=subprocess.DEVNULL)
               for index in range(len(servers.decode_servers))]
    for client in clients:
        servers.wait_for(client)
    requests = served.requests(SPREAD_REQUESTS * len(clients))
    print(f"\n{SPREAD_REQUESTS} requests of {SPREAD_PROMPT_TOKENS} tokens to each decode process at a time:")
    print(table(list(requests), [[("served", str(count))] for count in requests.values()]), flush=True)


def write_prompt(args, folder):
    """Draws a code, writes the document with it and the question to a file; returns its path and the code."""
    rng = random.Random(args.seed) if args.seed is not None else random.SystemRandom()
    code = str(rng.randrange(10 ** (CODE_DIGITS - 1), 10 ** CODE_DIGITS))
    with open(args.document, encoding="utf-8") as file:
        text, depth = place_code(file.read().strip(), code, rng)
    path = os.path.join(folder, "prompt.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{text}\n\n{QUESTION}")
    say(f"Document: {os.path.relpath(args.document)}, {len(text.split()):,} words. Written into it, at "
        f"{depth:.0%} of its length: \"{FACT.format(code=code)}\"")
    say(f"Question: {QUESTION}")
    return path, code


def run(args, folder):
    runs = [(f"snapkv, {args.budget} kept", f"scorer=snapkv,budget_tokens={args.budget},encoder=f16"),
            ("the default", ""),
            ("keep_all", "scorer=keep_all,encoder=f16")]
    reports = []
    columns = []
    is_spread = args.prefill > 1 or args.decode > 1
    with ServerPair(args, folder, num_prefill=args.prefill, num_decode=args.decode) as servers:
        prompt_path, code = write_prompt(args, folder)
        for index, (name, compression) in enumerate(runs):
            say(f"\n-- {name}")
            served = Served(servers)
            reports.append(servers.generate(prompt_path, compression, MAX_ANSWER_TOKENS, "--chat", "--progress",
                                            decode_index=index % args.decode))
            columns.append(column(reports[-1], code))
            if is_spread:
                names = [name for name, count in served.requests(1).items() if count]
                columns[-1].append(("served by", ", ".join(names)))
            print(flush=True)
        print("\n" + table([name for name, _ in runs], columns), flush=True)
        if is_spread:
            show_spread(servers)
    if not holds_code(reports[0]["text"], code):
        raise ProcessError(f"The answer over the compressed cache does not hold the code {code}.")


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}'; wanted a number of at least 1")
    return int(text)


def parse_flags():
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--bin", default=os.path.join(HERE, "..", "build", "bin"), help=argparse.SUPPRESS)
    parser.add_argument("--document", default=os.path.join(HERE, "document.txt"),
                        help="a text of up to about 7,000 tokens (default: the one in demo/)")
    parser.add_argument("--budget", type=int, default=512, help="tokens kept per KV head (default 512)")
    parser.add_argument("--prefill", type=positive, default=1, metavar="N", help="prefill processes (default 1)")
    parser.add_argument("--decode", type=positive, default=1, metavar="N", help="decode processes (default 1)")
    parser.add_argument("--seed", type=int, help="draw the code and its place from this seed")
    add_port_flags(parser)
    return parser.parse_args()


def main():
    args = parse_flags()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    folder = tempfile.mkdtemp(prefix="kvship-demo-")
    try:
        run(args, folder)
        return 0
    except ProcessError as error:
        say(f"\n{error}")
        return 1
    except OSError as error:
        say(f"\n{error.filename or 'The demo'}: {error.strerror}.")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
