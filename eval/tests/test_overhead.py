"""How the study of time and memory measures; no server."""

import subprocess
import sys

import pytest
from kvship_eval import overhead
from kvship_eval.records import Records


def arrivals(first, step, count):
    return [first + step * i for i in range(count)]


def test_a_lone_sessions_step_is_the_time_between_its_tokens():
    assert overhead.step_ms([arrivals(5.0, 0.02, 32)]) == pytest.approx(20)


def test_a_batchs_step_is_that_of_the_session_that_began_last_while_all_run():
    # Two that began early, sat out, and get what had been waiting for them at once at 100 s; then all step together.
    early = [[begin, *[100.0] * 300, *arrivals(100.05, 0.05, 40)] for begin in (1.0, 2.0)]
    last = arrivals(100.0, 0.05, 41)
    alone = arrivals(last[-1] + 0.01, 0.01, 100)  # the others have ended
    assert overhead.step_ms([*early, last + alone]) == pytest.approx(50)


def test_too_few_steps_together_are_an_error():
    with pytest.raises(RuntimeError, match="5 steps had all 2 sessions in the batch; wanted at least 8"):
        overhead.step_ms([arrivals(0, 1, 21), arrivals(11, 1, 40)])


def test_peak_memory_falls_when_it_is_reset():
    hold = ("import sys; held = bytearray(200 << 20); print('held', flush=True); sys.stdin.readline(); del held; "
            "print('freed', flush=True); sys.stdin.readline()")
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        memory = overhead.PeakMemory(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        assert memory.num_bytes() > 200 << 20  # freed, but the mark stands
        memory.reset()
        assert memory.num_bytes() < 100 << 20
        process.communicate("\n")
    with pytest.raises(ValueError, match="cannot be reset"):
        overhead.PeakMemory(process.pid)


def test_every_panel_has_its_batch(tmp_path):
    records = Records(tmp_path, "overhead")
    for policy in ("keep_all", "other"):
        for length in (500, 1000):
            for batch in (1, 2):
                records.add(f"{policy}{length}{batch}", "", {
                    "policy": policy, "length": length, "batch": batch, "ms_per_token": 10.0 * batch, "prefill_ms": 100.0,
                    "compress_ms": 1.0, **({"prefill_peak_bytes": 1 << 28} if batch == 1 else {})})
    assert overhead.plot(tmp_path)[0].stat().st_size > 1000
    assert "20.0 ms with keep_all" in (tmp_path / "overhead.caption.json").read_text()
