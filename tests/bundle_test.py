#!/usr/bin/env python3
"""Makes the archive of scripts/bundle.sh, unpacks it elsewhere, and answers a prompt from it, in a root of its own.

KVSHIP_BIN is the folder with the programs. Where this account may not change its root, the programs run in the one there
is, with an empty environment; that every library comes out of the archive is checked either way.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "demo"))
from kvship_processes import free_ports  # noqa: E402

MODEL = os.path.join(ROOT, "tests", "goldens", "models", "llama")
PROGRAMS = ("kvship-prefill", "kvship-decode", "kvship", "kvship-inspect")
GLIBC = re.compile(r"(ld-linux.*|lib(c|m|mvec|dl|pthread|rt|resolv|util|anl|nsl))\.so(\.\d+)*$")
# A program opens them when it uses a GPU, if its machine has them.
CUDA = re.compile(r"lib(cuda|cudart|cublas|cublasLt|cudnn|nvrtc|nccl)\.so")
PROMPT = [i * 37 % 320 for i in range(200)]
# In a root without /proc the loader cannot ask where a program lies.
ENVIRONMENT = {"LD_ORIGIN_PATH": "/opt/moved/bin"}


def is_ready(admin_port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def libraries_of(program):
    """{name: path, or None where it was not found}, as a machine without settings of its own resolves them."""
    text = subprocess.run(["ldd", program], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
                          check=True).stdout
    found = {}
    for line in text.splitlines():
        words = line.split()
        if "=>" in words:
            found[words[0]] = None if "not found" in line else words[2]
        elif words[0].startswith("/"):
            found[os.path.basename(words[0])] = words[0]
    return found


class BundleTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvship_bundle_")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        made = os.path.join(cls.folder, "made")
        subprocess.run([os.path.join(ROOT, "scripts", "bundle.sh"), made], check=True,
                       env={**os.environ, "KVSHIP_BUNDLE_BIN": os.environ["KVSHIP_BIN"]})
        (archive,) = os.listdir(made)
        shutil.unpack_archive(os.path.join(made, archive), made)
        # A root with nothing in it but the archive, the model, and what of glibc every program needs.
        cls.root = os.path.join(cls.folder, "root")
        cls.bundle = os.path.join(cls.root, "opt", "moved")
        shutil.move(os.path.join(made, archive.removesuffix(".tar.gz")), cls.bundle)
        shutil.copytree(MODEL, os.path.join(cls.root, "model"))
        with open(os.path.join(cls.root, "tokens.json"), "w", encoding="utf-8") as file:
            json.dump(PROMPT, file)
        cls.libraries = {name: libraries_of(os.path.join(cls.bundle, "bin", name)) for name in PROGRAMS}

    def test_every_library_comes_out_of_the_archive(self):
        for program, libraries in self.libraries.items():
            for name, path in libraries.items():
                if not GLIBC.match(name):
                    self.assertTrue(path and path.startswith(self.bundle + "/"), f"{program}: {name} => {path}")

    def test_no_program_needs_a_library_of_cudas_to_start(self):
        for program in PROGRAMS:
            section = subprocess.run(["readelf", "-d", os.path.join(os.environ["KVSHIP_BIN"], program)],
                                     capture_output=True, text=True, check=True).stdout
            needed = re.findall(r"NEEDED.*\[(.*)\]", section)
            self.assertIn("libc.so.6", needed)
            self.assertEqual([name for name in needed if CUDA.match(name)], [], program)

    def test_every_library_has_its_licence(self):
        licences = os.listdir(os.path.join(self.bundle, "licences"))
        for package in ("libabsl20220623", "libgrpc++1.51", "libssl3", "libstdc++6", "llama.cpp", "xgrammar", "Apache-2.0", "GPL-3"):
            self.assertIn(package, licences)
        self.assertTrue(os.path.exists(os.path.join(self.bundle, "LICENSE")))

    def enter_root(self):
        """The words before a command that make self.root its root; none where that is not possible."""
        for found in self.libraries.values():
            for name, path in found.items():
                if GLIBC.match(name):
                    target = self.root + path
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copy(path, target)
        os.makedirs(os.path.join(self.root, "tmp"), exist_ok=True)
        for words in (["chroot", self.root], ["unshare", "--user", "--map-root-user", "chroot", self.root]):
            tried = subprocess.run([*words, "/opt/moved/bin/kvship", "--version"], env={**ENVIRONMENT, "PATH": os.environ["PATH"]},
                                   capture_output=True, check=False)
            if tried.returncode == 0:
                return words
        return []

    def test_answers_a_prompt(self):
        enter = self.enter_root()
        where = "" if enter else self.root
        environment = {**ENVIRONMENT, "PATH": os.environ["PATH"]} if enter else {}
        def command(program, *flags):
            return [*enter, f"{where}/opt/moved/bin/{program}", *flags]
        def start(program, port, admin_port, *flags):
            with open(os.path.join(self.folder, program), "wb") as log:
                server = subprocess.Popen(
                    command(program, f"--model={where}/model", f"--listen=127.0.0.1:{port}",
                            f"--admin=127.0.0.1:{admin_port}", *flags),
                    env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.addCleanup(server.wait)
            self.addCleanup(server.send_signal, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while not is_ready(admin_port):
                self.assertIsNone(server.poll(), self.log_of(program))
                self.assertLess(time.monotonic(), deadline, self.log_of(program))
                time.sleep(0.05)
        prefill, prefill_admin, decode, decode_admin = free_ports(4)
        start("kvship-prefill", prefill, prefill_admin)
        start("kvship-decode", decode, decode_admin, f"--prefill=127.0.0.1:{prefill}", "--http=")
        answer = subprocess.run(
            command("kvship", "generate", f"--server=127.0.0.1:{decode}", f"--tokens-file={where}/tokens.json",
                    "--compression=budget_tokens=64,min_tokens=0,window=16,encoder=f16", "--max-tokens=8", "--ignore-end", "--json"),
            env=environment, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        record = json.loads(answer.stdout)
        self.assertEqual(record["usage"]["output_tokens"], 8)
        self.assertEqual(record["kv"]["kept_tokens"], 64)

    def log_of(self, program):
        with open(os.path.join(self.folder, program), encoding="utf-8", errors="replace") as log:
            return log.read()


if __name__ == "__main__":
    if "KVSHIP_BIN" not in os.environ:
        sys.exit("KVSHIP_BIN is not set; wanted the folder with the programs")
    unittest.main()
