"""A rolling update as the overlay's pods go through it: two nodes of each pool by its flag files, each replaced by a new one,
with the pause before SIGTERM that `preStop` makes, while clients go on asking. No request is lost.

Takes minutes: ctest runs it with the label `long`."""

import json
import os
import socket
import subprocess
import threading
import time
from itertools import count

import pytest
from kvship_processes import free_ports
from manifests import container, named, overlay, pod_spec
from test_processes import BIN, Pools

OUTPUT_TOKENS = 60
NUM_CLIENTS = 3
ROLES = ("prefill", "decode")


class Service:
    """Stands for the decode pool's Service: each new connection goes to the next of the pods that are its endpoints."""

    def __init__(self):
        self.endpoints: list[int] = []
        self.turns = count()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            endpoints = list(self.endpoints)
            pod = socket.create_connection(("127.0.0.1", endpoints[next(self.turns) % len(endpoints)]))
            for source, sink in ((client, pod), (pod, client)):
                threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Clients:
    """Ask one thing after the other, until they are stopped; `errors` is what went wrong."""

    def __init__(self, port: int):
        self.port = port
        self.num_answers = 0
        self.errors: list[str] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(NUM_CLIENTS)]
        for thread in self.threads:
            thread.start()

    def ask(self, number: int) -> None:
        for turn in count():
            if self.stopped.is_set():
                return
            done = subprocess.run(
                [os.path.join(BIN, "kvship"), "generate", f"--server=127.0.0.1:{self.port}", "--ignore-end", "--json",
                 f"--max-tokens={OUTPUT_TOKENS}", f"--prompt={number}.{turn}: " + "a road and a house, " * 60],
                check=False, capture_output=True, text=True)
            if done.returncode != 0 or json.loads(done.stdout)["usage"]["output_tokens"] != OUTPUT_TOKENS:
                self.errors.append(done.stderr or done.stdout)
            self.num_answers += 1

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def pods(tmp_path):
    """Makes pods of the demo overlay: pods(role) starts one and returns its Pools, in which it runs alone."""
    made = []
    # What DNS would say of the headless Service, with room for the new pods: those that do not answer get nothing.
    prefill_ports = iter(ports := free_ports(4))

    def make(role: str) -> Pools:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        pod = Pools(overlay("demo"), folder)
        made.append(pod)
        if role == "prefill":
            pod.ports["prefill"]["grpc"] = next(prefill_ports)
        pod.prefill = ",".join(f"dns:///localhost:{port}" for port in ports)
        pod.servers[role] = pod.start_pod(role)
        return pod

    yield make
    for pod in made:
        pod.stop()


def test_a_rolling_update_loses_no_request(pods):
    running = {role: [pods(role) for _ in range(2)] for role in ROLES}
    for role in ROLES:
        for pod in running[role]:
            pod.servers[role].wait_until_ready()
    service = Service()
    service.endpoints = [pod.ports["decode"]["grpc"] for pod in running["decode"]]
    clients = Clients(service.port)
    try:
        for role in ROLES:
            deployment = named(overlay("demo"), "Deployment", f"kvship-{role}")
            pause = container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
            grace = pod_spec(deployment)["terminationGracePeriodSeconds"]
            for old in running[role]:
                new = pods(role)
                new.servers[role].wait_until_ready()
                if role == "decode":
                    service.endpoints.append(new.ports["decode"]["grpc"])
                    service.endpoints.remove(old.ports["decode"]["grpc"])
                time.sleep(pause)
                old.servers[role].process.terminate()
                assert old.servers[role].process.wait(grace - pause) == 0
    finally:
        clients.stop()
    assert not clients.errors, clients.errors
    # Some for each of the four that were replaced.
    assert clients.num_answers > 4 * NUM_CLIENTS
