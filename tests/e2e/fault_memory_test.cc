// Servers whose memory is capped: by the process's own limit, beyond which an allocation fails, and
// by a control group, beyond which the kernel kills the process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/generation_client.h"
#include "rpc/compression.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/control_group.h"
#include "tests/e2e/fault_shell.h"
#include "tests/engine/model_files.h"
#include "tests/sanitized.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

// A model of one layer whose weights are nothing, as wide as asked for: while it computes, a token
// takes 4 bytes for each hidden channel of the residual stream, and 12 for each of the feed-forward
// layer.
struct WideModel {
  uint64_t hidden_dim = 0;
  uint64_t head_dim = 0;
  uint64_t ffn_dim = 0;
  uint32_t context_tokens = 0;

  std::string Bytes() const;
};

std::string WideModel::Bytes() const {
  constexpr uint64_t kVocab = 32;
  std::vector<std::string> tokens;
  for (uint64_t i = 0; i < kVocab; ++i)
    tokens.push_back(std::string(1, static_cast<char>('A' + i)));
  GgufWriter gguf;
  gguf.Name("general.architecture", "llama")
      .Name("general.name", "wide")
      .Count("llama.block_count", 1)
      .Count("llama.context_length", context_tokens)
      .Count("llama.embedding_length", static_cast<uint32_t>(hidden_dim))
      .Count("llama.feed_forward_length", static_cast<uint32_t>(ffn_dim))
      .Count("llama.attention.head_count", static_cast<uint32_t>(hidden_dim / head_dim))
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
  add("token_embd.weight", {hidden_dim, kVocab});
  add("blk.0.attn_norm.weight", {hidden_dim});
  add("blk.0.attn_q.weight", {hidden_dim, hidden_dim});
  add("blk.0.attn_k.weight", {hidden_dim, head_dim});
  add("blk.0.attn_v.weight", {hidden_dim, head_dim});
  add("blk.0.attn_output.weight", {hidden_dim, hidden_dim});
  add("blk.0.ffn_norm.weight", {hidden_dim});
  add("blk.0.ffn_gate.weight", {hidden_dim, ffn_dim});
  add("blk.0.ffn_up.weight", {hidden_dim, ffn_dim});
  add("blk.0.ffn_down.weight", {ffn_dim, hidden_dim});
  add("output_norm.weight", {hidden_dim});
  return gguf.Bytes();
}

absl::Status Ask(GenerationClient& client, size_t prompt_tokens, uint32_t max_tokens = 2) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Resize(static_cast<int>(prompt_tokens), 1);
  *request.mutable_compression() = *CompressionFromText("budget_tokens=64,window=8,encoder=f16");
  request.set_max_tokens(max_tokens);
  request.set_ignore_end_tokens(true);
  return client.Generate(request, absl::Minutes(3), [](const v1::GenerateResponse&) {}).status();
}

class FaultMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "sanitizers take more memory than the limits let them";
  }

  // Two servers of the model, the prefill server's shell preparing what it is told.
  void Start(const WideModel& model, const std::string& before_prefill,
             const std::vector<std::string>& decode_flags) {
    const std::string path = folder_.Write("wide.gguf", model.Bytes());
    // Its own bound is out of the way: what the system has not got is refused too.
    prefill_.emplace(before_prefill, "kvship-prefill", path,
                     std::vector<std::string>{"--threads=1", "--max_active_bytes=8000000000"});
    std::vector<std::string> flags = decode_flags;
    flags.insert(flags.end(),
                 {"--threads=1", "--http=", absl::StrCat("--prefill=", prefill_->address())});
    decode_.emplace("", "kvship-decode", path, flags);
    ASSERT_TRUE(prefill_->WaitUntilReady());
    ASSERT_TRUE(decode_->WaitUntilReady());
    client_.emplace(decode_->address(), GenerationClient::Options{.retries = 0});
    EXPECT_EQ(Ask(*client_, 200), absl::OkStatus());
    rests_ = {AtRest(*prefill_), AtRest(*decode_)};
  }
  void ExpectNothingIsLeft() const {
    for (const AtRest& rest : rests_) EXPECT_EQ(rest.LeftOver(), "");
  }

  const TempFolder folder_;
  std::optional<ShellServer> prefill_;
  std::optional<ShellServer> decode_;
  std::optional<GenerationClient> client_;
  std::vector<AtRest> rests_;
};

// Their residual stream takes 8 KiB a token.
constexpr WideModel kWideResidual = {
    .hidden_dim = 2048, .head_dim = 128, .ffn_dim = 32, .context_tokens = 1 << 20};

TEST_F(FaultMemoryTest, APromptThatMemoryDoesNotHoldIsRefusedAndOthersGoOn) {
  // Room for threads and small prompts; the long one's residual stream takes 4.9 GB.
  Start(kWideResidual, "ulimit -v 4000000;", {});
  const absl::Status refused = Ask(*client_, 600'000);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("no memory"));
  EXPECT_TRUE(prefill_->runs());
  EXPECT_TRUE(Eventually([&] { return Ask(*client_, 200).ok(); }));
  ExpectNothingIsLeft();
}

// What the process may take of addresses from now on, beyond what it has.
void CapAddressSpace(int pid, size_t more_bytes) {
  std::ifstream statm(absl::StrCat("/proc/", pid, "/statm"));
  size_t num_pages = 0;
  statm >> num_pages;
  const rlim_t bytes = num_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + more_bytes;
  const rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
  ASSERT_EQ(prlimit(pid, RLIMIT_AS, &limit, nullptr), 0);
}

// How 48 clients' requests ended, all asked at once; those that fail are told of memory.
std::map<std::string, size_t> AskAtOnce(GenerationClient& client, uint32_t max_tokens) {
  std::mutex mutex;
  std::map<std::string, size_t> ends;
  std::vector<std::thread> clients;
  for (size_t i = 0; i < 48; ++i) {
    clients.emplace_back([&] {
      const absl::Status end = Ask(client, 8, max_tokens);
      std::lock_guard lock(mutex);
      ++ends[absl::StatusCodeToString(end.code())];
      if (end.ok()) return;
      EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted) << end;
      EXPECT_THAT(std::string(end.message()), HasSubstr("no memory"));
    });
  }
  for (std::thread& thread : clients) thread.join();
  return ends;
}

// Long, as it needs a machine that does little else: a slow one's batches never get large enough.
using LongFaultMemoryTest = FaultMemoryTest;

TEST_F(LongFaultMemoryTest, AStepThatMemoryDoesNotHoldEndsItsRequestsAndOthersGoOn) {
  // A session takes 6 MiB of each step.
  Start({.hidden_dim = 32, .head_dim = 16, .ffn_dim = 1 << 19, .context_tokens = 1 << 12}, "",
        {"--max_batch_sessions=64"});
  // gRPC makes its threads while there is room for them; the first token takes no step.
  EXPECT_EQ(AskAtOnce(*client_, /*max_tokens=*/1)["OK"], 48u);
  CapAddressSpace(decode_->pid(), size_t{96} << 20);
  std::map<std::string, size_t> ends = AskAtOnce(*client_, /*max_tokens=*/32);
  std::cout << "requests: " << absl::StrJoin(ends, ", ", absl::PairFormatter(" ")) << std::endl;
  EXPECT_GT(ends["RESOURCE_EXHAUSTED"], 0u);
  EXPECT_TRUE(decode_->runs());
  EXPECT_EQ(Ask(*client_, 200), absl::OkStatus());
  ExpectNothingIsLeft();
}

TEST_F(FaultMemoryTest, APoolThatAddressesDoNotHoldIsOneSentenceAndExitCodeOne) {
  const std::string errors = folder_.path() + "/errors";
  ShellServer decode("ulimit -v 4000000;", "kvship-decode", KVSHIP_GOLDENS "/models/llama",
                     {"--http=", "--pool_bytes=8589934592"}, ">/dev/null 2>" + errors);
  EXPECT_EQ(decode.Wait(), 1);
  EXPECT_THAT(ReadBytes(errors),
              HasSubstr("--pool_bytes: no address space for a pool of 8589934592 bytes"));
}

TEST_F(FaultMemoryTest, AServerThatTheKernelKillsIsAnErrorToRetryAndServesAgainOnceRestarted) {
  const auto group = ControlGroup::OfMemory(size_t{256} << 20);
  if (group == nullptr) GTEST_SKIP() << "this account may make no control group for memory here";
  Start(kWideResidual, group->Enter(), {});
  // Its residual stream takes 820 MB.
  const absl::Status lost = Ask(*client_, 100'000);
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
  EXPECT_THAT(std::string(lost.message()), HasSubstr("prefill node"));
  EXPECT_EQ(prefill_->Wait(), -SIGKILL);
  prefill_->Restart();
  ASSERT_TRUE(prefill_->WaitUntilReady());
  EXPECT_TRUE(Eventually([&] { return Ask(*client_, 200).ok(); }, absl::Minutes(1)));
  EXPECT_EQ(rests_[1].LeftOver(), "");
}

}  // namespace
}  // namespace kvship
