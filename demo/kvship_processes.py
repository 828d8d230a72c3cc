"""The kvship processes of one machine: a prefill and a decode server, and the client that asks them."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10
LOG_LINES_SHOWN = 8
DEFAULT_PORTS = {"prefill-port": 50051, "prefill-admin-port": 9051,
                 "decode-port": 50050, "decode-admin-port": 9090}


class ProcessError(Exception):
    """What went wrong, in one sentence for the person at the terminal."""


def check_port_is_free(flag, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ProcessError(f"Port {port} cannot be used ({error.strerror.lower()}): "
                            f"choose another with --{flag}.") from error


class Server:
    """A kvship process with its log in a file. Ends with this process, however that ends."""

    def __init__(self, name, command, admin_port, log_path):
        self.name = name
        self.admin_port = admin_port
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=die_with_parent)

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.is_ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready after {READY_TIMEOUT_S} s.{self.log_tail()}")
            time.sleep(0.05)

    def is_ready(self):
        try:
            url = f"http://127.0.0.1:{self.admin_port}/readyz"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def check_alive(self):
        status = self.process.poll()
        if status is not None:
            how = f"with exit code {status}" if status >= 0 else f"on signal {-status}"
            raise ProcessError(f"{self.name} ended by itself, {how}.{self.log_tail()}")

    def peak_memory_bytes(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:
            peak_kb = next(line.split()[1] for line in file if line.startswith("VmHWM:"))
        return int(peak_kb) * 1024

    def log_tail(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            lines = log.read().splitlines()[-LOG_LINES_SHOWN:]
        return "".join("\n    " + line for line in [f"The end of its log ({self.name}):"] + lines)

    def signal_group(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def stop(self):
        self.signal_group(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self.signal_group(signal.SIGKILL)
        self.process.wait()


def die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def add_port_flags(parser):
    for name, port in DEFAULT_PORTS.items():
        parser.add_argument(f"--{name}", type=int, default=port, help=f"default {port}")


class ServerPair:
    """One prefill and one decode server on loopback, running and ready inside a `with` block.

    `args` holds the port flags, `model`, and `bin`, the folder of the programs; logs and reports go to `folder`.
    The decode server has no HTTP port unless `decode_flags` name one.
    """

    def __init__(self, args, folder, decode_flags=()):
        self.folder = folder
        self.decode_flags = decode_flags
        self.bin = args.bin
        self.model = args.model
        self.ports = {name: getattr(args, name.replace("-", "_")) for name in DEFAULT_PORTS}
        self.servers = []

    def __enter__(self):
        for name, port in self.ports.items():
            check_port_is_free(name, port)
        try:
            self.start("prefill")
            self.start("decode", f"--prefill=dns:///127.0.0.1:{self.ports['prefill-port']}", "--http=",
                       *self.decode_flags)
            for server in self.servers:
                server.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, role, *flags):
        admin_port = self.ports[f"{role}-admin-port"]
        command = [os.path.join(self.bin, f"kvship-{role}"), f"--model={self.model}",
                   f"--listen=127.0.0.1:{self.ports[f'{role}-port']}", f"--admin=127.0.0.1:{admin_port}", *flags]
        log_path = os.path.join(self.folder, f"{role}.log")
        self.servers.append(Server(f"kvship-{role}", command, admin_port, log_path))

    def stop(self):
        # A second Ctrl-C must not cut the cleaning short.
        held = {number: signal.signal(number, signal.SIG_IGN)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for server in reversed(self.servers):
            server.stop()
        for number, handler in held.items():
            signal.signal(number, handler)

    @property
    def prefill(self):
        return self.servers[0]

    def generate(self, prompt_path, compression, max_tokens, *flags, stdout=None):
        """Streams one answer to `stdout` (the terminal); returns the client's report of it."""
        report_path = os.path.join(self.folder, "report.json")
        client = subprocess.run(
            [os.path.join(self.bin, "kvship"), "generate",
             f"--server=127.0.0.1:{self.ports['decode-port']}", f"--prompt-file={prompt_path}",
             f"--compression={compression}", f"--max-tokens={max_tokens}",
             f"--report-file={report_path}", *flags],
            stdin=subprocess.DEVNULL, stdout=stdout, check=False, preexec_fn=die_with_parent)
        if client.returncode != 0:
            time.sleep(0.2)  # a server that took the client down needs a moment to be seen as ended
            for server in self.servers:
                server.check_alive()
            raise ProcessError(
                f"kvship generate failed with exit code {client.returncode}; its message is above.")
        with open(report_path, encoding="utf-8") as file:
            return json.load(file)
