#!/usr/bin/env python3
"""Times the way of a cache of 256 MiB between two processes that share a GPU, by gRPC and by NCCL.

    scripts/gpu_wire.py BIN

BIN is the folder of the programs, as for gpu_services.py. The model is random, its cache that of 2,048 tokens of
Llama-3.1-8B's shape: 32 layers with 8 KV heads of 128. Prints a line of JSON per transport and round, also for one that fails, and
exits with 1 then. Between two processes on one GPU NCCL goes by sockets on the loopback interface, not by NVLink.
"""

import json
import os
import random
import sys
import tempfile

from gpu_services import FAILURES, Pair, kill_servers_on_sigterm, write_model

SHAPE = {"hidden": 256, "heads": 8, "kv_heads": 8, "head": 128, "ffn": 256, "vocab": 320, "layers": 32}
NUM_TOKENS = 2048
ROUNDS = 2
CACHES = 5


def measure(bin_folder, model, prompt, transport, device="cuda"):
    """Speed of the frames' way, from each layer's header to its last byte in the pool."""
    with Pair(bin_folder, model, device, device, transport) as pair:
        case = (prompt, "scorer=keep_all,encoder=bf16")
        came = ""
        for _ in range(20):  # a communicator is made while the first ones come by gRPC
            came = pair.answer(*case)["kv"]["transport"]
            if came == transport:
                break
        names = ("kvship_decode_kv_receive_seconds_total", "kvship_decode_kv_shipped_bytes_total")
        before = [pair.metric(name) for name in names]
        ways = [pair.answer(*case)["kv"]["transport"] for _ in range(CACHES)]
        seconds, num_bytes = (pair.metric(name) - start for name, start in zip(names, before))
    return {"transport": transport, "came_by": sorted(set(ways)), "mib": num_bytes / CACHES / 2**20,
            "ms": 1000 * seconds / CACHES, "gb_per_s": num_bytes / seconds / 1e9}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    kill_servers_on_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(folder, "LlamaForCausalLM", SHAPE)
        prompt = os.path.join(folder, "prompt.json")
        with open(prompt, "w", encoding="utf-8") as file:
            json.dump([random.Random(i).randrange(SHAPE["vocab"]) for i in range(NUM_TOKENS)], file)
        failed = False
        for transport in ("grpc", "nccl") * ROUNDS:
            try:
                line = measure(os.path.abspath(sys.argv[1]), model, prompt, transport)
            except FAILURES as error:
                line, failed = {"transport": transport, "error": str(error)}, True
            print(json.dumps(line), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
