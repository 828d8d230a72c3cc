#!/usr/bin/env python3
"""Asks every command of ./dev, and every script, for its help, in a copy of the checkout where nothing else may happen."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the commands do their work with.
TOOLS = ("apt-get", "clang-format", "cmake", "ctest", "dpkg-query", "git", "pip", "rm", "sudo")
SCRIPTS = ("bundle", "gpu", "gpu_deps", "gpu_payload", "image")


def commands():
    """The names that ./dev itself tells apart."""
    listed = re.findall(r"^  ([a-z |]+)\)", (ROOT / "dev").read_text().split("case $command in")[1], re.MULTILINE)
    names = [name.strip() for alternatives in listed for name in alternatives.split("|")]
    return [name for name in names if name != "bench"] + ["bench cpu", "bench prefix", "bench load", "bench"]


class HelpIsAllThatHappens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kvship-dev-")
        cls.root = Path(cls.folder.name) / "checkout"
        for name in ("scripts", "demo", "bench"):
            shutil.copytree(ROOT / name, cls.root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        shutil.copy(ROOT / "dev", cls.root)
        (cls.root / "build").mkdir()
        tools = Path(cls.folder.name) / "tools"
        tools.mkdir()
        for tool in TOOLS:
            (tools / tool).write_text('#!/bin/bash\necho "$0 $*" >>"$KVSHIP_CALLED"\nexit 1\n')
            (tools / tool).chmod(0o755)
        cls.called = Path(cls.folder.name) / "called"
        cls.environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "KVSHIP_CALLED": str(cls.called),
                           "XDG_CACHE_HOME": f"{cls.folder.name}/cache", "PYTHONDONTWRITEBYTECODE": "1"}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def help_of(self, *command):
        before = sorted(self.root.rglob("*"))
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=60,
                              check=False)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual("", self.called.read_text() if self.called.exists() else "")
        self.assertEqual(before, sorted(self.root.rglob("*")))
        return done.stdout

    def test_of_every_command(self):
        self.assertIn("clean", commands())
        for command in commands():
            for flag in ("--help", "-h"):
                with self.subTest(f"./dev {command} {flag}"):
                    self.assertRegex(self.help_of("./dev", *command.split(), flag), r"\./dev|scripts/|usage: curves\.py")

    def test_of_a_command_with_arguments_before_it(self):
        self.assertIn("./dev COMMAND", self.help_of("./dev", "test", "-R", "kernels/", "--help"))

    def test_of_every_script(self):
        for script in SCRIPTS:
            with self.subTest(script):
                told = self.help_of(f"scripts/{script}.sh", "--help")
                self.assertRegex(told, r"\A[A-Z]\w+s .*\n")
                self.assertNotIn("set -", told)


if __name__ == "__main__":
    sys.exit(unittest.main())
