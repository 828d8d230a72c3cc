// Servers on a machine that has no disk or no memory left.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "client/generation_client.h"
#include "rpc/compression.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/fault_shell.h"
#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

TEST(FaultResourcesTest, AFullDiskStopsTheLogAndNothingElse) {
  // What servers write is their log.
  const std::string full = ">/dev/full 2>&1";
  ShellServer prefill("", "kvship-prefill", kModel, {"--threads=1"}, full);
  ShellServer decode("", "kvship-decode", kModel,
                     {"--threads=1", "--http=", absl::StrCat("--prefill=", prefill.address())},
                     full);
  ASSERT_TRUE(prefill.WaitUntilReady());
  ASSERT_TRUE(decode.WaitUntilReady());
  GenerationClient client(decode.address());
  EXPECT_EQ(CheckedRequests().Learn(client), absl::OkStatus());
  for (ShellServer* server : {&decode, &prefill}) {
    server->Signal(SIGTERM);
    EXPECT_EQ(server->Wait(), 0);
  }
}

// A model of one layer whose residual stream takes 8 KiB a token, and whose weights are nothing.
std::string WideModel(size_t context_tokens) {
  constexpr uint64_t kHidden = 2048, kHeadDim = 128, kFfn = 32, kVocab = 32;
  std::vector<std::string> tokens;
  for (uint64_t i = 0; i < kVocab; ++i)
    tokens.push_back(std::string(1, static_cast<char>('A' + i)));
  GgufWriter gguf;
  gguf.Name("general.architecture", "llama")
      .Name("general.name", "wide")
      .Count("llama.block_count", 1)
      .Count("llama.context_length", static_cast<uint32_t>(context_tokens))
      .Count("llama.embedding_length", kHidden)
      .Count("llama.feed_forward_length", kFfn)
      .Count("llama.attention.head_count", kHidden / kHeadDim)
      .Count("llama.attention.head_count_kv", 1)
      .Number("llama.rope.freq_base", 10000)
      .Number("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .Name("tokenizer.ggml.model", "gpt2")
      .Name("tokenizer.ggml.pre", "smollm")
      .Names("tokenizer.ggml.tokens", tokens)
      .Integers("tokenizer.ggml.token_type", std::vector<int32_t>(kVocab, 1))
      .Names("tokenizer.ggml.merges", {})
      .Count("tokenizer.ggml.eos_token_id", 2);
  const auto add = [&](const std::string& name, const std::vector<uint64_t>& dims) {
    const uint64_t num_floats = dims.size() == 2 ? dims[0] * dims[1] : dims[0];
    gguf.Tensor(name, dims, kGgufF32, std::string(4 * num_floats, '\0'));
  };
  add("token_embd.weight", {kHidden, kVocab});
  add("blk.0.attn_norm.weight", {kHidden});
  add("blk.0.attn_q.weight", {kHidden, kHidden});
  add("blk.0.attn_k.weight", {kHidden, kHeadDim});
  add("blk.0.attn_v.weight", {kHidden, kHeadDim});
  add("blk.0.attn_output.weight", {kHidden, kHidden});
  add("blk.0.ffn_norm.weight", {kHidden});
  add("blk.0.ffn_gate.weight", {kHidden, kFfn});
  add("blk.0.ffn_up.weight", {kHidden, kFfn});
  add("blk.0.ffn_down.weight", {kFfn, kHidden});
  add("output_norm.weight", {kHidden});
  return gguf.Bytes();
}

absl::Status Ask(const std::string& server, size_t prompt_tokens) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Resize(static_cast<int>(prompt_tokens), 1);
  *request.mutable_compression() = *CompressionFromText("budget_tokens=64,window=8,encoder=f16");
  request.set_max_tokens(2);
  request.set_ignore_end_tokens(true);
  return GenerationClient(server, {.retries = 0})
      .Generate(request, absl::Seconds(60), [](const v1::GenerateResponse&) {})
      .status();
}

TEST(FaultResourcesTest, APromptThatMemoryDoesNotHoldIsRefusedAndOthersGoOn) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
#endif
  constexpr size_t kContextTokens = 1 << 20, kLongPrompt = 600'000;
  const TempFolder folder;
  const std::string model = folder.Write("wide.gguf", WideModel(kContextTokens));
  // Room for threads and small prompts; the long one's residual stream takes 4.9 GB.
  ShellServer prefill("ulimit -v 4000000;", "kvship-prefill", model, {"--threads=1"});
  ShellServer decode("", "kvship-decode", model,
                     {"--threads=1", "--http=", absl::StrCat("--prefill=", prefill.address())});
  ASSERT_TRUE(prefill.WaitUntilReady());
  ASSERT_TRUE(decode.WaitUntilReady());
  EXPECT_EQ(Ask(decode.address(), 200), absl::OkStatus());
  const absl::Status refused = Ask(decode.address(), kLongPrompt);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("no memory"));
  EXPECT_TRUE(prefill.runs());
  EXPECT_TRUE(Eventually([&] { return Ask(decode.address(), 200).ok(); }));
  EXPECT_EQ(Metric(decode.admin_port, "kvship_decode_pool_reserved_bytes"), 0);
}

}  // namespace
}  // namespace kvship
