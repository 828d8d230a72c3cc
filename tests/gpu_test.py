#!/usr/bin/env python3
"""What scripts/gpu_services.py takes for a wrong answer, and that nothing outlives it."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import gpu_services  # noqa: E402


def read_when_written(path, process):
    """The number in a file that something under `process` writes."""
    while not (path.exists() and path.read_text()):
        if process.poll() is not None:
            raise AssertionError(f"{process.args} ended, and there is no {path}")
        time.sleep(0.05)
    return int(path.read_text())


def has_ended(pid):
    """Also where nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def record(tokens, kept=40, mass=1.0):
    return {"tokens": tokens, "kv": {"kept_tokens": kept, "shipped_bytes": 100, "retained_mass_mean": mass},
            "logprobs": [{"top": [{"token_id": token, "logprob": -1.0}, {"token_id": 8, "logprob": -1.2},
                                  {"token_id": 9, "logprob": -2.0}]} for token in tokens]}


class GpuServices(unittest.TestCase):
    def passes(self, gpu, cpu=None):
        checks = gpu_services.Checks()
        with contextlib.redirect_stdout(io.StringIO()):
            checks.compare("name", cpu or record([5, 6, 7]), gpu)
        return checks.failed == []

    def test_the_same_answer_passes_and_one_about_as_likely(self):
        self.assertTrue(self.passes(record([5, 6, 7])))
        self.assertTrue(self.passes(record([5, 8, 3])))

    def test_a_wrong_answer_fails(self):
        for gpu in (record([5, 9, 7]), record([5, 3, 7]), record([5, 6]), record([5, 6, 7], kept=41), record([5, 6, 7], mass=0.9),
                    record([5, 6, 7], mass=float("nan"))):
            self.assertFalse(self.passes(gpu), gpu)

    def deaf_servers(self):
        """A folder of programs that are never ready, and deaf to SIGTERM."""
        folder = Path(tempfile.mkdtemp(prefix="kvship-services-"))
        self.addCleanup(shutil.rmtree, folder)
        for name in ("kvship-prefill", "kvship-decode"):
            (folder / name).write_text(f"#!/bin/bash\ntrap '' TERM\necho $$ >{folder}/{name}.pid\nwhile :; do sleep 0.2; done\n")
            (folder / name).chmod(0o755)
        return folder

    def test_servers_that_do_not_answer_are_not_waited_for(self):
        begun = time.monotonic()
        with mock.patch.object(gpu_services.Server, "wait_until_ready"), contextlib.redirect_stdout(io.StringIO()) as said:
            with self.assertRaises(subprocess.TimeoutExpired):
                with gpu_services.Pair(self.deaf_servers(), "model", "cuda", "cpu") as pair:
                    raise subprocess.TimeoutExpired("kvship", 60)
        self.assertEqual(pair.exit_codes, [-9, -9])
        self.assertLess(time.monotonic() - begun, gpu_services.STOP_TIMEOUT_S)
        self.assertRegex(said.getvalue(), "kvship-prefill on cuda said (?s:.*)kvship-decode on cpu said")

    def test_no_server_outlives_the_end_of_its_time(self):
        folder = self.deaf_servers()
        run = subprocess.Popen([sys.executable, ROOT / "scripts/gpu_services.py", folder], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        pids = [read_when_written(folder / f"{name}.pid", run) for name in ("kvship-prefill", "kvship-decode")]
        run.terminate()
        self.assertEqual(run.communicate(timeout=60)[1], "ended by SIGTERM\n")
        for pid in pids:
            self.assertTrue(has_ended(pid))


if __name__ == "__main__":
    unittest.main()
