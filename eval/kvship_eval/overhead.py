"""Time and memory with and without compression: the paper's Fig. 7, 10 and 11."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kvship
import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from kvship_eval.cases import CHARS_PER_TOKEN
from kvship_eval.haystack import Haystack
from kvship_eval.plots import save
from kvship_eval.policy import Policy
from kvship_eval.records import Records
from kvship_eval.service import costs


def _peak_bytes(pid: int | None) -> int | None:
    """VmHWM of a process on this machine."""
    if pid is None:
        return None
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError as error:
        raise ValueError(f"--prefill-pid {pid} names no process here: {error}") from error
    return None


def run(client: kvship.Client, folder: Path, policies: Sequence[Policy], lengths: Sequence[int], batches: Sequence[int],
        output_tokens: int, rounds: int, haystack: Haystack, prefill_pid: int | None) -> Records:
    """Every length and batch under every policy, rounds interleaved."""
    records = Records(folder, "overhead")
    work = [(round_, length, batch, policy) for round_ in range(rounds) for length in lengths for batch in batches
            for policy in policies]
    for round_, length, batch, policy in tqdm(work, desc="overhead"):
        key = f"{length}/{batch}/{policy.name}/{round_}"
        if key in records:
            continue
        document = "\n\n".join(haystack.paragraphs(int(length * CHARS_PER_TOKEN), random.Random(f"{length}")))

        def one(_: int) -> kvship.Generation:
            return client.generate(f"{document}\n\nIn short:", max_tokens=output_tokens, ignore_end_tokens=True,
                                   compression=policy.options)

        begin = time.monotonic()
        with ThreadPoolExecutor(batch) as pool:
            results = list(pool.map(one, range(batch)))
        records.add(key, {"length": length, "batch": batch, "policy": policy.name, "seconds": time.monotonic() - begin,
                          "prompt_tokens": results[0].usage.prompt_tokens, "output_tokens": output_tokens,
                          "ms_per_token": float(np.median([1000 / r.timing.tokens_per_second for r in results])),
                          "prefill_peak_bytes": _peak_bytes(prefill_pid), **costs(results[-1])})
    return records


def plot(folder: Path) -> list[Path]:
    """Prefill time; prefill against generation; time per output token by batch."""
    records = list(Records(folder, "overhead"))
    if not records:
        return []
    policies = list(dict.fromkeys(record["policy"] for record in records))
    lengths = sorted({record["length"] for record in records})
    batches = sorted({record["batch"] for record in records})

    def median(name: str, policy: str, length: int, batch: int) -> float:
        found = [r[name] for r in records if (r["policy"], r["length"], r["batch"]) == (policy, length, batch)]
        return float(np.median(found)) if found else float("nan")

    figure, (prefill, share, decode) = pyplot.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    ticks = [f"{length / 1000:g}K" for length in lengths]
    for i, policy in enumerate(policies):
        marker = "osD^v"[i % 5]
        compute = [median("prefill_ms", policy, n, batches[0]) for n in lengths]
        compress = [median("compress_ms", policy, n, batches[0]) for n in lengths]
        prefill.plot(ticks, [(a + b) / 1000 for a, b in zip(compute, compress)], marker=marker, label=policy)
        share.plot(ticks, [median("ms_per_token", policy, n, batches[0]) * 512 / 1000 for n in lengths], marker=marker,
                   label=f"512 output tokens, {policy}")
        for batch in batches:
            decode.plot(ticks, [median("ms_per_token", policy, n, batch) for n in lengths], marker=marker,
                        alpha=1 - 0.18 * batches.index(batch), label=f"{policy}, batch {batch}")
    share.plot(ticks, [median("prefill_ms", policies[0], n, batches[0]) / 1000 for n in lengths], color="0.4", linestyle=":",
               label="prefill")
    for axis, title, unit in ((prefill, "prefill with compression", "s"), (share, "prefill and generation", "s"),
                              (decode, "decode", "ms per token")):
        axis.set_title(title)
        axis.set_xlabel("prompt tokens")
        axis.set_ylabel(unit)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return [save(figure, folder, "overhead", "Time of prefill and decode by prompt length, full and compressed cache")]
