"""llama.cpp through the C interface of llama-cpp-python: MODEL CONTEXT_TOKENS THREADS FLASH(0|1)."""

import ctypes
import sys

import llama_cpp
import numpy as np

from worker import serve


def main():
    model_path, context_tokens, threads, flash = sys.argv[1], *map(int, sys.argv[2:5])
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        model_path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot read {model_path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context_tokens
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    context = llama_cpp.llama_init_from_model(model, params)
    num_tokens = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    chunk_tokens = params.n_batch

    def feed(tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        for begin in range(0, len(tokens), chunk_tokens):
            count = min(chunk_tokens, len(tokens) - begin)
            part = ctypes.cast(ctypes.byref(array, begin * ctypes.sizeof(llama_cpp.llama_token)),
                               ctypes.POINTER(llama_cpp.llama_token))
            status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(part, count))
            if status != 0:
                sys.exit(f"llama_decode returned {status} at token {begin} of {len(tokens)}")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(num_tokens,)).argmax())

    def prefill(tokens):
        # False: to zero the whole context's cache as well would count as reading the prompt.
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        return feed(tokens)

    serve(prefill, lambda token: feed([token]))


if __name__ == "__main__":
    main()
