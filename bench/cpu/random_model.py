#!/usr/bin/env python3
"""random_model.py PATH KIND MODEL EXPERTS: a GGUF file with random weights, quantized by llama.cpp to KIND (a name of its own,
as Q4_K_M), with the tokenizer of MODEL. Speed does not depend on what weights say. With EXPERTS above 0 it is a mixture, of
so many."""

import ctypes
import os
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

# TinyLlama-1.1B's shape.
HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS = 2048, 5632, 22, 32, 4

# Of a mixture: a token's experts have about as many weights together, in whole blocks of 256.
EXPERTS_PER_TOKEN, EXPERT_FEED_FORWARD = 4, 1536

SHAPE = {
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": FEED_FORWARD,
    "llama.block_count": LAYERS,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.rope.dimension_count": HIDDEN // HEADS,
}
LEFT_OUT = ("general.architecture", "general.file_type", "general.quantization_version")


def copy_fields(reader, writer, shape):
    """All but the shape, the tokenizer above all, as in `reader`."""
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in LEFT_OUT:
            continue
        value = shape.get(name, field.contents())
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])


def write_f16(path, tokenizer_model, num_experts):
    reader = gguf.GGUFReader(tokenizer_model)
    writer = gguf.GGUFWriter(path, "llama")
    feed_forward = EXPERT_FEED_FORWARD if num_experts > 0 else FEED_FORWARD
    copy_fields(reader, writer, SHAPE | {"llama.feed_forward_length": feed_forward})
    if num_experts > 0:
        writer.add_expert_count(num_experts)
        writer.add_expert_used_count(EXPERTS_PER_TOKEN)
    random = np.random.default_rng(0)

    def matrix(name, *shape):
        weights = random.standard_normal(shape, dtype=np.float32) * 0.02
        writer.add_tensor(f"{name}.weight", weights.astype(np.float16))

    def ones(name):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))

    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    matrix("token_embd", vocabulary, HIDDEN)
    matrix("output", vocabulary, HIDDEN)
    ones("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm")
        ones(f"{block}.ffn_norm")
        for name, rows in (("q", HIDDEN), ("k", HIDDEN // HEADS * KV_HEADS), ("v", HIDDEN // HEADS * KV_HEADS),
                           ("output", HIDDEN)):
            matrix(f"{block}.attn_{name}", rows, HIDDEN)
        experts, suffix = ((num_experts,), "_exps") if num_experts > 0 else ((), "")
        matrix(f"{block}.ffn_gate{suffix}", *experts, feed_forward, HIDDEN)
        matrix(f"{block}.ffn_up{suffix}", *experts, feed_forward, HIDDEN)
        matrix(f"{block}.ffn_down{suffix}", *experts, HIDDEN, feed_forward)
        if num_experts > 0:
            router = random.standard_normal((num_experts, HIDDEN), dtype=np.float32) * 0.02
            writer.add_tensor(f"{block}.ffn_gate_inp.weight", router)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(path, kind, tokenizer_model, num_experts):
    """Takes 3 GB of memory and of disk, for a minute or two, and 1.5 GB more for every four experts."""
    params = llama_cpp.llama_model_quantize_default_params()
    name = f"LLAMA_FTYPE_MOSTLY_{kind}"
    if not hasattr(llama_cpp, name):
        sys.exit(f"--random {kind}: wanted a kind of file that llama.cpp makes, as Q4_K_M")
    params.ftype = getattr(llama_cpp, name)
    params.nthread = os.cpu_count()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        floats = os.path.join(folder, "f16.gguf")
        write_f16(floats, tokenizer_model, int(num_experts))
        if llama_cpp.llama_model_quantize(floats.encode(), path.encode(), params) != 0:
            sys.exit(f"llama.cpp failed to quantize to {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
