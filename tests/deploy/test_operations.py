"""What docs/operations.md tells to do without a cluster is done here: the packages, the two machines, the systemd unit."""

import os
import re
import subprocess
import textwrap

import pytest
from kvship_processes import Server, free_ports
from manifests import ROOT, flag_lines, seconds

BIN = os.environ["KVSHIP_BIN"]
MODEL = os.environ["KVSHIP_DEMO_MODEL"]
PROGRAMS = [os.path.join(BIN, name) for name in ("kvship-prefill", "kvship-decode", "kvship")]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
# Both machines are this one: where it is called by a name, and in the certificates beside theirs.
HERE = {"dns:///prefill.example": "dns:///localhost", "--server=decode.example": "--server=localhost",
        "DNS:$name": "DNS:$name,DNS:localhost"}


def shown(beginning: str) -> str:
    """The indented block of the guide that begins so."""
    block = re.search(rf"^( {{4}}{re.escape(beginning)}.*?\n)(?=\S)", GUIDE, re.MULTILINE | re.DOTALL)[1]
    return textwrap.dedent(block)


def flag_file(role: str) -> str:
    return next(block for block in re.findall(r"(?:^ {4}--.*\n)+", GUIDE, re.MULTILINE)
                if f"/etc/kvship/{role}.example.pem" in block)


def dependencies() -> dict[str, set[str]]:
    """Of each installed package, by dpkg."""
    told = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Depends}, ${Pre-Depends}\n"], check=True,
                          capture_output=True, text=True).stdout
    return {name: set(re.findall(r"(?:^|[,|]) *([a-z0-9][a-z0-9.+-]+)", needs))
            for name, needs in (line.split("\t") for line in told.splitlines())}


def test_the_packages_to_install_bring_every_library_of_the_programs():
    named = set(shown("./dev build").partition("apt-get install ")[2].partition("#")[0].replace("\\", "").split())
    needed = set(subprocess.run([ROOT / "deploy/image/library_packages.sh", *PROGRAMS], check=True, capture_output=True,
                                text=True).stdout.split())
    assert named <= needed
    needs, brought, new = dependencies(), set(), named
    while new:
        brought |= new
        new = set().union(*(needs.get(name, set()) for name in new)) - brought
    assert needed <= brought


@pytest.fixture
def machines(tmp_path):
    """Both nodes by the guide's certificates and flag files."""
    ports = {port: str(free) for port, free in zip(("50051", "50050", "9051", "9090", "8000"), free_ports(5))}

    def here(text: str) -> str:
        for theirs, own in HERE.items():
            text = text.replace(theirs, own)
        for port, free in ports.items():
            text = re.sub(rf":{port}\b", f":{free}", text)
        return text.replace("/etc/kvship", str(tmp_path)).replace("/srv/models/MODEL", MODEL)

    subprocess.run(["bash", "-ec", here(shown("openssl req -x509"))], check=True, capture_output=True, cwd=tmp_path)
    servers = []
    try:
        for role, admin in (("prefill", "9051"), ("decode", "9090")):
            # The HTTP port's default may be taken on this machine.
            more = "--threads=2\n" + (f"--http=127.0.0.1:{ports['8000']}\n" if role == "decode" else "")
            path = tmp_path / f"{role}.flags"
            path.write_text(here(textwrap.dedent(flag_file(role))) + more)
            servers.append(Server(role, [os.path.join(BIN, f"kvship-{role}"), f"--flagfile={path}"], int(ports[admin]),
                                  str(tmp_path / f"{role}.log")))
        for server in servers:
            server.wait_until_ready()
        yield here
    finally:
        for server in servers:
            server.stop()


def test_two_machines_answer_a_client(machines, tmp_path):
    command = machines(shown("kvship generate --server"))
    told = subprocess.run(["bash", "-ec", command], check=False, capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"})
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() and "shipped" in told.stderr
    stranger = command.replace("client.example", "prefill.example")
    told = subprocess.run(["bash", "-ec", stranger], check=False, capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"})
    assert told.returncode == 1 and "client.example" in told.stderr


def test_systemd_waits_longer_than_nodes_drain():
    unit = shown("[Unit]")
    wait = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])
    for role in ("prefill", "decode"):
        given = dict(flag_lines(textwrap.dedent(flag_file(role))))
        assert wait > seconds(given["drain_timeout"])
    assert "kvship-%i --flagfile=/etc/kvship/%i.flags" in unit


def test_the_units_user_and_programs_are_put_there():
    unit, prepared = shown("[Unit]"), shown("useradd")
    assert f"useradd --system {re.search(r'^User=(.*)$', unit, re.MULTILINE)[1]}\n" in prepared
    installed = re.search(r"^install (.*) (\S+)$", prepared, re.MULTILINE)
    assert f"ExecStart={installed[2]}/kvship-%i " in unit
    assert set(installed[1].split()) == {f"build/bin/{os.path.basename(program)}" for program in PROGRAMS}
