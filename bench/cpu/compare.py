#!/usr/bin/env python3
"""Compares kvship with llama.cpp and transformers on the CPU: same model file, same tokens, same threads.

The runs of the contenders are interleaved, round by round, so that a slow minute of the machine falls on all of
them; figures are medians over the rounds. A last part measures the two-process path: from the end of the last
layer's compute to the commit of the cache on the other side. Prints tables and writes them as JSON.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "demo"))

from contenders import all_contenders  # noqa: E402
from kvship_processes import ProcessError, ServerPair, add_port_flags  # noqa: E402

# OpenMP's threads wait for each other by spinning, so that beside other work llama.cpp and transformers slow down
# tenfold and a comparison says nothing.
MAX_LOAD = 0.5

CHARACTERS_PER_TOKEN = 4.4  # of the demo's document

LLAMA_CPP = ("llama.cpp", "llama.cpp flash")


def say(text):
    print(text, file=sys.stderr, flush=True)


def prompt_tokens(args):
    """The demo's document over and over, as token ids, up to the longest prompt."""
    path = os.path.join(ROOT, "demo", "document.txt")
    done = subprocess.run([args.inspect, "tokenize", args.model, f"--text-file={path}"],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"kvship-inspect tokenize failed: {done.stderr.strip()}")
    ids = json.loads(done.stdout)["ids"]
    return ids * (max(args.lengths) // len(ids) + 1)


def measure(args, contenders, tokens):
    """{length: {contender: [figures of each round]}}; the order rotates from round to round."""
    results = {}
    for length in args.lengths:
        runs = results[length] = {contender.name: [] for contender in contenders}
        for number in range(args.rounds):
            turn = number % len(contenders)
            for contender in contenders[turn:] + contenders[:turn]:
                figures = contender.run(tokens[:length], args.decode_tokens)
                runs[contender.name].append(figures)
                say(f"prompt {length}, round {number + 1} of {args.rounds}, {contender.name}: prefill "
                    f"{length / prompt_seconds(figures):.0f} tokens/s, "
                    f"decode {figures['decode_tokens_per_second']:.1f} tokens/s")
    return results


def prompt_seconds(figures):
    """Until the cache is as decoding reads it: kvship counts the copy into pages, as it does scoring, as compression."""
    return figures["prefill_seconds"] + figures.get("compress_seconds", 0)


def medians(results):
    """{length: {contender: {figure: median}}}, prefill as tokens per second."""
    table = {}
    for length, runs in results.items():
        table[length] = {}
        for name, rounds in runs.items():
            cells = {key: statistics.median(figures[key] for figures in rounds)
                     for key, value in rounds[0].items() if isinstance(value, (int, float))}
            cells["prefill_tokens_per_second"] = length / statistics.median(map(prompt_seconds, rounds))
            table[length][name] = cells
    return table


def document_text(num_tokens, start=0):
    """The demo's document over and over, from its `start`-th character: about so many tokens, of which reports tell."""
    with open(os.path.join(ROOT, "demo", "document.txt"), encoding="utf-8") as file:
        document = file.read()
    start %= len(document)
    wanted = int(num_tokens * CHARACTERS_PER_TOKEN)
    return (document * (wanted // len(document) + 2))[start:start + wanted]


def measure_transfer(args):
    """Medians of what the two processes report, by prompt length and compression."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, ServerPair(args, folder) as servers:
        for length in args.lengths:
            path = os.path.join(folder, "prompt.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.write(document_text(length * 0.97))
            for compression in ("scorer=keep_all", "scorer=snapkv,budget_tokens=512"):
                reports = [servers.generate(path, compression, 8, stdout=subprocess.DEVNULL)
                           for _ in range(args.rounds)]
                rows.append({
                    "prompt_tokens": reports[0]["usage"]["prompt_tokens"],
                    "compression": compression,
                    "shipped_bytes": reports[0]["kv"]["shipped_bytes"],
                    "prefill_peak_memory_bytes": servers.prefill.peak_memory_bytes(),
                    **{part: statistics.median(report["timing"][part] for report in reports)
                       for part in ("prefill_ms", "compress_ms", "transfer_ms", "first_decode_ms",
                                    "first_token_ms")}})
                say(f"two processes, {rows[-1]['prompt_tokens']} tokens, {compression}: "
                    f"transfer {rows[-1]['transfer_ms']:.1f} ms")
    return rows


def best_llama_cpp(cells, figure):
    return max((cells[name][figure] for name in LLAMA_CPP if name in cells), default=None)


def goals(table, transfer, weights_bytes):
    """What the project aims at, as (length, what, value, wanted, reached)."""
    rows = []

    def add(length, what, value, wanted, reached):
        rows.append({"prompt_tokens": length, "what": what, "value": value, "wanted": wanted, "reached": reached})

    def at_least(length, what, ours, theirs, wanted):
        if ours is not None and theirs is not None:
            add(length, what, ours / theirs, f"at least {wanted}", ours / theirs >= wanted)

    for length, cells in table.items():
        keep_all, kept = cells.get("kvship keep_all", {}), cells.get("kvship 512 kept", {})
        prefill, decode = "prefill_tokens_per_second", "decode_tokens_per_second"
        at_least(length, "prefill / transformers", keep_all.get(prefill),
                 cells.get("transformers", {}).get(prefill), 1.2)
        at_least(length, "prefill / llama.cpp", keep_all.get(prefill), best_llama_cpp(cells, prefill),
                 2.0 if length < 2048 else 2.5)
        at_least(length, "decode keep_all / llama.cpp", keep_all.get(decode), best_llama_cpp(cells, decode), 1.2)
        if length >= 8000:
            at_least(length, "decode 512 kept / llama.cpp", kept.get(decode), best_llama_cpp(cells, decode), 3.0)
        if kept:
            share = kept["compress_seconds"] / kept["prefill_seconds"]
            add(length, "compression / prefill", share, "under 0.02", share < 0.02)
    for row in transfer:
        add(row["prompt_tokens"], f"{row['compression']}: end of compute to commit, ms", row["transfer_ms"], "under 20",
            row["transfer_ms"] < 20)
    if transfer:
        longest = transfer[-1]
        over = (longest["prefill_peak_memory_bytes"] - weights_bytes) / 1e6
        add(longest["prompt_tokens"], "kvship-prefill: peak memory over the weights, MB", over, "under 200", over < 200)
    return rows


def markdown(report):
    lines = ["| prompt tokens | implementation | prefill tokens/s | decode tokens/s | peak memory MB |",
             "|---|---|---|---|---|"]
    for length, cells in report["medians"].items():
        for name, figures in cells.items():
            lines.append(f"| {length} | {name} | {figures['prefill_tokens_per_second']:.0f} | "
                         f"{figures['decode_tokens_per_second']:.1f} | {figures['peak_rss_bytes'] / 1e6:.0f} |")
    if report["goals"]:
        lines += ["", "| prompt tokens | measure | value | wanted | reached |", "|---|---|---|---|---|"]
        lines += [f"| {row['prompt_tokens']} | {row['what']} | {row['value']:.3g} | {row['wanted']} | "
                  f"{'yes' if row['reached'] else 'no'} |" for row in report["goals"]]
    if report["transfer"]:
        lines += ["", "| prompt tokens | compression | shipped MB | end of compute to commit, ms | first token, ms |",
                  "|---|---|---|---|---|"]
        lines += [f"| {row['prompt_tokens']} | {row['compression']} | {row['shipped_bytes'] / 1e6:.1f} | "
                  f"{row['transfer_ms']:.1f} | {row['first_token_ms']:.0f} |" for row in report["transfer"]]
    return "\n".join(lines)


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(args):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = file.read().splitlines()
    field = {name: next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
             for name in ("model name", "flags")}
    simd = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
            if flag in field["flags"].split()]
    return {"cpu": field["model name"], "simd": simd, "processors": os.cpu_count(), "threads": args.threads}


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def parse_flags():
    parser = argparse.ArgumentParser(prog="./dev bench cpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = os.path.join(ROOT, "build", "bin")
    parser.add_argument("--model", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--bin", default=programs, help=argparse.SUPPRESS)
    parser.add_argument("--lengths", default="512,2048,4096,8000", help="prompt lengths in tokens")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that medians are taken over")
    parser.add_argument("--decode-tokens", type=int, default=32, help="tokens decoded after each prompt")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every contender")
    parser.add_argument("--only", default="", help="only contenders with this in their name, or one of llama.cpp,kvship")
    parser.add_argument("--random", default="", metavar="KIND",
                        help="instead of the demo model: random weights in TinyLlama-1.1B's shape, quantized by llama.cpp "
                             "to this, as Q4_K_M; without the two-process part")
    parser.add_argument("--experts", type=int, default=0, metavar="N",
                        help="with --random: a mixture of N experts, four per token, with about as many operations for a token")
    parser.add_argument("--no-transfer", action="store_true", help="leave the two-process part out")
    parser.add_argument("--output", help="default bench/results/cpu.json, or cpu-KIND.json")
    add_port_flags(parser)
    args = parser.parse_args()
    args.lengths = sorted(int(length) for length in args.lengths.split(","))
    # Peak memory is that of a process so far, which ascending lengths make that of the length.
    args.context_tokens = (max(args.lengths) + args.decode_tokens + 255) // 256 * 256
    args.inspect = os.path.join(args.bin, "kvship-inspect")
    mixture = f"{args.experts}-experts-" if args.experts else ""
    name = f"cpu-{mixture}{args.random.lower()}.json" if args.random else "cpu.json"
    args.output = args.output or os.path.join(ROOT, "bench", "results", name)
    return args


def load_at_start():
    load = os.getloadavg()[0]
    if load > MAX_LOAD:
        say(f"warning: the machine is busy (load {load:.1f}, wanted under {MAX_LOAD}); these figures will not compare")
    return load


def write_report(report, path):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    say(f"written to {os.path.relpath(path)}")


def use_random_model(args, folder):
    say(f"making a random model of kind {args.random}")
    path = os.path.join(folder, f"random-1.1b-{args.random}.gguf")
    # A process of its own: Linux counts the memory of a process among the peaks of those it starts.
    script = os.path.join(HERE, "random_model.py")
    command = [sys.executable, script, path, args.random, args.model, str(args.experts)]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("random_model.py failed")
    args.model = path
    args.no_transfer = True


def main():
    args = parse_flags()
    load = load_at_start()
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            use_random_model(args, folder)
        compare(args, load)


def compare(args, load):
    tokens = prompt_tokens(args)
    say("loading the models")
    contenders = all_contenders(args)
    results = measure(args, contenders, tokens)
    for contender in contenders:
        contender.close()
    try:
        transfer = [] if args.no_transfer else measure_transfer(args)
    except ProcessError as error:
        sys.exit(str(error))
    table = medians(results)
    report = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(args),
        "load_at_start": load,
        "versions": {name: version_of(name) for name in ("llama_cpp_python", "transformers", "torch")},
        "model": os.path.basename(args.model),
        "rounds": args.rounds,
        "decode_tokens": args.decode_tokens,
        "medians": table,
        "goals": goals(table, transfer, os.path.getsize(args.model)),
        "transfer": transfer,
        "runs": results,
    }
    print(markdown(report))
    write_report(report, args.output)


if __name__ == "__main__":
    main()
