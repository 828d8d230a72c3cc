"""What `kvship plan` counts in bytes is what the services ship and hold, and its flags mean what docs/plan.md says."""

import json
import os
import subprocess
import time
from types import SimpleNamespace

import pytest
from kvship_processes import ServerPair, free_port_arguments
from manifests import flags, overlay

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


@pytest.mark.parametrize("compression", ["", "scorer=keep_all,encoder=f16", "budget_tokens=256,encoder=int8"])
def test_a_request_holds_the_memory_that_was_planned(servers, compression):
    output_tokens = 400
    planned = plan(f"--model={MODEL}", f"--prompt-tokens={PROMPT_TOKENS}", f"--output-tokens={output_tokens}",
                   f"--compression={compression}")["compact"]
    decode = servers.decode_servers[0]
    client = subprocess.Popen(
        [os.path.join(BIN, "kvship"), "generate", f"--server={servers.decode_addresses[0]}", "--ignore-end",
         f"--max-tokens={output_tokens}", f"--tokens-file={servers.folder}/tokens", f"--compression={compression}"],
        stdout=subprocess.DEVNULL)
    while decode.count("kvship_decode_sessions") == 0:
        assert client.poll() is None
        time.sleep(0.02)
    held = decode.count("kvship_decode_pool_reserved_bytes")
    client.terminate()
    client.wait()
    assert held == planned["session_bytes"]
    while decode.count("kvship_decode_pool_reserved_bytes") > 0:
        time.sleep(0.02)


def test_flags_are_what_is_planned_for():
    load = plan("--prompt-tokens=1000", "--output-tokens=20", "--rate=3", "--link-gbps=7", "--slo-between-tokens=40ms",
                "--compression=budget_tokens=64", "--gpu=100:200:80")
    assert load["load"] == {"prompt_tokens": 1000, "output_tokens": 20, "requests_per_second": 3, "link_gbps": 7,
                            "slo_between_tokens_ms": 40, "compression": "budget_tokens=64"}
    assert load["gpu"] == {"name": "100:200:80", "flops": 100e12, "bytes_per_second": 200e9, "memory_bytes": 80e9}
    assert load["compact"]["kept_tokens"] == 64 and load["model"]["name"] == "llama-3.1-8b"


def test_without_flags_it_is_planned_for_what_the_documentation_says():
    load = plan()
    assert load["load"] == {"prompt_tokens": 16384, "output_tokens": 512, "requests_per_second": 1, "link_gbps": 100,
                            "slo_between_tokens_ms": None, "compression": ""}
    assert (load["gpu"]["name"], load["model"]["context_tokens"]) == ("h200", 131072)


def test_the_pool_of_the_h200_overlay_is_for_as_many_requests_as_it_decodes_at_a_time():
    planned = plan("--model=llama-3.1-8b", "--gpu=h200", "--prompt-tokens=32768")
    decode = flags(overlay("h200"), "decode")
    most = int(decode["max_batch_sessions"])
    assert most == int(decode["pool_bytes"]) // int(planned["compact"]["session_bytes"])
    assert most < planned["compact"]["sessions_per_gpu"]


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
