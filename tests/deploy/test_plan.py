"""What `kvship plan` counts in bytes is what the services ship."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from kvship_processes import ServerPair, free_port_arguments

MODEL = os.environ["KVSHIP_DEMO_MODEL"]
BIN = os.environ["KVSHIP_BIN"]
PROMPT_TOKENS = 700


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    (folder / "tokens").write_text(json.dumps([100 + i % 7000 for i in range(PROMPT_TOKENS)]))
    with ServerPair(SimpleNamespace(bin=BIN, model=MODEL, **free_port_arguments()), str(folder)) as pair:
        yield pair


def plan(*arguments: str) -> dict:
    command = [os.path.join(BIN, "kvship"), "plan", "--json", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def reported(servers: ServerPair, compression: str) -> dict:
    told = subprocess.run(
        [os.path.join(BIN, "kvship"), "generate", f"--server={servers.decode_addresses[0]}", "--max-tokens=1", "--json",
         f"--tokens-file={servers.folder}/tokens", f"--compression={compression}"],
        check=True, capture_output=True, text=True)
    return json.loads(told.stdout)["kv"]


@pytest.mark.parametrize("compression", [
    "", "scorer=keep_all,encoder=f16", "budget_tokens=256,encoder=f16",
    "allocator=pyramid,budget_tokens=256,encoder=int8",
    "budget_ratio=0.1,encoder=int4,window_encoder=f16", "group_reduce=none,budget_tokens=128,encoder=fp8"])
def test_bytes_are_those_of_a_real_request(servers, compression):
    planned = plan(f"--model={MODEL}", f"--prompt-tokens={PROMPT_TOKENS}", f"--compression={compression}")["compact"]
    kv = reported(servers, compression)
    assert planned["shipped_bytes"] == kv["shipped_bytes"]
    assert planned["uncompressed_bytes"] == kv["uncompressed_bytes"]
    assert planned["kept_tokens"] == pytest.approx(kv["kept_tokens"])


def test_a_bound_holds(servers):
    compression = "allocator=ada,budget_tokens=256,encoder=f16"
    planned = plan(f"--model={MODEL}", f"--prompt-tokens={PROMPT_TOKENS}", f"--compression={compression}")["compact"]
    assert planned["shipped_bytes_are_a_bound"]
    assert 0.9 * planned["shipped_bytes"] < reported(servers, compression)["shipped_bytes"] <= planned["shipped_bytes"]


def test_the_whole_cache_is_what_keeping_all_ships(servers):
    whole = plan(f"--model={MODEL}", f"--prompt-tokens={PROMPT_TOKENS}")["whole"]
    assert whole["shipped_bytes"] == reported(servers, "scorer=keep_all,encoder=f16")["shipped_bytes"]


def test_the_weights_are_those_of_the_file():
    assert 0.95 * os.path.getsize(MODEL) < plan(f"--model={MODEL}")["model"]["weight_bytes"] < os.path.getsize(MODEL)
