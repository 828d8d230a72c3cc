"""The implementations compared, each behind one method: run(tokens, decode_tokens) -> figures."""

import json
import os
import subprocess
import sys
import tempfile

from kvship_processes import DIES_WITH_PARENT

HERE = os.path.dirname(os.path.abspath(__file__))


class WorkerContender:
    """A worker process that keeps its model loaded, as `worker.py` describes it."""

    def __init__(self, name, script, *arguments):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [*DIES_WITH_PARENT, sys.executable, os.path.join(HERE, script), *map(str, arguments)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.answer()

    def run(self, tokens, decode_tokens):
        print(json.dumps({"tokens": tokens, "decode_tokens": decode_tokens}),
              file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.name} ended by itself. The end of what it said:\n{self.log.read()[-2000:]}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class KvshipContender:
    """kvship in one process, started anew for each measurement: its figures leave the loading of the model out."""

    def __init__(self, name, inspect, model, threads, compression):
        self.name = name
        self.command = [inspect, "bench", model, f"--threads={threads}", f"--compression={compression}"]

    def run(self, tokens, decode_tokens):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(tokens, file)
            file.flush()
            # The first of the tokens comes out of prefill and is not timed as decoding.
            command = [*DIES_WITH_PARENT, *self.command, f"--tokens-file={file.name}", f"--max-tokens={decode_tokens + 1}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{self.name} failed with exit code {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def close(self):
        pass


def all_contenders(args):
    """The contenders that are asked for, in the order of the table."""
    makers = {
        "llama.cpp": lambda: WorkerContender(
            "llama.cpp", "llama_cpp_worker.py", args.model, args.context_tokens, args.threads, 0),
        "llama.cpp flash": lambda: WorkerContender(
            "llama.cpp flash", "llama_cpp_worker.py", args.model, args.context_tokens, args.threads, 1),
        "transformers": lambda: WorkerContender(
            "transformers", "transformers_worker.py", args.model, args.threads),
        "kvship keep_all": lambda: KvshipContender(
            "kvship keep_all", args.inspect, args.model, args.threads, "scorer=keep_all"),
        "kvship 512 kept": lambda: KvshipContender(
            "kvship 512 kept", args.inspect, args.model, args.threads, "scorer=snapkv,budget_tokens=512"),
    }
    return [maker() for name, maker in makers.items() if any(part in name for part in args.only.split(","))]
