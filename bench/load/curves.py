#!/usr/bin/env python3
"""Throughput and latency against load, with and without compression: `kvship bench` over a list of rates.

One prefill and one decode process on this machine, the same arrivals, lengths and prompts for every policy, policies
interleaved rate by rate. Writes load.jsonl (a record of `kvship bench` per rate and policy), load.txt and load.png.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))
from kvship_processes import ProcessError, ServerPair, add_port_flags  # noqa: E402

POLICIES = {"keep_all": "scorer=keep_all,encoder=f16",
            "8x": "encoder=int4,budget_ratio=0.38,min_tokens=0",
            "16x": "encoder=int4,budget_ratio=0.19,min_tokens=0"}
SLO = {"slo_first_token": "10s", "slo_between_tokens": "100ms"}


def numbers(text):
    return [float(part) for part in text.split(",")]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results")
    parser.add_argument("--rates", type=numbers, default=numbers("0.1,0.2,0.3,0.4,0.5"), help="requests per second")
    parser.add_argument("--requests", type=int, default=40, help="per rate and policy (40)")
    parser.add_argument("--prompt-tokens", default="lognormal:1500:0.5")
    parser.add_argument("--output-tokens", default="uniform:64:256")
    parser.add_argument("--pool-bytes", type=int, default=256 << 20, help="of the decode process (256 MiB)")
    add_port_flags(parser)
    return parser.parse_args()


def offer(args, rate, compression):
    """What `kvship bench` says of one rate."""
    command = [f"{args.bin}/kvship", "bench", f"--server=127.0.0.1:{args.decode_port}", f"--rate={rate}",
               f"--requests={args.requests}", f"--prompt_tokens={args.prompt_tokens}",
               f"--output_tokens={args.output_tokens}", f"--compression={compression}", "--seed=1", "--json",
               *(f"--{name}={value}" for name, value in SLO.items())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise ProcessError(f"kvship bench failed with exit code {done.returncode}; its message is above.")
    return json.loads(done.stdout)


def about(args):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True,
                            check=False).stdout.strip()
    return {"machine": f"{len(names)} x {names[0]}", "date": datetime.date.today().isoformat(), "commit": commit,
            "requests": args.requests, "prompt_tokens": args.prompt_tokens, "output_tokens": args.output_tokens,
            "pool_bytes": args.pool_bytes, **SLO}


def table(records):
    lines = [f"{'policy':18} {'rate':>5} {'done/s':>7} {'good/s':>7} {'out/s':>6} {'first p50':>10} {'p95':>8} "
             f"{'token p50':>10} {'p95':>8} {'failed':>7}"]
    for record in records:
        first, between = record["first_token_ms"], record["between_tokens_ms"]
        lines.append(f"{record['policy']:18} {record['rate']:5.2f} {record['requests_per_second']:7.2f} "
                     f"{record['goodput_per_second']:7.2f} {record['output_tokens_per_second']:6.1f} "
                     f"{first['p50'] / 1000:8.2f} s {first['p95'] / 1000:6.2f} s "
                     f"{between['p50']:7.1f} ms {between['p95']:5.1f} ms {record['requests'] - record['succeeded']:7}")
    return "\n".join(lines) + "\n"


def plot(records, path):
    # Here alone: --help answers where there is no matplotlib.
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    panels = (("requests per second within both targets", lambda r: r["goodput_per_second"]),
              ("time to first token, p95, s", lambda r: r["first_token_ms"]["p95"] / 1000),
              ("time between tokens, p95, ms", lambda r: r["between_tokens_ms"]["p95"]))
    for axis, (title, value) in zip(axes, panels):
        for i, policy in enumerate(POLICIES):
            curve = sorted((r for r in records if r["policy"] == policy), key=lambda r: r["rate"])
            axis.plot([r["rate"] for r in curve], [value(r) for r in curve], marker="osD"[i], label=policy)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("requests per second offered")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main():
    args = parse_args()
    header, records = about(args), []
    with tempfile.TemporaryDirectory(prefix="kvship-load-") as folder:
        with ServerPair(args, folder, [f"--pool_bytes={args.pool_bytes}"]):
            for rate in args.rates:
                for policy, compression in POLICIES.items():
                    print(f"{policy} at {rate:g} requests per second", file=sys.stderr, flush=True)
                    records.append({"policy": policy, "rate": rate, **offer(args, rate, compression)})
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) + "\n" for record in [header, *records]]
    (args.out / "load.jsonl").write_text("".join(lines), encoding="utf-8")
    (args.out / "load.txt").write_text(table(records), encoding="utf-8")
    plot(records, args.out / "load.png")
    print(table(records), end="")


if __name__ == "__main__":
    try:
        main()
    except ProcessError as failure:
        sys.exit(str(failure))
