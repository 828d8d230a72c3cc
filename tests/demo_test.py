#!/usr/bin/env python3
"""Runs the demo against stand-ins for the kvship programs: what it prints, how it fails, what it leaves behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEMO = os.path.join(ROOT, "demo", "demo.py")
sys.path.insert(0, os.path.dirname(DEMO))
from kvship_processes import free_ports  # noqa: E402

SERVER = """#!/usr/bin/env python3
import http.server, os, sys
flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
open(os.path.join(os.path.dirname(__file__), "pids"), "a").write(f"{os.getpid()}\\n")
if "damaged" in flags["model"]:
    sys.exit("model 'damaged': tensor data ends early")
role = os.path.basename(__file__).removeprefix("kvship-")
requests = os.path.join(os.path.dirname(__file__), "requests")
open(os.path.join(os.path.dirname(__file__), role), "a").write(flags["listen"] + "\\n")
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ("/readyz", "/metrics") else 404)
        self.end_headers()
        served = open(requests).read().split().count(flags["listen"]) if os.path.exists(requests) else 0
        self.wfile.write(f'kvship_{role}_requests_total{{code="OK"}} {served}\\n'.encode())
    def log_message(self, *_): pass
host, port = flags["admin"].split(":")
http.server.HTTPServer((host, int(port)), Ready).serve_forever()
"""

CLIENT = """#!/usr/bin/env python3
import json, os, re, sys, time
flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[2:] if "=" in a)
folder = os.path.dirname(__file__)
for _ in range(int(flags.get("requests", 1))):
    with open(os.path.join(folder, "requests"), "a+") as file:
        file.seek(0)
        prefill = open(os.path.join(folder, "prefill")).read().split()
        file.write(prefill[len(file.readlines()) % len(prefill)] + " " + flags["server"] + "\\n")
if sys.argv[1] == "bench":
    sys.exit()
text = open(flags["prompt-file"]).read()
code = re.search(r"access code of the archive is (\\d+)", text).group(1)
keep_all = "keep_all" in flags["compression"]
BEHAVIOUR
answer = f"The code is {code}."
print(answer)
shipped = 1000 if keep_all else 125
json.dump({"text": answer, "finish_reason": "stop",
           "usage": {"prompt_tokens": 4000, "output_tokens": 9},
           "kv": {"kept_tokens": 4000 if keep_all else 512, "uncompressed_bytes": 1000, "shipped_bytes": shipped,
                  "retained_mass_mean": 0.8, "retained_mass_min": 0.5},
           "timing": {"queue_ms": 1, "prefill_ms": 7000, "compress_ms": 20, "transfer_ms": 3, "first_decode_ms": 25,
                      "first_token_ms": 7050, "total_ms": 8000, "tokens_per_second": 41.5}},
          open(flags["report-file"], "w"))
"""


class DemoTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.ports = free_ports(4)

    def start(self, behaviour="", model="model.gguf", server=SERVER, more=()):
        for name, text in (("kvship-prefill", server), ("kvship-decode", SERVER),
                           ("kvship", CLIENT.replace("BEHAVIOUR", behaviour))):
            path = os.path.join(self.folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, 0o755)
        names = ("prefill-port", "prefill-admin-port", "decode-port", "decode-admin-port")
        flags = [f"--{name}={port}" for name, port in zip(names, self.ports)]
        return subprocess.Popen(
            [sys.executable, DEMO, "--model", model, "--bin", self.folder, *flags, *more],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, process):
        out, err = process.communicate(timeout=60)
        self.assert_nothing_runs()
        return process.returncode, out, err

    def server_pids(self):
        try:
            with open(os.path.join(self.folder, "pids"), encoding="utf-8") as file:
                return [int(line) for line in file]
        except FileNotFoundError:
            return []

    def assert_nothing_runs(self):
        for pid in self.server_pids():
            self.assertFalse(os.path.exists(f"/proc/{pid}"), f"process {pid} was left running")

    def test_shows_the_runs_side_by_side(self):
        status, out, err = self.finish(self.start())
        self.assertEqual(0, status, err)
        self.assertEqual(2, len(self.server_pids()))
        self.assertRegex(out, r"kept tokens per KV head +512 +512 +4,000\n")
        self.assertRegex(out, r"ratio +8\.0 x +8\.0 x +1\.0 x\n")
        self.assertRegex(out, r"answer +right +right +right\n")

    def test_more_processes_share_the_requests(self):
        status, out, err = self.finish(self.start(more=["--prefill", "2", "--decode", "3"]))
        self.assertEqual(0, status, err)
        self.assertEqual(5, len(self.server_pids()))
        self.assertRegex(out, r"served by +prefill [12], decode 1 +prefill [12], decode 2 +prefill [12], decode 3\n")
        self.assertRegex(out, r"prefill 1 +prefill 2 +decode 1 +decode 2 +decode 3\n")
        served = re.search(r"served +(\d+) +(\d+) +8 +8 +8\n", out)
        self.assertEqual(24, int(served[1]) + int(served[2]))

    def test_no_number_of_processes_is_named(self):
        status, _, err = self.finish(self.start(more=["--decode", "0"]))
        self.assertEqual(2, status)
        self.assertIn("argument --decode: '0'; wanted a number of at least 1", err)

    def test_a_code_written_with_separators_is_right(self):
        status, _, err = self.finish(self.start("code = f'{int(code):,}'"))
        self.assertEqual(0, status, err)

    def test_a_wrong_answer_over_the_compressed_cache_fails(self):
        status, out, err = self.finish(self.start("code = code if keep_all else '0'"))
        self.assertEqual(1, status)
        self.assertRegex(out, r"answer +WRONG +WRONG +right\n")
        self.assertIn("does not hold the code", err)

    def test_a_port_in_use_is_named_with_its_flag(self):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            self.ports[2] = holder.getsockname()[1]
            status, _, err = self.finish(self.start())
        self.assertEqual(1, status)
        self.assertIn(f"Port {self.ports[2]} cannot be used (address already in use)", err)
        self.assertIn("--decode-port", err)

    def test_a_server_that_ends_shows_its_last_words(self):
        status, _, err = self.finish(self.start(model="damaged"))
        self.assertEqual(1, status)
        self.assertIn("ended by itself, with exit code 1", err)
        self.assertIn("tensor data ends early", err)

    def test_a_failing_client_fails_the_demo(self):
        status, _, err = self.finish(self.start("sys.exit('prompt too long')"))
        self.assertEqual(1, status)
        self.assertIn("prompt too long", err)

    def test_a_program_that_is_not_built_is_named(self):
        process = self.start(server="#!/no/such/interpreter\n")
        status, _, err = self.finish(process)
        self.assertEqual(1, status)
        self.assertIn("kvship-prefill: No such file or directory", err)

    def interrupted_by(self, number):
        process = self.start("time.sleep(60)")
        deadline = time.monotonic() + 30
        while len(self.server_pids()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        status = process.wait(timeout=30)
        process.stdout.close()
        process.stderr.close()
        self.assertEqual(2, len(self.server_pids()))
        return status

    def test_an_interrupt_leaves_nothing_running(self):
        self.assertEqual(130, self.interrupted_by(signal.SIGINT))
        self.assert_nothing_runs()

    def test_a_termination_leaves_nothing_running(self):
        self.assertEqual(128 + signal.SIGTERM, self.interrupted_by(signal.SIGTERM))
        self.assert_nothing_runs()

    def test_a_kill_that_cannot_be_caught_takes_the_servers_along(self):
        self.interrupted_by(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(os.path.exists(f"/proc/{p}") for p in self.server_pids()):
            time.sleep(0.05)
        self.assert_nothing_runs()


class TableTest(unittest.TestCase):
    def test_columns_stand_right_aligned_under_their_names(self):
        import demo  # pylint: disable=import-outside-toplevel
        lines = demo.table(["one", "other"], [[("rows", "1,000,000")], [("rows", "2")]]).splitlines()
        self.assertEqual(["            one  other", "----  ---------  -----", "rows  1,000,000      2"], lines)


if __name__ == "__main__":
    sys.exit(unittest.main())
