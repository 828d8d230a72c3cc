#!/usr/bin/env python3
"""Runs the two services on a GPU and holds their answers to those of the CPU. Takes a few minutes.

    scripts/gpu_services.py BIN [MODEL]

BIN is the folder of the programs (build/bin, or bin/ of an unpacked bundle made with --cuda), MODEL a model file to
try besides tiny random ones. Needs Python and nothing else. Prints a line per check, PASS or FAIL; exits with 1 if any failed.

A GPU computes in 16 bits, so that of two tokens about equally likely it may choose the other one. From there on texts part:
answers are compared up to the first token that differs, and that one has to be within LEEWAY of the CPU's likeliest.
"""

import array
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

READY_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
# Nats. bf16 moves the demo model's 20 likeliest tokens by up to 0.65, mostly by far less: in 300 places the CPU's likeliest was
# passed by another one at most 0.16 below it.
LEEWAY = 0.5
NUM_TOKENS = 24
NCCL_TIMEOUT_S = 60
# What ends one group of checks and leaves the rest to be made.
FAILURES = (RuntimeError, OSError, ValueError, TypeError, LookupError, ArithmeticError, http.client.HTTPException,
            subprocess.TimeoutExpired)


def bf16(numbers):
    """Their upper halves, as they lie in a file."""
    halves = array.array("f", numbers).tobytes()
    return b"".join(halves[i + 2:i + 4] for i in range(0, len(halves), 4))


TINY = {"hidden": 256, "heads": 4, "kv_heads": 2, "head": 64, "ffn": 384, "vocab": 320, "layers": 2}


def write_model(folder, architecture, shape):
    """A random model in bf16."""
    hidden, heads, kv_heads, head, ffn, vocab, layers = shape.values()
    rng = random.Random(7)
    numbers = {}
    def matrix(rows, cols):
        # Of the same numbers over and over, each row beginning elsewhere.
        if cols not in numbers:
            numbers[cols] = bf16(rng.gauss(0, cols ** -0.5) for _ in range(2 * cols + 4099))
        begins = (2 * rng.randrange(cols + 4099) for _ in range(rows))
        return [rows, cols], b"".join(numbers[cols][begin:begin + 2 * cols] for begin in begins)
    def norm(width):
        return [width], bf16(rng.gauss(1, 0.1) for _ in range(width))
    tensors = {"model.embed_tokens.weight": matrix(vocab, hidden), "model.norm.weight": norm(hidden),
               "lm_head.weight": matrix(vocab, hidden)}
    for i in range(layers):
        layer = {"input_layernorm": norm(hidden), "post_attention_layernorm": norm(hidden),
                 "self_attn.q_proj": matrix(heads * head, hidden), "self_attn.k_proj": matrix(kv_heads * head, hidden),
                 "self_attn.v_proj": matrix(kv_heads * head, hidden), "self_attn.o_proj": matrix(hidden, heads * head),
                 "mlp.gate_proj": matrix(ffn, hidden), "mlp.up_proj": matrix(ffn, hidden), "mlp.down_proj": matrix(hidden, ffn)}
        if architecture == "Qwen3ForCausalLM":
            layer.update({"self_attn.q_norm": norm(head), "self_attn.k_norm": norm(head)})
        tensors.update({f"model.layers.{i}.{name}.weight": tensor for name, tensor in layer.items()})
    header, begin = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values()))
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"architectures": [architecture], "hidden_act": "silu", "hidden_size": hidden,
                   "intermediate_size": ffn, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
                   "head_dim": head, "num_hidden_layers": layers, "vocab_size": vocab, "max_position_embeddings": 4096,
                   "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "eos_token_id": 2}, file)
    return folder


def free_port():
    """Below those that the system gives to whoever asks for any: it may give one away before the server has it."""
    while True:
        port = random.randrange(10000, 32768)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Server:
    """A server program on a device. `ask_to_stop`, then `stop`, end it."""

    started = []

    def __init__(self, bin_folder, name, model, device, *flags, environment=None):
        self.name, self.port, self.admin = f"{name} on {device}", free_port(), free_port()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [os.path.join(bin_folder, name), f"--model={model}", f"--listen=127.0.0.1:{self.port}",
             f"--admin=127.0.0.1:{self.admin}", f"--device={device}", *flags],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env={**os.environ, **(environment or {})})
        self.started.append(self)

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} is not ready: {self.log_text()}")

    def log_text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def ask_to_stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """Its exit code."""
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def kill_servers_on_sigterm():
    """Those that outlive this process would hold the GPU's memory."""
    def end(*_):
        for server in Server.started:
            server.process.kill()
        sys.exit("ended by SIGTERM")
    signal.signal(signal.SIGTERM, end)


def on_one_gpu(role):
    """With this NCCL connects two processes that share a GPU: as if they were on two machines."""
    return {"NCCL_HOSTID": role, "NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "lo", "NCCL_MAX_CTAS": "2"}


class Pair:
    """A prefill and a decode server inside a `with` block."""

    def __init__(self, bin_folder, model, prefill_device, decode_device, transport="grpc"):
        self.bin_folder = bin_folder
        flag = f"--transport={transport}"
        self.servers = [Server(bin_folder, "kvship-prefill", model, prefill_device, flag, environment=on_one_gpu("prefill"))]
        self.servers.append(Server(bin_folder, "kvship-decode", model, decode_device, flag,
                                   f"--prefill=127.0.0.1:{self.servers[0].port}", "--http=", environment=on_one_gpu("decode")))
        self.exit_codes = []

    def __enter__(self):
        try:
            for server in self.servers:
                server.wait_until_ready()
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind=None, *_):
        if kind is subprocess.TimeoutExpired:  # what does not answer would not end either
            for server in self.servers:
                server.process.kill()
                print(f"{server.name} said {server.log_text()}", flush=True)
        for server in reversed(self.servers):
            server.ask_to_stop()
        self.exit_codes = [server.stop() for server in reversed(self.servers)]

    def metric(self, name):
        """What the decode server's metric says, the sum over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.servers[1].admin}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))

    def run(self, command, *flags):
        return subprocess.run(
            [os.path.join(self.bin_folder, "kvship"), command, f"--server=127.0.0.1:{self.servers[1].port}", "--json", *flags],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=False)

    def answer(self, tokens_file, compression, *flags):
        """The client's record."""
        done = self.run("generate", f"--tokens-file={tokens_file}", f"--compression={compression}",
                        f"--max-tokens={NUM_TOKENS}", "--ignore-end", *flags)
        if done.returncode != 0:
            raise RuntimeError(f"{compression}: {done.stderr.strip()} {self.servers[0].log_text()} {self.servers[1].log_text()}")
        return json.loads(done.stdout)


class Checks:
    def __init__(self):
        self.failed = []

    def report(self, passed, name, detail=""):
        if not passed:
            self.failed.append(name)
        print(f"{'PASS' if passed else 'FAIL'} {name}{': ' if detail else ''}{detail}", flush=True)

    def compare(self, name, cpu, gpu):
        """Two records, the CPU's with the likeliest tokens of every place."""
        if len(gpu["tokens"]) != len(cpu["tokens"]):
            return self.report(False, name, f"{len(gpu['tokens'])} tokens, the CPU gave {len(cpu['tokens'])}")
        if gpu["kv"]["kept_tokens"] != cpu["kv"]["kept_tokens"] or gpu["kv"]["shipped_bytes"] != cpu["kv"]["shipped_bytes"]:
            return self.report(False, name, f"kept or shipped otherwise: {gpu['kv']}; the CPU {cpu['kv']}")
        mass = abs(gpu["kv"]["retained_mass_mean"] - cpu["kv"]["retained_mass_mean"])
        if not mass < 0.02:
            return self.report(False, name, f"the retained mass differs by {mass}")
        for i, (a, b) in enumerate(zip(cpu["tokens"], gpu["tokens"])):
            if a == b:
                continue
            top = {other["token_id"]: other["logprob"] for other in cpu["logprobs"][i]["top"]}
            gap = top[a] - top.get(b, float("-inf"))
            return self.report(gap < LEEWAY, name, f"the same {i} tokens, then one {gap:.3f} nats less likely")
        return self.report(True, name, f"the same {len(cpu['tokens'])} tokens")


def label(case):
    """A prompt's file and a compression, in short."""
    length = os.path.basename(case[0]).removesuffix(".json").rpartition("-")[2]
    kept = "all" if "keep_all" in case[1] else "200"
    return f"{length} tokens, {kept} kept in {case[1].rpartition('=')[2]}"


def check_model(checks, bin_folder, model, name, encoder, vocab, folder):
    prompts = []
    for length in (40, 700, 3000):
        prompts.append(os.path.join(folder, f"{name}-{length}.json"))
        rng = random.Random(length)
        with open(prompts[-1], "w", encoding="utf-8") as file:
            json.dump([rng.randrange(vocab) for _ in range(length)], file)
    chosen = "budget_tokens=200,min_tokens=0,window=16,kernel=7"
    cases = [(prompt, compression) for prompt in prompts
             for compression in (f"scorer=keep_all,encoder={encoder}", f"{chosen},encoder={encoder}", f"{chosen},encoder=int4",
                                 f"{chosen},encoder=fp8")
             if not (prompt == prompts[0] and compression.startswith("budget"))]
    with Pair(bin_folder, model, "cpu", "cpu") as pair:
        cpu = [pair.answer(*case, "--logprobs=20") for case in cases]
    for prefill, decode in (("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")):
        where = f"{name}, prefill on {prefill}, decode on {decode}"
        try:
            with Pair(bin_folder, model, prefill, decode) as pair:
                for case, wanted in zip(cases, cpu):
                    what = f"{where}, {label(case)}"
                    try:
                        checks.compare(what, wanted, pair.answer(*case))
                    except subprocess.TimeoutExpired:
                        raise  # the others would hang as well
                    except FAILURES as error:
                        checks.report(False, what, str(error))
                check_other_requests(checks, pair, where, cases, cpu, decode)
            checks.report(pair.exit_codes == [0, 0], f"{where}, both end on SIGTERM", str(pair.exit_codes))
        except FAILURES as error:
            checks.report(False, where, str(error))
    check_nccl(checks, bin_folder, model, name, cases, cpu)


def check_nccl(checks, bin_folder, model, name, cases, cpu):
    """Caches that come by NCCL give the same answers."""
    where = f"{name}, both on cuda, by NCCL"
    try:
        with Pair(bin_folder, model, "cuda", "cuda", "nccl") as pair:
            came, deadline = "", time.monotonic() + NCCL_TIMEOUT_S
            while came != "nccl" and time.monotonic() < deadline:
                came = pair.answer(*cases[0])["kv"]["transport"]
            checks.report(came == "nccl", f"{where}, is ready after the first requests", came)
            for case, wanted in zip(cases, cpu):
                answer = pair.answer(*case)
                checks.compare(f"{where}, {label(case)}, came over {answer['kv']['transport']}", wanted, answer)
        checks.report(pair.exit_codes == [0, 0], f"{where}, both end on SIGTERM", str(pair.exit_codes))
    except FAILURES as error:
        checks.report(False, where, str(error))


def check_other_requests(checks, pair, where, cases, cpu, decode):
    """Logits on the host, draws, a batch of several formats, refusals."""
    checks.compare(f"{where}, with logprobs", cpu[0], pair.answer(*cases[0], "--logprobs=5"))
    for sampling in (["--temperature=1"], ["--temperature=1", "--top-p=0.9"], ["--temperature=1.5", "--top-k=40", "--top-p=0.9"]):
        device, host = (pair.answer(*cases[0], "--seed=5", *sampling, *more)["tokens"] for more in ([], ["--logprobs=1"]))
        checks.report(device == host and len(device) == NUM_TOKENS,
                      f"{where}, {' '.join(sampling)}: the decode node's device draws what the host draws",
                      "" if device == host else f"{device}, the host {host}")
    together = [subprocess.Popen(
        [os.path.join(pair.bin_folder, "kvship"), "generate", f"--server=127.0.0.1:{pair.servers[1].port}", "--json",
         f"--tokens-file={prompt}", f"--compression={compression}", f"--max-tokens={NUM_TOKENS}", "--ignore-end"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) for prompt, compression in cases]
    for case, wanted, process in zip(cases, cpu, together):
        text, _ = process.communicate(timeout=ANSWER_TIMEOUT_S)  # the clients of a node that hangs end when it is killed
        name = f"{where}, all at once, {label(case)}"
        if process.returncode == 0:
            checks.compare(name, wanted, json.loads(text))
        else:
            checks.report(False, name, f"{pair.servers[0].log_text()} {pair.servers[1].log_text()}")
    if decode == "cuda":
        refused = pair.run("generate", f"--tokens-file={cases[-1][0]}", "--compression=scorer=keep_all,encoder=f32")
        checks.report(refused.returncode != 0 and "compression.encoder is f32; wanted f16, bf16" in refused.stderr,
                      f"{where}, what only the CPU does is refused by name", refused.stderr.strip())


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    kill_servers_on_sigterm()
    bin_folder = os.path.abspath(sys.argv[1])
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
            model = os.path.join(folder, architecture)
            os.mkdir(model)
            models.append((write_model(model, architecture, TINY), f"tiny {architecture}", "bf16", 320))
        if len(sys.argv) == 3:
            models.append((sys.argv[2], "demo model", "bf16", 49000))
        for model, name, encoder, vocab in models:
            try:
                check_model(checks, bin_folder, model, name, encoder, vocab, folder)
            except FAILURES as error:
                checks.report(False, name, str(error))
    print("\n".join([f"{len(checks.failed)} checks failed:", *checks.failed]) if checks.failed else "all checks passed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
