#!/usr/bin/env python3
"""What PyTorch and transformers take for the shapes of engine_bench.cc, on the same device in the same run.

    transformers_baseline.py attention | prefill --tokens 16384,32768 | decode --batch 2 --kept 16384 [--shape 7b | 30b-a3b]
                             | kvpress --batch 2 --tokens 16384 --kept 2048 [--shape 7b]

Random bf16 weights; attention through PyTorch's scaled_dot_product_attention. One JSON object per result.
"""

import argparse
import json
import statistics
import sys
import types

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def numbers(text):
    return [int(part) for part in text.split(",")]


def seconds(run, rounds=3, warm_up=1):
    """The median time of `run` on the device."""
    times = []
    for i in range(warm_up + rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if i >= warm_up:
            times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def report(**fields):
    print(json.dumps(fields), flush=True)


def bench_attention(_arguments):
    for tokens in (4096, 16384, 32768):
        q = torch.randn(1, 32, tokens, 128, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(1, 8, tokens, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            try:
                with sdpa_kernel(backend), torch.no_grad():
                    took = seconds(lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), 7, 3)
                report(bench="torch attention", backend=backend.name, tokens=tokens, ms=took * 1e3,
                       tflop_per_s=2.0 * tokens * tokens * 32 * 128 / took / 1e12)
            except RuntimeError as error:
                report(bench="torch attention", backend=backend.name, tokens=tokens, error=str(error)[:200])


def make_model(shape):
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

    common = {"num_attention_heads": 32, "max_position_embeddings": 1 << 20, "attn_implementation": "sdpa", "dtype": torch.bfloat16}
    if shape == "30b-a3b":
        config = Qwen3MoeConfig(hidden_size=2048, moe_intermediate_size=768, num_hidden_layers=48, num_key_value_heads=4,
                                head_dim=128, num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, vocab_size=151936, **common)
    else:
        kv_heads, ffn, vocab = {"8b": (8, 14336, 128256), "7b": (32, 11008, 32000)}[shape]
        config = LlamaConfig(hidden_size=4096, intermediate_size=ffn, num_hidden_layers=32, num_key_value_heads=kv_heads,
                             vocab_size=vocab, **common)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        from transformers.initialization import no_init_weights
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1.0) if "norm" in name else weights.normal_(0.0, weights.shape[-1] ** -0.5)
    return model.eval()


def bench_prefill(arguments):
    model = make_model(arguments.shape)
    for tokens in numbers(arguments.tokens):
        ids = torch.arange(tokens, device="cuda")[None] * 7919 % model.config.vocab_size
        torch.cuda.reset_peak_memory_stats()
        try:
            with torch.no_grad():
                took = seconds(lambda: model(ids, use_cache=True, logits_to_keep=1), 2, 1)
            report(bench="transformers prefill", shape=arguments.shape, tokens=tokens, seconds=took,
                   peak_gb=torch.cuda.max_memory_allocated() / 1e9)
        except torch.OutOfMemoryError:
            report(bench="transformers prefill", shape=arguments.shape, tokens=tokens, error="out of memory")


def bench_decode(arguments):
    from transformers import DynamicCache

    model = make_model(arguments.shape)
    config = model.config
    for kept in numbers(arguments.kept):
        for batch in numbers(arguments.batch):
            try:
                cache = DynamicCache()
                for layer in range(config.num_hidden_layers):
                    size = (batch, config.num_key_value_heads, kept, 128)
                    cache.update(torch.randn(size, device="cuda", dtype=torch.bfloat16),
                                 torch.randn(size, device="cuda", dtype=torch.bfloat16), layer)
                token = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
                with torch.no_grad():
                    took = seconds(lambda: model(token, past_key_values=cache, use_cache=True), 10, 3)
                report(bench="transformers decode", shape=arguments.shape, batch=batch, kept=kept, ms_per_step=took * 1e3)
            except torch.OutOfMemoryError:
                report(bench="transformers decode", shape=arguments.shape, batch=batch, kept=kept, error="out of memory")
            cache = None
            torch.cuda.empty_cache()


def import_kvpress():
    """kvpress without what its other presses and its command line import."""
    for name, member in (("datasets", "load_dataset"), ("fire", "Fire"), ("peft", "PeftModel")):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
            setattr(sys.modules[name], member, None)
    from kvpress import SnapKVPress

    return SnapKVPress


def bench_kvpress(arguments):
    """SnapKV as NVIDIA's kvpress has it: reading a prompt, and steps with what is left of it."""
    from transformers import DynamicCache

    snapkv_press = import_kvpress()
    model = make_model(arguments.shape)
    kept = int(arguments.kept)
    for tokens in numbers(arguments.tokens):
        press = snapkv_press(compression_ratio=1 - kept / tokens, window_size=32, kernel_size=7)
        for batch in numbers(arguments.batch):
            fields = {"bench": "kvpress", "shape": arguments.shape, "batch": batch, "tokens": tokens, "kept": kept}
            try:
                places = torch.arange(tokens, device="cuda")
                ids = (places * 7919 % model.config.vocab_size).expand(batch, tokens)
                caches = []

                def read():
                    caches[:] = [DynamicCache()]
                    with press(model):  # asks for cache_position, which newer transformers hand on but no longer make
                        model(ids, past_key_values=caches[0], use_cache=True, logits_to_keep=1, cache_position=places)

                with torch.no_grad():
                    took = seconds(read, 1, 1)
                    left = caches[0].layers[0].keys.shape[2]
                    token = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
                    position = torch.full((batch, 1), tokens, device="cuda")
                    step = seconds(lambda: model(token, position_ids=position, past_key_values=caches[0]), 10, 3)
                report(**fields, cached=left, prefill_seconds=took, ms_per_step=step * 1e3)
            except torch.OutOfMemoryError:
                report(**fields, error="out of memory")
            caches = None
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", choices=("attention", "prefill", "decode", "kvpress"))
    parser.add_argument("--shape", choices=("8b", "7b", "30b-a3b"), default="8b")
    parser.add_argument("--tokens", default="16384,32768")
    parser.add_argument("--batch", default="2")
    parser.add_argument("--kept", default="16384")
    arguments = parser.parse_args()
    {"attention": bench_attention, "prefill": bench_prefill, "decode": bench_decode,
     "kvpress": bench_kvpress}[arguments.bench](arguments)


if __name__ == "__main__":
    main()
