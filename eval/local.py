#!/usr/bin/env python3
"""Runs kvship-eval against a prefill and a decode process of its own: eval/local.py --bin DIR --model FILE STUDY [flags]."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from kvship_processes import ProcessError, ServerPair, free_port_arguments  # noqa: E402

# Studies that read files alone, or run the model in process.
WITHOUT_SERVERS = ("report", "observe", "sweep", "-h", "--help")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    args, rest = parser.parse_known_args()
    command = [str(Path(sys.executable).with_name("kvship-eval")), *rest]
    if not rest or rest[0] in WITHOUT_SERVERS:
        if rest and rest[0] in ("observe", "sweep"):
            command += [f"--inspect={args.bin}/kvship-inspect", f"--model={args.model}"]
        return subprocess.run(command, check=False).returncode
    ports = free_port_arguments()
    with tempfile.TemporaryDirectory(prefix="kvship-eval-") as folder:
        try:
            with ServerPair(SimpleNamespace(bin=args.bin, model=args.model, **ports), folder) as servers:
                command += [f"--server=127.0.0.1:{ports['decode_port']}"]
                if rest[0] == "overhead":
                    command += [f"--prefill-pid={servers.prefill.process.pid}"]
                return subprocess.run(command, check=False).returncode
        except ProcessError as error:
            print(error, file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
