"""The kvship processes of one machine: prefill and decode servers, and the client that asks them."""

import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10
LOG_LINES_SHOWN = 8
# Before a command that shall end with this process. Not by a preexec_fn: with that Python forks, and where this process also
# uses gRPC, that starts its threads in the child and may abort there before the command begins.
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM")
DEFAULT_PORTS = {"prefill-port": 50051, "prefill-admin-port": 9051,
                 "decode-port": 50050, "decode-admin-port": 9090}
CLAIMS = []  # a socket for each port that this process has from free_port()


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


def free_port():
    """A port that nobody listens on and that nobody else gets from here while this process runs.

    Below those that the system gives to whoever asks for any: it may give one of them away between this look and the server
    that is to have it.
    """
    while True:
        port = random.randrange(10000, 32768)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0kvship_port_{port}")  # abstract: it goes with the process. tests/e2e/processes.cc has the same.
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        CLAIMS.append(claim)
        return port


def free_ports(count):
    return [free_port() for _ in range(count)]


def free_port_arguments():
    """A free port for each of DEFAULT_PORTS, by the name that ServerPair's `args` have for it."""
    return dict(zip((name.replace("-", "_") for name in DEFAULT_PORTS), free_ports(len(DEFAULT_PORTS))))


class Server:
    """A kvship process with its log in a file. Ends with this process, however that ends."""

    def __init__(self, name, command, admin_port, log_path):
        self.name = name
        self.admin_port = admin_port
        self.log_path = log_path
        os.stat(command[0])  # an error here, which names it, rather than one of setpriv's
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_PARENT, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

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

    def metrics(self):
        """What it tells Prometheus."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def count(self, metric):
        """The sum of a counter over its labels."""
        lines = self.metrics().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.partition(" ")[0].partition("{")[0] == metric)

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
        self.begin_stop()
        self.finish_stop()

    def begin_stop(self):
        self.signal_group(signal.SIGTERM)

    def finish_stop(self):
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self.signal_group(signal.SIGKILL)
        self.process.wait()


def add_port_flags(parser):
    for name, port in DEFAULT_PORTS.items():
        parser.add_argument(f"--{name}", type=int, default=port, help=f"default {port}")


class ServerPair:
    """A pool of prefill and a pool of decode servers on loopback, one of each unless `num_prefill` and `num_decode` say
    more, running and ready inside a `with` block. Servers of a pool share the processors.

    `args` holds the port flags, which are those of the first server of each pool, `model`, and `bin`, the folder of the
    programs; logs and reports go to `folder`. Decode servers have no HTTP port unless `decode_flags` name one.
    """

    def __init__(self, args, folder, decode_flags=(), num_prefill=1, num_decode=1, prefill_flags=()):
        self.folder = folder
        self.prefill_flags = prefill_flags
        self.decode_flags = decode_flags
        self.num_prefill = num_prefill
        self.num_decode = num_decode
        self.bin = args.bin
        self.model = args.model
        self.ports = {name: getattr(args, name.replace("-", "_")) for name in DEFAULT_PORTS}
        self.prefill_servers = []
        self.decode_servers = []
        self.decode_addresses = []

    def __enter__(self):
        for name, port in self.ports.items():
            check_port_is_free(name, port)
        prefill_ports = [self.ports["prefill-port"], *free_ports(self.num_prefill - 1)]
        decode_ports = [self.ports["decode-port"], *free_ports(self.num_decode - 1)]
        self.decode_addresses = [f"127.0.0.1:{port}" for port in decode_ports]
        targets = ",".join(f"dns:///127.0.0.1:{port}" for port in prefill_ports)
        try:
            self.start_pool("prefill", prefill_ports, self.prefill_servers, *self.prefill_flags)
            self.start_pool("decode", decode_ports, self.decode_servers, f"--prefill={targets}", "--http=",
                            *self.decode_flags)
            for server in self.servers:
                server.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start_pool(self, role, ports, servers, *flags):
        admin_ports = [self.ports[f"{role}-admin-port"], *free_ports(len(ports) - 1)]
        if len(ports) > 1:
            flags += (f"--threads={max(1, (os.cpu_count() or 1) // len(ports))}",)
        for number, (port, admin_port) in enumerate(zip(ports, admin_ports), 1):
            command = [os.path.join(self.bin, f"kvship-{role}"), f"--model={self.model}",
                       f"--listen=127.0.0.1:{port}", f"--admin=127.0.0.1:{admin_port}", *flags]
            suffix = f"-{number}" if number > 1 else ""
            log_path = os.path.join(self.folder, f"{role}{suffix}.log")
            servers.append(Server(f"kvship-{role}{suffix}", command, admin_port, log_path))

    def stop(self):
        # A second Ctrl-C must not cut the cleaning short.
        held = {number: signal.signal(number, signal.SIG_IGN)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for server in self.servers:
            server.begin_stop()
        for server in self.servers:
            server.finish_stop()
        for number, handler in held.items():
            signal.signal(number, handler)

    @property
    def servers(self):
        return self.prefill_servers + self.decode_servers

    @property
    def prefill(self):
        return self.prefill_servers[0]

    def generate(self, prompt_path, compression, max_tokens, *flags, stdout=None, decode_index=0):
        """Streams one answer of a decode server to `stdout` (the terminal); returns the client's report of it."""
        report_path = os.path.join(self.folder, "report.json")
        client = self.start_client("generate", decode_index, f"--prompt-file={prompt_path}",
                                   f"--compression={compression}", f"--max-tokens={max_tokens}",
                                   f"--report-file={report_path}", *flags, stdout=stdout)
        self.wait_for(client)
        with open(report_path, encoding="utf-8") as file:
            return json.load(file)

    def start_client(self, command, decode_index, *flags, stdout=None):
        return subprocess.Popen(
            [*DIES_WITH_PARENT, os.path.join(self.bin, "kvship"), command,
             f"--server={self.decode_addresses[decode_index]}", *flags], stdin=subprocess.DEVNULL, stdout=stdout)

    def wait_for(self, client):
        """Until a client of start_client has ended."""
        try:
            status = client.wait()
        except BaseException:
            client.kill()
            client.wait()
            raise
        if status == 0:
            return
        time.sleep(0.2)  # a server that took the client down needs a moment to be seen as ended
        for server in self.servers:
            server.check_alive()
        raise ProcessError(f"{os.path.basename(client.args[0])} {client.args[1]} failed with exit code {status}; "
                           "its message is above.")
