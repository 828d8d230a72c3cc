#!/usr/bin/env python3
"""Runs scripts/gpu.sh with stand-ins for the programs, NVIDIA's tools and the device: what it keeps and says, whatever fails."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import gpu_libraries  # noqa: E402
import gpu_services  # noqa: E402

# What each does stands in the file of its name, or of the suite's or command's, in the folder $HOW: a few lines of bash.
STAND_INS = {
    "kvship_kernels_cuda_test": """
case $1 in --gtest_list_tests) printf 'FirstTest.\\n  One\\nSecond/0.  # TypeParam = float\\n  One\\nWindowVotesTest.\\n  One\\n'; exit ;; esac
how "${1#*=}"
echo "[  PASSED  ] 1 test."
""",
    "kvship_kernels_cuda_libraries_test": '[[ $1 != --gtest_list_tests ]] || echo "LibrariesTest."; how "${1#*=}"',
    "kvship_engine_cuda_test": '[[ $1 != --gtest_list_tests ]] || echo "EngineTest."; how "${1#*=}"',
    "kvship-cuda-bench": """
echo "read 4 GiB"
echo '{"results": []}' >"$1"
how bench
echo "window_votes tma"
""",
    "kvship-engine-bench": """
echo "{\\"bench\\": \\"$1\\"}"
how "$1"
""",
    "kvship-nccl-bench": 'how nccl; echo PASSED',
    "nvidia-smi": 'echo "NVIDIA H100, 580, 81559 MiB"',
    "compute-sanitizer": 'echo "ERROR SUMMARY"; how "$2"',
    "nvcc": 'echo "Cuda compilation tools, release 13.0, V13.0.88"',
    "python3": "exit 1",  # there is no PyTorch
}
NO_DEVICE = 'printf "device_test.h:24: Skipped\\nno CUDA device: driver too old\\n"; exit 0'


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


class GpuRun(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="kvship-gpu-"))
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ("bin", "how", "checkout"):
            (self.folder / name).mkdir()
        shutil.copytree(ROOT / "scripts", self.folder / "checkout/scripts", ignore=shutil.ignore_patterns("__pycache__"))
        for name, text in STAND_INS.items():
            self.write(f"bin/{name}", f'#!/bin/bash\nhow() {{ local f="$HOW/${{1//\\//_}}"; [[ ! -f $f ]] || source "$f"; }}\n{text}\n')
        self.write("checkout/scripts/gpu_libraries.py", "#!/bin/bash\n[[ ! -f $HOW/libraries ]] || source $HOW/libraries\n")
        self.results = self.folder / "results"
        self.environment = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HOME": str(self.folder), "HOW": f"{self.folder}/how",
                            "KVSHIP_GPU_BIN": f"{self.folder}/bin", "KVSHIP_COMMIT": "c0ffee", "KVSHIP_GPU_PACK": "yes"}

    def write(self, path, text):
        (self.folder / path).write_text(text)
        (self.folder / path).chmod(0o755)

    def run_stages(self, *stages, fails=True, results=None, **environment):
        """What it said."""
        done = subprocess.run([self.folder / "checkout/scripts/gpu.sh", results or self.results, *stages], cwd=self.folder,
                              env={**self.environment, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=100, check=False)
        self.assertEqual(done.returncode, 1 if fails else 0, done.stdout)
        return done.stdout

    def packed(self):
        """{name: text} of what is in the archive, beside which nothing is."""
        self.assertEqual(os.listdir(self.results), ["results.tar"])
        with tarfile.open(self.results / "results.tar") as archive:
            return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}

    def test_all_results_are_packed_and_say_what_they_are_of(self):
        said = self.run_stages("tests", "kernels", "nccl", "engine", "paper", "mixture", "sanitize", "long", fails=False)
        self.assertIn("NVIDIA H100, 580, 81559 MiB, programs of c0ffee", said)
        results = self.packed()
        self.assertEqual({name for name in results if not name.endswith(".err")}, {
            "gpu-tests.txt", "gpu-kernels.json", "gpu.md", "gpu-nccl.txt", "gpu-engine.jsonl", "gpu-paper.jsonl",
            "gpu-mixture.jsonl", "memcheck.log", "racecheck.log", "gpu-long.jsonl"})
        for name, text in results.items():
            if not name.endswith((".err", ".json")):
                self.assertIn("H100", text, name)
                self.assertIn("c0ffee", text, name)
        rows = [json.loads(line)["bench"] for line in results["gpu-engine.jsonl"].splitlines()]
        self.assertEqual(rows, ["machine", "limits", "prefill", "decode", "prefix", "prefill"])
        self.assertRegex(results["gpu.md"], r"(?s)```\nread 4 GiB\nwindow_votes tma\n```\n\Z")
        self.assertRegex(results["gpu-tests.txt"], r"(?s)FirstTest\..*ok.*Second/0\..*ok.*LibrariesTest\..*WindowVotesTest\..*ok")

    def test_a_relative_folder_is_the_callers(self):
        self.run_stages("kernels", fails=False, results="results")
        self.assertIn("gpu-kernels.json", self.packed())

    def test_without_a_device_nothing_is_begun(self):
        self.write("how/DequantizeTest.*", NO_DEVICE)
        said = self.run_stages("tests", "engine")
        self.assertTrue(said.endswith("no CUDA device: driver too old\nwithout one nothing is run\n"), said)
        self.assertEqual(os.listdir(self.results), [])

    def test_with_a_device_that_hangs_nothing_is_begun(self):
        self.write("how/DequantizeTest.*", "sleep 100")
        self.assertIn("a first, short test does not end\n", self.run_stages("tests", "engine", KVSHIP_GPU_SECONDS="4"))
        self.assertEqual(os.listdir(self.results), [])

    def test_a_device_that_is_lost_is_no_success(self):
        self.write("how/Second_0.*", NO_DEVICE)
        said = self.run_stages("tests")
        self.assertIn("failed: Second/0. (no device)", said)
        self.assertRegex(self.packed()["gpu-tests.txt"], r"Second/0\. +no device")

    def test_libraries_that_are_missing_are_named_first_and_last(self):
        self.write("how/libraries", 'echo "$1 MISSING" >&2; exit 1')
        said = self.run_stages("nccl").splitlines()
        self.assertEqual(said[0], "libcublasLt.so.13 MISSING")
        self.assertRegex(said[-1], r"failed: libraries \(not all of libcublasLt\.so\.13 libcudnn\.so\.9 .* are here\)")

    def test_libraries_that_are_elsewhere_are_found_by_the_programs(self):
        self.write("how/libraries", "echo /opt/nccl:/opt/cudnn")
        self.write("how/nccl", 'echo "in $LD_LIBRARY_PATH"')
        self.run_stages("nccl", fails=False)
        self.assertRegex(self.packed()["gpu-nccl.txt"], r"in .*:/opt/nccl:/opt/cudnn\n")

    def test_what_fails_is_named_and_the_rest_runs(self):
        self.write("how/FirstTest.*", "exit 3")
        self.write("how/Second_0.*", "kill -SEGV $$")
        self.write("how/prefill", "exit 1")
        self.write("how/racecheck", "exit 1")
        said = self.run_stages("tests", "engine", "sanitize")
        self.assertIn("failed: FirstTest. (exit code 3), Second/0. (exit code 139), engine prefill --tokens=4096,16384,32768 "
                      "(exit code 1), engine prefill --tokens=131072 --rounds=1 (exit code 1), racecheck, the others (exit code 1), "
                      "racecheck, WindowVotesTest (exit code 1)", said)
        self.assertEqual(self.packed()["gpu-engine.jsonl"].count("\n"), 6)

    def test_the_time_of_all_ends_what_hangs_and_names_what_was_not_run(self):
        self.write("how/decode", "sleep 100")
        begun = time.monotonic()
        said = self.run_stages("engine", "nccl", KVSHIP_GPU_SECONDS="6")
        self.assertLess(time.monotonic() - begun, 30)
        self.assertIn("failed: engine decode --batch=1,32 --tokens=16384 --nofull (no end), "
                      "engine prefix --tokens=32768 (not run), engine prefill --tokens=131072 --rounds=1 (not run), nccl (not run)", said)
        self.assertEqual(self.packed()["gpu-engine.jsonl"].count("\n"), 4)

    def test_the_rest_of_a_run_can_be_chosen(self):
        said = self.run_stages("tests", "engine", "sanitize", fails=False, KVSHIP_GPU_ONLY="^Second|prefix|racecheck, W")
        self.assertNotRegex(said, "FirstTest|memcheck|the others")
        results = self.packed()
        self.assertRegex(results["gpu-tests.txt"], r"Second/0\. +ok")
        self.assertEqual([json.loads(line)["bench"] for line in results["gpu-engine.jsonl"].splitlines()], ["machine", "prefix"])

    def test_a_test_that_says_a_line_per_number_leaves_a_short_log(self):
        self.write("how/FirstTest.*", "echo begins; yes 'a number is wrong' | head -n 100000; echo ends; exit 1")
        self.run_stages("tests")
        text = self.packed()["gpu-tests.txt"]
        self.assertLess(len(text), 250000)
        self.assertRegex(text, r"(?s)begins\n.*left out.*ends\n")

    def test_a_process_that_holds_the_output_open_holds_nothing_up(self):
        self.write("how/bench", f"setsid sleep 60 & echo $! >{self.folder}/holder; exit 1")
        self.addCleanup(lambda: os.kill(int((self.folder / "holder").read_text()), signal.SIGKILL))
        begun = time.monotonic()
        said = self.run_stages("kernels", "nccl")
        self.assertLess(time.monotonic() - begun, 40)
        self.assertIn("failed: kernels (exit code 1)\n", said)
        self.assertRegex(self.packed()["gpu.md"], r"(?s)```\nread 4 GiB\n```\n\Z")

    def test_what_is_killed_leaves_what_it_had(self):
        self.write("how/decode", "echo $$ >$HOW/pid; exec sleep 100")
        run = subprocess.Popen([self.folder / "checkout/scripts/gpu.sh", self.results, "kernels", "engine"], env=self.environment,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        pid = read_when_written(self.folder / "how/pid", run)
        lines = self.results / "gpu-engine.jsonl"  # written by a process of its own, in its time
        while run.poll() is None and not (lines.exists() and lines.read_text().count("\n") == 4):
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        os.kill(pid, signal.SIGKILL)
        with tarfile.open(self.results / "results.tar") as archive:
            self.assertEqual(sorted(archive.getnames()), ["gpu-kernels.json", "gpu.md"])
        self.assertEqual((self.results / "gpu-engine.jsonl").read_text().count("\n"), 4)


class GpuLibraries(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvship-libraries-")
        self.addCleanup(shutil.rmtree, self.folder)
        (self.there,) = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libm.so" in line][:1]

    def look(self, *names):
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.object(gpu_libraries, "DISK", (self.folder,)), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = gpu_libraries.main(names)
        return code, out.getvalue().strip(), err.getvalue()

    def test_says_where_the_loader_finds_one(self):
        code, folders, said = self.look("libm.so.6")
        self.assertEqual((code, folders), (0, ""))
        self.assertRegex(said, r"^libm\.so\.6: /.*/libm.*\n$")

    def test_names_the_folder_of_one_that_the_loader_does_not_find(self):
        os.makedirs(f"{self.folder}/a/lib")
        shutil.copy(self.there, f"{self.folder}/a/lib/libkvship_there.so.1")
        code, folders, _ = self.look("libkvship_there.so.1", "libm.so.6")
        self.assertEqual((code, folders), (0, f"{self.folder}/a/lib"))

    def test_says_why_one_cannot_be_opened(self):
        Path(f"{self.folder}/libkvship_broken.so.1").write_text("no library")
        code, folders, said = self.look("libkvship_nowhere.so.1", "libkvship_broken.so.1")
        self.assertEqual((code, folders), (1, ""))
        self.assertIn("libkvship_nowhere.so.1: MISSING (libkvship_nowhere.so.1: cannot open shared object file", said)
        self.assertIn(f"{self.folder}/libkvship_broken.so.1: file too short", said)


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

    def test_servers_end_at_the_same_time(self):
        folder = Path(tempfile.mkdtemp(prefix="kvship-services-"))
        self.addCleanup(shutil.rmtree, folder)
        for name, other in (("kvship-prefill", "kvship-decode"), ("kvship-decode", "kvship-prefill")):
            # Ends well once the other one has been told to end, too.
            (folder / name).write_text(f"""#!/bin/bash
trap 'touch {folder}/{name}.told; for i in {{1..50}}; do [[ -e {folder}/{other}.told ]] && exit 0; sleep 0.1; done; exit 1' TERM
touch {folder}/{name}.runs
while :; do sleep 0.1; done
""")
            (folder / name).chmod(0o755)

        def wait_until_it_runs(server):
            while not (folder / f"{server.name.split()[0]}.runs").exists():
                time.sleep(0.05)
        with mock.patch.object(gpu_services.Server, "wait_until_ready", wait_until_it_runs):
            with gpu_services.Pair(folder, "model", "cuda", "cpu") as pair:
                pass
        self.assertEqual(pair.exit_codes, [0, 0])

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
