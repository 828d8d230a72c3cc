#!/usr/bin/env python3
"""Runs the demo with two real processes of each kind, with the demo model: minutes. KVSHIP_BIN and KVSHIP_DEMO_MODEL name them."""

import os
import re
import subprocess
import sys
import unittest

DEMO = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "demo", "demo.py")
sys.path.insert(0, os.path.dirname(DEMO))
from kvship_processes import free_port_arguments  # noqa: E402


class DemoLongTest(unittest.TestCase):
    def test_two_of_each_find_the_code_and_share_the_requests(self):
        flags = [f"--{name.replace('_', '-')}={port}" for name, port in free_port_arguments().items()]
        done = subprocess.run(
            [sys.executable, DEMO, "--bin", os.environ["KVSHIP_BIN"], "--model", os.environ["KVSHIP_DEMO_MODEL"],
             "--prefill", "2", "--decode", "2", "--seed", "1", *flags], capture_output=True, text=True, check=False)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertRegex(done.stdout, r"answer +right ")
        self.assertRegex(done.stdout, r"served by +prefill [12], decode 1 +prefill [12], decode 2 +prefill [12], decode 1\n")
        served = [int(number) for number in re.search(r"\nserved +(\d+) +(\d+) +(\d+) +(\d+)\n", done.stdout).groups()]
        self.assertEqual([16, 8, 8], [served[0] + served[1], *served[2:]])
        self.assertGreater(min(served), 0)


if __name__ == "__main__":
    unittest.main()
