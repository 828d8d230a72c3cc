"""transformers in float32 on the weights of the GGUF file: MODEL THREADS."""

import os
import sys

import torch
from transformers import AutoModelForCausalLM

from worker import serve


def main():
    model_path, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    folder, name = os.path.split(model_path)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32,
                                                 attn_implementation="sdpa")
    model.eval()
    cache = None

    @torch.inference_mode()
    def feed(tokens):
        nonlocal cache
        out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def prefill(tokens):
        nonlocal cache
        cache = None
        return feed(tokens)

    serve(prefill, lambda token: feed([token]))


if __name__ == "__main__":
    main()
