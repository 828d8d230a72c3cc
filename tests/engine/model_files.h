// Small model files for the tests of their readers: writers of GGUF and safetensors that say
// whatever they are told, true or not.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/random.h"
#include "tests/temp_folder.h"

namespace kvship {

template <class T>
std::string BytesOf(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// `num_floats` random numbers in [-0.5, 0.5) as F32.
inline std::string RandomFloats(size_t num_floats, uint64_t seed) {
  std::string bytes;
  for (size_t i = 0; i < num_floats; ++i) {
    bytes += BytesOf(static_cast<float>(UniformUnit(seed, i) - 0.5));
  }
  return bytes;
}

// Types of metadata and formats of tensors as GGUF numbers them.
enum GgufNumber : uint32_t {
  kGgufUint32 = 4,
  kGgufInt32 = 5,
  kGgufFloat32 = 6,
  kGgufBool = 7,
  kGgufString = 8,
  kGgufArray = 9,
  kGgufF32 = 0,
  kGgufQ8_0 = 8,
  kGgufIQ3_S = 21,
};

class GgufWriter {
 public:
  static std::string Text(const std::string& text) { return BytesOf(uint64_t{text.size()}) + text; }

  // A metadata value in the file's own encoding.
  GgufWriter& Value(const std::string& key, uint32_t type, const std::string& bytes) {
    values_ += Text(key) + BytesOf(type) + bytes;
    ++num_values;
    return *this;
  }
  GgufWriter& Count(const std::string& key, uint32_t count) {
    return Value(key, kGgufUint32, BytesOf(count));
  }
  GgufWriter& Number(const std::string& key, float number) {
    return Value(key, kGgufFloat32, BytesOf(number));
  }
  GgufWriter& Name(const std::string& key, const std::string& text) {
    return Value(key, kGgufString, Text(text));
  }
  GgufWriter& Names(const std::string& key, const std::vector<std::string>& texts) {
    std::string bytes = BytesOf(uint32_t{kGgufString}) + BytesOf(uint64_t{texts.size()});
    for (const std::string& text : texts) bytes += Text(text);
    return Value(key, kGgufArray, bytes);
  }
  GgufWriter& Integers(const std::string& key, const std::vector<int32_t>& integers) {
    std::string bytes = BytesOf(uint32_t{kGgufInt32}) + BytesOf(uint64_t{integers.size()});
    for (const int32_t integer : integers) bytes += BytesOf(integer);
    return Value(key, kGgufArray, bytes);
  }

  // A tensor's entry; `dims` with the contiguous one first, as in the file.
  GgufWriter& Entry(const std::string& name, const std::vector<uint64_t>& dims, uint32_t format,
                    uint64_t offset) {
    entries_ += Text(name) + BytesOf(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) entries_ += BytesOf(dim);
    entries_ += BytesOf(format) + BytesOf(offset);
    ++num_tensors;
    return *this;
  }
  // An entry, and its bytes behind those of the tensors before.
  GgufWriter& Tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t format,
                     const std::string& bytes) {
    data_.resize((data_.size() + 31) / 32 * 32);
    Entry(name, dims, format, data_.size());
    data_ += bytes;
    return *this;
  }

  std::string Bytes() const {
    std::string out =
        "GGUF" + BytesOf(version) + BytesOf(num_tensors) + BytesOf(num_values) + values_ + entries_;
    if (!data_.empty()) out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

  // What the header says; Value and Entry count these up.
  uint32_t version = 3;
  uint64_t num_tensors = 0;
  uint64_t num_values = 0;

 private:
  std::string values_;
  std::string entries_;
  std::string data_;
};

// A llama model of one layer: 32 hidden, 2 heads of 16 over 1 KV head, 32 feed-forward, 40 tokens
// of a byte-level vocabulary, and a chat template. `factors` adds the tensor of llama3 scaling.
inline GgufWriter TinyGguf(bool factors = false, const std::string& architecture = "llama") {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<int32_t> types = {3, 3, 3};
  for (char c = 'a'; c <= 'z'; ++c) tokens.push_back(std::string(1, c));
  for (const char* joined : {"th", "the", "an", "in", "and", "Ġ", "Ġthe", "!", "?", ".", "Ċ"}) {
    tokens.push_back(joined);
  }
  types.resize(tokens.size(), 1);
  GgufWriter gguf;
  gguf.Name("general.architecture", architecture)
      .Name("general.name", "tiny")
      .Count(architecture + ".block_count", 1)
      .Count(architecture + ".context_length", 64)
      .Count(architecture + ".embedding_length", 32)
      .Count(architecture + ".feed_forward_length", 32)
      .Count(architecture + ".attention.head_count", 2)
      .Count(architecture + ".attention.head_count_kv", 1)
      .Number(architecture + ".rope.freq_base", 10000)
      .Number(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f)
      .Name("tokenizer.ggml.model", "gpt2")
      .Name("tokenizer.ggml.pre", "smollm")
      .Names("tokenizer.ggml.tokens", tokens)
      .Integers("tokenizer.ggml.token_type", types)
      .Names("tokenizer.ggml.merges", {"t h", "th e", "a n", "i n", "an d", "Ġ the"})
      .Count("tokenizer.ggml.bos_token_id", 1)
      .Count("tokenizer.ggml.eos_token_id", 2)
      .Count("tokenizer.ggml.eot_token_id", 0)
      .Name("tokenizer.chat_template",
            "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
            "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
  const auto add = [&](const std::string& name, const std::vector<uint64_t>& dims) {
    size_t num_floats = 1;
    for (const uint64_t dim : dims) num_floats *= dim;
    gguf.Tensor(name, dims, kGgufF32, RandomFloats(num_floats, num_floats + name.size()));
  };
  add("token_embd.weight", {32, 40});
  add("blk.0.attn_norm.weight", {32});
  add("blk.0.attn_q.weight", {32, 32});
  add("blk.0.attn_k.weight", {32, 16});
  add("blk.0.attn_v.weight", {32, 16});
  add("blk.0.attn_output.weight", {32, 32});
  add("blk.0.ffn_norm.weight", {32});
  add("blk.0.ffn_gate.weight", {32, 32});
  add("blk.0.ffn_up.weight", {32, 32});
  add("blk.0.ffn_down.weight", {32, 32});
  if (factors) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes += BytesOf(i < 4 ? 1.0f : 8.0f);
    gguf.Tensor("rope_freqs.weight", {8}, kGgufF32, bytes);
  }
  add("output_norm.weight", {32});
  return gguf;
}

// A safetensors file with this header and this data.
inline std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  return BytesOf(uint64_t{header.size()}) + header + data;
}

// `text` with one to four bytes replaced, or cut short, at places that `seed` chooses. Half of the
// places lie in the first `header_bytes`.
inline std::string Damage(std::string text, size_t header_bytes, uint64_t seed) {
  uint64_t draw = 0;
  const auto next = [&](uint64_t bound) { return RandomBits(seed, draw++) % bound; };
  if (next(4) == 0) {
    text.resize(next(text.size()));
    return text;
  }
  for (uint64_t count = 1 + next(4); count > 0; --count) {
    const size_t place = next(next(2) == 0 ? header_bytes : text.size());
    // Extreme bytes make counts and offsets absurd; others are near the truth.
    const uint64_t kind = next(4);
    text[place] = kind == 0   ? '\xff'
                  : kind == 1 ? '\0'
                  : kind == 2 ? static_cast<char>(text[place] ^ 1u << next(8))
                              : static_cast<char>(next(256));
  }
  return text;
}

}  // namespace kvship
