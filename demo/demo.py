#!/usr/bin/env python3
"""The demo: one process reads a document, another answers a question about it from the compressed KV cache.

A code drawn at random for this run is written into the document at a random place, and the question asks for
it: without the document nobody could answer. The same prompt is then sent with the whole cache kept, and the
two runs are shown side by side. Exit code 0 means that the answer over the compressed cache was right.
"""

import argparse
import ctypes
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
QUESTION = "What is the access code of the archive?"
FACT = "The access code of the archive is {code}."
CODE_DIGITS = 7
MAX_ANSWER_TOKENS = 40
READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10
LOG_LINES_SHOWN = 8


class DemoError(Exception):
    """What went wrong, in one sentence for the person at the terminal."""


def say(text=""):
    print(text, file=sys.stderr, flush=True)


def place_code(document, code, rng):
    """The document with the sentence about the code after a random sentence, and how far in it stands."""
    ends = [match.end() for match in re.finditer(r"[.!?](?= [A-Z])", document)]
    at = rng.choice(ends)
    return document[:at] + " " + FACT.format(code=code) + document[at:], at / len(document)


def check_port_is_free(flag, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoError(f"Port {port} cannot be used ({error.strerror.lower()}): "
                            f"choose another with --{flag}.") from error


class Server:
    """A kvship process with its log in a file. Ends with this process, however that ends."""

    def __init__(self, name, command, admin_port, log_path):
        self.name = name
        self.admin_port = admin_port
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=die_with_parent)

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.is_ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} was not ready after {READY_TIMEOUT_S} s.{self.log_tail()}")
            time.sleep(0.05)

    def is_ready(self):
        try:
            url = f"http://127.0.0.1:{self.admin_port}/readyz"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def check_alive(self):
        status = self.process.poll()
        if status is not None:
            how = f"with exit code {status}" if status >= 0 else f"on signal {-status}"
            raise DemoError(f"{self.name} ended by itself, {how}.{self.log_tail()}")

    def log_tail(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            lines = log.read().splitlines()[-LOG_LINES_SHOWN:]
        return "".join("\n    " + line for line in [f"The end of its log ({self.name}):"] + lines)

    def signal_group(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def stop(self):
        self.signal_group(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self.signal_group(signal.SIGKILL)
        self.process.wait()


def die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def start_servers(args, folder):
    """Yields the two servers as they are started, so that whoever called can stop what is there."""
    common = [f"--model={args.model}"]
    yield Server("kvship-prefill", [
        os.path.join(args.bin, "kvship-prefill"), *common, f"--listen=127.0.0.1:{args.prefill_port}",
        f"--admin=127.0.0.1:{args.prefill_admin_port}"],
        args.prefill_admin_port, os.path.join(folder, "prefill.log"))
    yield Server("kvship-decode", [
        os.path.join(args.bin, "kvship-decode"), *common, f"--listen=127.0.0.1:{args.decode_port}",
        f"--admin=127.0.0.1:{args.decode_admin_port}",
        f"--prefill=dns:///127.0.0.1:{args.prefill_port}"],
        args.decode_admin_port, os.path.join(folder, "decode.log"))


def generate(args, prompt_path, compression, report_path, servers):
    """Streams one answer to the terminal; returns the client's report of it."""
    client = subprocess.run(
        [os.path.join(args.bin, "kvship"), "generate", f"--server=127.0.0.1:{args.decode_port}",
         f"--prompt-file={prompt_path}", "--chat", f"--compression={compression}",
         f"--max-tokens={MAX_ANSWER_TOKENS}", f"--report-file={report_path}"],
        stdin=subprocess.DEVNULL, check=False, preexec_fn=die_with_parent)
    if client.returncode != 0:
        time.sleep(0.2)  # a server that took the client down with it needs a moment to be seen as ended
        for server in servers:
            server.check_alive()
        raise DemoError(f"kvship generate failed with exit code {client.returncode}; its message is above.")
    print(flush=True)
    with open(report_path, encoding="utf-8") as file:
        return json.load(file)


def holds_code(text, code):
    return code in re.sub(r"(?<=\d)[ ,.-](?=\d)", "", text)


def megabytes(num_bytes):
    return f"{num_bytes / 1e6:,.1f} MB"


def milliseconds(value):
    return f"{value:,.1f} ms" if value < 1000 else f"{value / 1000:,.2f} s"


def column(report, code):
    """The cells of one run, top to bottom, as (label, text)."""
    usage, kv, timing = report["usage"], report["kv"], report["timing_ms"]
    return [
        ("prompt tokens", f"{usage['prompt_tokens']:,}"),
        ("kept tokens per KV head", f"{usage['kept_tokens_per_head_mean']:,.0f}"),
        ("KV bytes, uncompressed", megabytes(kv["bytes_uncompressed"])),
        ("KV bytes, shipped", megabytes(kv["bytes_shipped"])),
        ("ratio", f"{kv['bytes_uncompressed'] / max(1, kv['bytes_shipped']):.1f} x"),
        ("retained attention mass, mean", f"{kv['retained_mass_mean']:.3f}"),
        ("retained attention mass, least", f"{kv['retained_mass_min']:.3f}"),
        ("time to first token", milliseconds(timing["first_token"])),
        ("    queue", milliseconds(timing["queue"])),
        ("    prefill", milliseconds(timing["prefill"])),
        ("    compress", milliseconds(timing["compress"])),
        ("    transfer", milliseconds(timing["transfer"])),
        ("    first decode", milliseconds(timing["first_decode"])),
        ("output tokens per second", f"{report['tokens_per_second']:.1f}"),
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


def run(args, folder, servers):
    rng = random.Random(args.seed) if args.seed is not None else random.SystemRandom()
    code = str(rng.randrange(10 ** (CODE_DIGITS - 1), 10 ** CODE_DIGITS))
    with open(args.document, encoding="utf-8") as file:
        text, depth = place_code(file.read().strip(), code, rng)
    prompt_path = os.path.join(folder, "prompt.txt")
    with open(prompt_path, "w", encoding="utf-8") as file:
        file.write(f"{text}\n\n{QUESTION}")

    for flag in ("prefill_port", "prefill_admin_port", "decode_port", "decode_admin_port"):
        check_port_is_free(flag.replace("_", "-"), getattr(args, flag))
    for server in start_servers(args, folder):
        servers.append(server)
    for server in servers:
        server.wait_until_ready()

    say(f"Document: {os.path.relpath(args.document)}, {len(text.split()):,} words. Written into it, at "
        f"{depth:.0%} of its length: \"{FACT.format(code=code)}\"")
    say(f"Question: {QUESTION}")
    runs = [(f"snapkv, {args.budget} kept", f"scorer=snapkv,budget_tokens={args.budget}"),
            ("keep_all", "scorer=keep_all")]
    reports = []
    for number, (name, compression) in enumerate(runs):
        say(f"\n-- {name}")
        report_path = os.path.join(folder, f"report{number}.json")
        reports.append(generate(args, prompt_path, compression, report_path, servers))
    print("\n" + table([name for name, _ in runs], [column(report, code) for report in reports]), flush=True)
    if not holds_code(reports[0]["text"], code):
        raise DemoError(f"The answer over the compressed cache does not hold the code {code}.")


def parse_flags():
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--bin", default=os.path.join(HERE, "..", "build", "bin"), help=argparse.SUPPRESS)
    parser.add_argument("--document", default=os.path.join(HERE, "document.txt"),
                        help="a text of up to about 7,000 tokens (default: the one in demo/)")
    parser.add_argument("--budget", type=int, default=512, help="tokens kept per KV head (default 512)")
    parser.add_argument("--seed", type=int, help="draw the code and its place from this seed")
    parser.add_argument("--prefill-port", type=int, default=50051)
    parser.add_argument("--prefill-admin-port", type=int, default=9091)
    parser.add_argument("--decode-port", type=int, default=50050)
    parser.add_argument("--decode-admin-port", type=int, default=9090)
    return parser.parse_args()


def main():
    args = parse_flags()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    servers = []
    folder = tempfile.mkdtemp(prefix="kvship-demo-")
    try:
        run(args, folder, servers)
        return 0
    except DemoError as error:
        say(f"\n{error}")
        return 1
    except OSError as error:
        say(f"\n{error.filename or 'The demo'}: {error.strerror}.")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not cut the cleaning short
        for server in reversed(servers):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
