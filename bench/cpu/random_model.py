#!/usr/bin/env python3
"""random_model.py PATH KIND MODEL: a GGUF file with random weights, quantized by llama.cpp to KIND (a name of its own, as
Q4_K_M), with the tokenizer of MODEL. Speed does not depend on what weights say."""

import ctypes
import os
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

# TinyLlama-1.1B's shape.
HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS = 2048, 5632, 22, 32, 4

SHAPE = {
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": FEED_FORWARD,
    "llama.block_count": LAYERS,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.rope.dimension_count": HIDDEN // HEADS,
}
LEFT_OUT = ("general.architecture", "general.file_type", "general.quantization_version")


def copy_fields(reader, writer):
    """All but the shape, the tokenizer above all, as in `reader`."""
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in LEFT_OUT:
            continue
        value = SHAPE.get(name, field.contents())
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])


def write_f16(path, tokenizer_model):
    reader = gguf.GGUFReader(tokenizer_model)
    writer = gguf.GGUFWriter(path, "llama")
    copy_fields(reader, writer)
    random = np.random.default_rng(0)

    def matrix(name, rows, cols):
        weights = random.standard_normal((rows, cols), dtype=np.float32) * 0.02
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
        matrix(f"{block}.ffn_gate", FEED_FORWARD, HIDDEN)
        matrix(f"{block}.ffn_up", FEED_FORWARD, HIDDEN)
        matrix(f"{block}.ffn_down", HIDDEN, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(path, kind, tokenizer_model):
    """Takes 3 GB of memory and of disk, for a minute or two."""
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
        write_f16(floats, tokenizer_model)
        if llama_cpp.llama_model_quantize(floats.encode(), path.encode(), params) != 0:
            sys.exit(f"llama.cpp failed to quantize to {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
