// Writes real messages of every kind into FOLDER/TARGET, from which fuzzing starts:
//   kvship-fuzz-seeds FOLDER
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/sampling.h"
#include "rpc/wire_version.h"
#include "tests/fuzz/fuzzed_attempt.h"
#include "tests/fuzz/tiny_model.h"

namespace kvship {
namespace {

class Folder {
 public:
  Folder(const std::string& root, const std::string& target) : path_(root + "/" + target) {
    std::filesystem::create_directories(path_);
  }
  void Add(const std::string& input) {
    std::ofstream(absl::StrCat(path_, "/seed", count_++), std::ios::binary) << input;
  }

 private:
  const std::string path_;
  int count_ = 0;
};

constexpr const char* kCompressions[] = {
    "",
    "scorer=keep_all",
    "budget_tokens=8,window=4",
    "scorer=h2o,budget_ratio=0.5,recent_tokens=4,normalised=true,window=4",
    "scorer=streaming_llm,budget_tokens=8,sinks=2,window=4",
    "scorer=expected_attention,budget_tokens=8,future_tokens=16,sinks=1,window=4",
    "scorer=random,seed=3,budget_tokens=8,window=4",
    "allocator=pyramid,budget_tokens=8,window=2,beta=4",
    "allocator=ada,budget_tokens=8,window=2,alpha=0.5",
    "allocator=mass,mass_target=0.9,mass_min_tokens=2,budget_tokens=8,window=2",
    "selector=chunks,chunk_tokens=4,budget_tokens=8,window=2",
    "encoder=fp8,window_encoder=f16,budget_tokens=8,window=4",
    "budget_tokens=8,window=4,observe_begin=2,observe_end=-3,kernel=3,pool=max,group_reduce=max",
};

void AddFrames(const std::string& root) {
  Folder frames(root, "frames"), manifests(root, "manifest");
  for (size_t kind = 0; kind < FuzzedAttempt::kKinds; ++kind) {
    const std::vector<std::string> messages = FuzzedAttempt(kind).RightMessages();
    const std::string begin(1, static_cast<char>(kind));
    std::string all = begin;
    for (const std::string& message : messages) {
      absl::StrAppend(&all, BytesOf(static_cast<uint16_t>(message.size())), message);
    }
    frames.Add(all);
    manifests.Add(begin + messages.back());
  }
}

void AddRequests(const std::string& root) {
  Folder begins(root, "prefill_request"), requests(root, "generate_request");
  const ServedModel& model = TinyServedModel();
  constexpr size_t kPromptTokens = 20;
  for (const char* text : kCompressions) {
    v1::PrefillRequest prefill;
    v1::PrefillBegin& begin = *prefill.mutable_begin();
    Require(ParseCompression(text).ok(), text);
    const CompressionOptions options = *ParseCompression(text);
    *begin.mutable_wire_version() = WireVersionProto();
    *begin.mutable_compression() = CompressionToProto(options);
    if (const auto plan = MakePlan(options, ShapeOf(model.config()), kPromptTokens); plan.ok()) {
      *begin.mutable_plan() = PlanToProto(*plan);
    }
    *begin.mutable_sampling() = SamplingToProto({.temperature = 0.7,
                                                 .top_p = 0.9,
                                                 .top_k = 5,
                                                 .min_p = 0.01,
                                                 .presence_penalty = 1,
                                                 .repetition_penalty = 1.1,
                                                 .logit_bias = {{3, 2.0f}}});
    begin.add_transports("grpc");
    begin.set_request_id("a-request");
    v1::GenerateRequest generate;
    *generate.mutable_compression() = *CompressionFromText(text);
    *generate.mutable_sampling() = begin.sampling();
    generate.set_max_tokens(5);
    for (size_t i = 0; i < kPromptTokens; ++i) {
      begin.add_tokens(i);
      generate.mutable_tokens()->add_ids(i);
    }
    begins.Add(prefill.SerializeAsString());
    requests.Add(generate.SerializeAsString());
  }
  v1::GenerateRequest text;
  text.set_prompt("the<|im_end|>and");
  text.set_parse_special(true);
  text.add_stop("in");
  text.set_logprobs(3);
  requests.Add(text.SerializeAsString());
  text.set_json_schema(R"({"properties":{"a":{"type":"null"}}})");
  requests.Add(text.SerializeAsString());
  v1::GenerateRequest chat;
  for (const char* role : {"system", "user", "assistant", "user"}) {
    v1::ChatMessage& message = *chat.mutable_chat()->add_messages();
    message.set_role(role);
    message.set_content("the inn");
  }
  for (uint32_t id = 3; id < 6; ++id) chat.add_forced_tokens(id);
  requests.Add(chat.SerializeAsString());
}

void AddToolCalls(const std::string& root) {
  Folder outputs(root, "tool_call");
  const auto add = [&outputs](char syntax, bool thinks, const std::string& output) {
    outputs.Add(std::string({static_cast<char>(2 * syntax + (thinks ? 1 : 0)), '\3'}) + output);
  };
  add(0, false,
      "the\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>\n"
      "<tool_call>{\"arguments\":{},\"name\":\"g\"}</tool_call>");
  add(0, true, "<think>an</think>\n\n<tool_call>{\"name\":\"\\u00e9\"}</tool_call> <tool_call>{");
  add(1, false,
      "{\"name\": \"f\", \"parameters\": {\"a\": -0.5e+1}}; {\"name\":\"g\",\"parameters\":{}}");
  add(2, false,
      "the\n<tool_call>\n<function=f>\n<parameter=a>\n[1, \"</parameter>\"]\n</parameter>\n"
      "<parameter=b>\nNone\n</parameter>\n</function>\n</tool_call>\n<tool_call> <function=g>");
  add(2, true,
      "an</think>\n<function=f><parameter=c>-1.5</parameter></function></tool_call> an "
      "<function=f>\n<parameter=b>\nthe </parameter> an\n</parameter>\n</function>");
  add(3, false,
      "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}, \"id\": \"abcdefghi\"}]");
  add(4, true, "an</think>[TOOL_CALLS][{\"name\":\"f\"}, {\"name\":\"g\"}]");
  add(5, false,
      "the [TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{\"a\": {\"b\": \"}\"}}[TOOL_CALLS]g[ARGS]{} an "
      "[ARGS] "
      "[TOOL_CALLS] in");
}

void AddSchemas(const std::string& root) {
  Folder folder(root, "json_schema");
  const char* const schemas[] = {
      R"({"type":"object","properties":{"a":{"type":"integer","minimum":0},"b":true},
"required":["a"],"additionalProperties":false})",
      R"({"type":"array","prefixItems":[{"const":1}],"items":{"type":"string","maxLength":3},
"minItems":1,"maxItems":4})",
      R"({"anyOf":[{"type":["string","null"],"format":"date"},
{"oneOf":[{"enum":["a",1]},{"const":{"k":[0.5]}}],"discriminator":{}}]})",
      R"({"$defs":{"a b":{"items":{"$ref":"#"}},"c/d":{}},
"definitions":{"e":{"$ref":"#/$defs/a%20b"}},"allOf":[{"$ref":"#/$defs/c~1d"}],"title":"t"})",
      R"({"type":["number","string"],"exclusiveMinimum":-1.5,"maximum":1e3,"minLength":2})",
      R"({"properties":{"x":{"const":"\u00e9\n","type":"string"}},
"additionalProperties":{"type":"boolean","default":false}})",
      R"({"$schema":"s","$id":"i","description":"d","examples":[1],"type":"array",
"items":{"format":"uuid","type":"string","title":"t"}})",
      R"({"type":"string","pattern":"^(?:[A-Z\\d_-]{2,3}|\\u{e9}+?\\x61*)$|(?<n>\\ud83d\\ude00).?"})",
      R"({"items":{"type":"integer","minimum":-5,"exclusiveMaximum":900}})",
      R"({"type":"object","properties":{"value":{},"left":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},
"required":["left"]})",
      R"({"function":{"name":"g\u00e9","strict":true,"parameters":{"type":"object"}}})"};
  for (const char* schema : schemas) folder.Add(schema);
}

void AddHttp(const std::string& root) {
  Folder bodies(root, "openai_body"), connections(root, "http_request");
  const char* const chats[] = {
      R"({"model":"tiny","messages":[{"role":"user","content":"the"}]})",
      R"({"model":"tiny","messages":[{"role":"user","content":"the"},{"role":"assistant","content":"an"}],
"chat_template_kwargs":{"enable_thinking":false}})",
      R"({"model":"tiny","messages":[{"role":"system","content":"an"},{"role":"user","content":[{"type":"text",
"text":"the"}]}],"temperature":0.5,"top_p":0.9,"top_k":40,"seed":-1,"max_completion_tokens":7,"stop":["a"],
"stream":true,"stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":3,"user":"u","ignore_eos":true,
"kvship":{"report":true,"compression":"budget_tokens=8,window=4"},"n":1,"tools":[],
"min_p":0.1,"frequency_penalty":1,"logit_bias":{"5":-1}})",
      R"({"model":"tiny","messages":[{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":
{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"a","content":"in"}],"tools":[{"type":"function",
"function":{"name":"f","description":"d","parameters":{"type":"object"}}}],"tool_choice":{"type":"function",
"function":{"name":"f"}},"parallel_tool_calls":false})",
  };
  const char* const completions[] = {
      R"({"model":"tiny","prompt":"the an","max_tokens":3,"logprobs":2,"stop":"in"})",
      R"({"model":"tiny","prompt":["the",[5,6]],"n":3,"best_of":3,"seed":4})",
      R"({"model":"tiny","prompt":[[5,6,7]],"kvship":{"compression":{"scorer":"keep_all","window":4}}})",
  };
  for (const char* body : chats) bodies.Add(std::string(1, '\0') + body);
  for (const char* body : completions) bodies.Add(std::string(1, '\1') + body);
  const std::string post =
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
  connections.Add(post + "Content-Length: 2\r\n\r\n{}GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
  connections.Add(post +
                  "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nTrailer: x\r\n\r\n");
  connections.Add(post + "Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n");
  connections.Add("GET /%7e?a=b&c HTTP/1.0\r\nRange: bytes=0-1\r\nConnection: close\r\n\r\n");
}

// A model's metadata without its tensors, which would make inputs long.
std::string WithoutTensors(std::string gguf) {
  constexpr size_t kNumTensorsAt = 8, kNameLengthBytes = 8;
  std::fill_n(gguf.begin() + kNumTensorsAt, sizeof(uint64_t), '\0');
  gguf.resize(gguf.find("token_embd.weight") - kNameLengthBytes);
  return gguf;
}

GgufWriter SentencePieceGguf() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(absl::StrFormat("<0x%02X>", byte));
  types.resize(tokens.size(), 6);
  for (const char* token : {"\u2581", "t", "h", "e", "th", "the", "\u2581the"}) {
    tokens.push_back(token);
  }
  types.resize(tokens.size(), 1);
  std::string scores = BytesOf(uint32_t{kGgufFloat32}) + BytesOf(uint64_t{tokens.size()});
  for (size_t id = 0; id < tokens.size(); ++id) scores += BytesOf(-static_cast<float>(id));
  return GgufWriter()
      .Name("tokenizer.ggml.model", "llama")
      .Names("tokenizer.ggml.tokens", tokens)
      .Integers("tokenizer.ggml.token_type", types)
      .Value("tokenizer.ggml.scores", kGgufArray, scores)
      .Count("tokenizer.ggml.bos_token_id", 1);
}

void AddModelFiles(const std::string& root) {
  Folder gguf(root, "gguf"), safetensors(root, "safetensors");
  gguf.Add(WithoutTensors(TinyGguf().Bytes()));
  gguf.Add(WithoutTensors(TinyGguf(/*factors=*/false, "qwen3").Bytes()));
  GgufWriter mixture = TinyGguf(/*factors=*/false, "qwen3moe");
  mixture.Count("qwen3moe.expert_count", 4)
      .Count("qwen3moe.expert_used_count", 2)
      .Count("qwen3moe.expert_feed_forward_length", 32);
  gguf.Add(WithoutTensors(mixture.Bytes()));
  gguf.Add(SentencePieceGguf().Bytes());
  GgufWriter yarn = TinyGguf(/*factors=*/false, "qwen2");
  yarn.Name("qwen2.rope.scaling.type", "yarn")
      .Number("qwen2.rope.scaling.factor", 4)
      .Number("qwen2.rope.scaling.yarn_beta_fast", 16)
      .Count("qwen2.rope.scaling.original_context_length", 32);
  gguf.Add(WithoutTensors(yarn.Bytes()));
  GgufWriter small;
  small.Count("general.alignment", 64).Value("flag", kGgufBool, "\1").Integers("list", {-1, 2});
  small.Names("names", {"a", ""}).Tensor("t", {32, 2}, kGgufQ8_0, std::string(68, '\1'));
  gguf.Add(small.Bytes());
  safetensors.Add(SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},"h":{"dtype":"F16","shape":[2],"data_offsets":[24,28]},)"
      R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})",
      std::string(28, '\1')));
  safetensors.Add(SafetensorsBytes(R"({"b":{"dtype":"BF16","shape":[1,1,4],"data_offsets":[0,8]}})",
                                   std::string(8, '\1')));
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string root = argv[1];
  kvship::AddFrames(root);
  kvship::AddRequests(root);
  kvship::AddToolCalls(root);
  kvship::AddSchemas(root);
  kvship::AddHttp(root);
  kvship::AddModelFiles(root);
  return 0;
}
