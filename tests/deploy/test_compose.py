"""deploy/compose.yaml is what compose takes, and its command lines and times are those of the programs."""

import json
import os
import re
import subprocess

import compose_spec
import pytest
import yaml
from manifests import ROOT, seconds

FILE = ROOT / "deploy" / "compose.yaml"
SERVICES = ["prefill", "decode"]


def content():
    """The file as compose reads it where no variable is set but KVSHIP_MODELS."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text())
    text = text.replace("${KVSHIP_MODELS:?is the folder with the model}", "/models")
    assert "$" not in text
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def services():
    return content()["services"]


def flags(service) -> dict[str, str]:
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in service["command"][1:])


def test_the_file_is_of_the_compose_specification():
    wrong = content()
    wrong["services"]["decode"]["health"] = {}
    assert set(compose_spec.PyCompose.from_json(json.dumps(content())).services) == set(SERVICES)
    with pytest.raises(ValueError, match="health"):
        compose_spec.PyCompose.from_json(json.dumps(wrong))


@pytest.mark.parametrize("name", SERVICES)
def test_the_program_knows_the_command_line(services, name):
    command = services[name]["command"]
    assert command[0] == f"kvship-{name}"
    told = subprocess.run([os.path.join(os.environ["KVSHIP_BIN"], command[0]), *command[1:], "--help"],
                          check=False, capture_output=True, text=True)
    assert "ERROR" not in told.stderr, told.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_the_health_check_asks_the_admin_port(services, name):
    port = flags(services[name])["admin"].removeprefix(":")
    assert services[name]["healthcheck"]["test"] == ["CMD", "kvship-ready", port]


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_given_longer_than_they_drain(services, name):
    given = flags(services[name])
    drain = seconds(given["drain_timeout"])
    assert seconds(services[name]["stop_grace_period"]) >= drain + 10


def test_decode_asks_the_prefill_service(services):
    assert flags(services["decode"])["prefill"] == "dns:///prefill" + flags(services["prefill"])["listen"]


def test_ports_are_open_to_this_machine_alone(services):
    listened = {flags(services["decode"])[flag].removeprefix(":") for flag in ("listen", "http")}
    published = [port.split(":") for port in services["decode"]["ports"]]
    assert {container for _, _, container in published} == listened
    assert {address for address, _, _ in published} == {"127.0.0.1"}
    assert "ports" not in services["prefill"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_process_takes_all_processors(services, name):
    assert flags(services[name])["threads"] == "2"
