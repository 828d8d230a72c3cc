"""A model that recites a text, whatever it is asked: for what the server makes of outputs that no small model writes by itself."""

import json
import struct
from pathlib import Path

import numpy as np

WIDTH = 320  # values of a token's vector, one of which is 1: that of its id


def byte_characters() -> list[str]:
    """The character by which a tokenizer.json writes each byte, as GPT-2 has it."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    return [chr(byte if byte in shown else 256 + others.index(byte)) for byte in range(256)]


def write_reciting_model(folder: Path, pieces: list[str], chat_template: str, after: str = "\n", special: tuple[str, ...] = ()) -> None:
    """Behind the character or special token `after` it says `pieces`, a token each, and ends. Each is another one, and longer than a
    byte; those that are special tokens are among `special`."""
    characters = byte_characters()
    vocabulary = {character: byte for byte, character in enumerate(characters)}
    spelled = ["".join(characters[byte] for byte in piece.encode()) for piece in pieces]
    for piece in [*special, *(each for each in spelled if each not in special)]:
        vocabulary[piece] = len(vocabulary)
    end = len(vocabulary)
    assert len(set(pieces)) == len(pieces) and end < WIDTH, "two pieces alike, or too many"
    recital = [vocabulary[after] if after in special else ord(after), *(vocabulary[piece] for piece in spelled), end]
    assert min(recital[1:]) >= 256, "pieces that are bytes"
    (folder / "tokenizer.json").write_text(json.dumps({
        "added_tokens": [{"id": vocabulary.get(name, end), "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for name in (*special, "<end>")],
        "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}))
    (folder / "chat_template.jinja").write_text(chat_template)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": WIDTH,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 10, "num_key_value_heads": 2, "head_dim": 32,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "vocab_size": WIDTH, "eos_token_id": end}))
    output = np.zeros((WIDTH, WIDTH), np.float32)
    for token, following in zip(recital, recital[1:]):
        output[following, token] = 4
    layer = "model.layers.0."
    write_safetensors(folder / "model.safetensors", {
        "model.embed_tokens.weight": np.eye(WIDTH, dtype=np.float32), "lm_head.weight": output,
        "model.norm.weight": np.ones(WIDTH, np.float32),
        layer + "input_layernorm.weight": np.ones(WIDTH, np.float32),
        layer + "post_attention_layernorm.weight": np.ones(WIDTH, np.float32),
        # Neither attention nor the MLP adds anything to a token's vector.
        **{layer + name + ".weight": np.zeros(shape, np.float32) for name, shape in {
            "self_attn.q_proj": (320, WIDTH), "self_attn.k_proj": (64, WIDTH), "self_attn.v_proj": (64, WIDTH),
            "self_attn.o_proj": (WIDTH, 320), "mlp.gate_proj": (32, WIDTH), "mlp.up_proj": (32, WIDTH),
            "mlp.down_proj": (WIDTH, 32)}.items()}})


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, begin = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, begin + tensor.nbytes]}
        begin += tensor.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())
