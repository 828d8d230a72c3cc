"""Time and memory with and without compression: the paper's Fig. 7, 10 and 11.

Memory is the largest resident size of the prefill process during one request: the kernel's high-water mark is reset before it.
A process keeps some of the memory that earlier requests freed, so it is read for one request at a time, in a first pass of
growing prompts.

Time per token is that of a decode step with all sessions in the batch. Prompts are read one after another, so a session that
has its first token is not read from until all have theirs: a session whose reader lags sits steps out, after some 400 tokens.
Then all go on together, and the one that began last, which has nothing waiting for it, tells the time of a step: the mean time
between two of its tokens while no session has ended.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kvship
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from tqdm import tqdm

from kvship_eval.haystack import Haystack
from kvship_eval.plots import listed, save, tokens_label
from kvship_eval.policy import Policy
from kvship_eval.records import Record, Records
from kvship_eval.service import costs

# Little of a stream that is not read lies in between, so that its session stops soon.
CHANNEL_OPTIONS = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
# Tokens that a session may make unread: what the server lets wait, and what lies in between.
RUN_AHEAD_TOKENS = 448
# Steps until sessions that sat out have joined again.
_JOINING_STEPS = 4
_LEAST_STEPS = 8
_GENERATED = 512  # tokens of the comparison between prefill and generation


class PeakMemory:
    """The largest resident size of a process on this machine. Raises ValueError for a process that cannot be watched."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self.reset()

    def reset(self) -> None:
        """From now on (proc(5), clear_refs)."""
        try:
            (self._folder / "clear_refs").write_text("5", encoding="ascii")
        except OSError as error:
            raise ValueError(f"the peak memory of process {self._folder.name} cannot be reset: {error.strerror}") from error

    def num_bytes(self) -> int:
        status = (self._folder / "status").read_text(encoding="utf-8")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) * 1024


def step_ms(arrivals: Sequence[Sequence[float]]) -> float:
    """Milliseconds of a step with all sessions in the batch, from the times (s) at which each one's tokens came.

    Raises RuntimeError where there were too few such steps to tell.
    """
    last = max(arrivals, key=lambda times: times[0])
    end = min(times[-1] for times in arrivals)
    together = [at for at in last[_JOINING_STEPS if len(arrivals) > 1 else 0:] if at <= end]
    if len(together) <= _LEAST_STEPS:
        raise RuntimeError(f"{max(0, len(together) - 1)} steps had all {len(arrivals)} sessions in the batch; wanted at least "
                           f"{_LEAST_STEPS}: set --output-tokens higher")
    return 1000 * (together[-1] - together[0]) / (len(together) - 1)


def _read(stream: kvship.Stream, session: int, made: list[int], all_began: threading.Barrier, num_steps: int) -> list[float]:
    """When a session's tokens came: the first, and after all others' first until each session has made `num_steps` more.

    `made` counts those of each session.
    """
    arrivals: list[float] = []
    try:
        for event in stream:
            if not isinstance(event, kvship.Output):
                continue
            if arrivals:
                made[session] += len(event.tokens)
            arrivals += [time.monotonic()] * len(event.tokens)
            if len(arrivals) == len(event.tokens):
                all_began.wait()
            if len(made) > 1 and min(made) >= num_steps:
                break
    except BaseException:
        all_began.abort()
        raise
    return arrivals


def measure(client: kvship.Client, prompt: str, policy: Policy, batch: int, num_steps: int) -> Record:
    """The time of a step with `batch` times the same prompt in the batch; of a batch of one, also what the service reports.

    Raises kvship.Error.
    """
    # A lone session ends by itself, and then there is a report; others end together.
    max_tokens = num_steps + 1 if batch == 1 else RUN_AHEAD_TOKENS + _JOINING_STEPS + num_steps
    streams = [client.stream(prompt, max_tokens=max_tokens, ignore_end_tokens=True, compression=policy.asked)
               for _ in range(batch)]
    made, all_began = [0] * batch, threading.Barrier(batch)
    with ThreadPoolExecutor(batch) as threads:
        reads = [threads.submit(_read, stream, i, made, all_began, _JOINING_STEPS + num_steps) for i, stream in enumerate(streams)]
    for stream in streams:
        stream.cancel()
    # The first error; those of the others only say that they waited for it.
    errors = [error for read in reads if (error := read.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    record = {"ms_per_token": step_ms([read.result() for read in reads])}
    if batch > 1:
        return record
    return {**record, "prompt_tokens": streams[0].report.usage.prompt_tokens, **costs(streams[0].result)}


def run(client: kvship.Client, records: Records, policies: Sequence[Policy], lengths: Sequence[int], batches: Sequence[int],
        output_tokens: int, rounds: int, haystack: Haystack, prefill_pid: int | None) -> None:
    """Every length and batch under every policy, rounds interleaved; memory where the batch is 1."""
    memory = None if prefill_pid is None else PeakMemory(prefill_pid)
    # One prompt at a time and growing: what is read of memory is not what a longer one left behind.
    work = [(round_, length, batch, policy) for round_ in range(rounds) for batch in sorted(batches)
            for length in sorted(lengths) for policy in policies]
    for round_, length, batch, policy in tqdm(work, desc="overhead"):
        document = haystack.document(length, random.Random(f"{length}"))
        prompt = f"{document}\n\nIn short:"
        key = f"{length}/{batch}/{policy.name}/{round_}"
        asked = prompt, policy.options, output_tokens
        if records.holds(key, asked):
            continue
        if memory is not None:
            memory.reset()
        measured = measure(client, prompt, policy, batch, output_tokens)
        peak = {"prefill_peak_bytes": memory.num_bytes()} if memory is not None and batch == 1 and round_ == 0 else {}
        records.add(key, asked, {"length": length, "batch": batch, "policy": policy.name, "options": policy.options, **measured,
                                 **peak})


def _median(records: Sequence[Record], name: str) -> float:
    values = [record[name] for record in records if name in record]
    return float(np.median(values)) if values else float("nan")


def _finish(axis: Axes, title: str, unit: str, lengths: Sequence[int]) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("prompt tokens")
    axis.set_xticks(lengths, [tokens_label(length) for length in lengths])
    axis.set_ylabel(unit)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def plot(folder: Path) -> list[Path]:
    """Peak memory, prefill time, prefill against generation; then time per output token, a panel per batch."""
    records = Records(folder, "overhead")
    if not len(records):
        return []
    policies = list(dict.fromkeys(record["policy"] for record in records))
    lengths = sorted({record["length"] for record in records})
    batches = sorted({record["batch"] for record in records})
    labels = [tokens_label(length) for length in lengths]

    def curve(name: str, policy: str, batch: int) -> np.ndarray:
        return np.array([_median(records.of(policy=policy, length=n, batch=batch), name) for n in lengths])

    columns = max(3, len(batches))
    figure, axes = pyplot.subplots(2, columns, figsize=(3.7 * columns, 7), squeeze=False, layout="constrained")
    memory, prefill, share = axes[0, :3]
    for axis in (*axes[0, 3:], *axes[1, len(batches):]):
        axis.set_axis_off()
    for i, policy in enumerate(policies):
        # Smaller and smaller, so that curves that coincide are all seen.
        style = {"marker": "osD^v"[i % 5], "markersize": max(3, 9 - 2 * i), "color": f"C{i}", "label": policy}
        reading = (curve("prefill_ms", policy, 1) + curve("compress_ms", policy, 1)) / 1000
        memory.plot(lengths, curve("prefill_peak_bytes", policy, 1) / 2**20, **style)
        prefill.plot(lengths, reading, **style)
        share.plot(lengths, curve("ms_per_token", policy, 1) * _GENERATED / 1000, **style)
        share.plot(lengths, reading, color=f"C{i}", linestyle=":")
        for axis, batch in zip(axes[1], batches):
            axis.plot(lengths, curve("ms_per_token", policy, batch), **style)
    _finish(memory, "peak memory of the prefill process", "MiB", lengths)
    _finish(prefill, "prefill, compression included", "s", lengths)
    _finish(share, f"{_GENERATED} output tokens; dotted: prefill", "s", lengths)
    for axis, batch in zip(axes[1], batches):
        _finish(axis, f"decode, batch {batch}", "ms per step", lengths)
    # One legend for all panels: colours mean the same everywhere.
    figure.legend(*memory.get_legend_handles_labels(), loc="outside upper center", ncols=len(policies), fontsize=11)

    def at_longest(name: str, batch: int, scale: float, unit: str) -> str:
        values = ((policy, curve(name, policy, batch)[-1]) for policy in policies)
        return listed(f"{value / scale:.1f} {unit} with {policy}" for policy, value in values if not np.isnan(value))

    return [save(figure, folder, "overhead", "Time and memory with and without compression (the paper's Fig. 7, 10, 11)",
                 f"The same prompts of {listed(labels)} tokens under each policy, batches of {listed(batches)}; medians of "
                 "the rounds that were run, fewer in large batches. Above: the prefill process's largest resident size during one request, the time to read the prompt and "
                 f"compress its cache, and that time beside {_GENERATED} decode steps. Below: the time of a decode step in which "
                 "all sessions of the batch take part, as their clients see it; in batches above 1 a session's cache holds up to "
                 f"{RUN_AHEAD_TOKENS} generated tokens more than the prompt. At {labels[-1]} tokens the prefill process held "
                 f"{at_longest('prefill_peak_bytes', 1, 2**20, 'MiB')}; a step with a batch of {batches[-1]} took "
                 f"{at_longest('ms_per_token', batches[-1], 1, 'ms')}.")]
