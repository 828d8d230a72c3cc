// Mixed load for a while: every answer is the undisturbed one, and the servers' memory stays flat.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/random.h"
#include "client/generation_client.h"
#include "rpc/compression.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

constexpr size_t kNumQuestions = 24;
constexpr size_t kNumClients = 6;

struct Question {
  v1::GenerateRequest request;
  std::vector<uint32_t> answer;
};

struct Answer {
  absl::Status status;
  std::vector<uint32_t> tokens;
};

Answer Ask(GenerationClient& client, const v1::GenerateRequest& request, absl::Duration timeout) {
  Answer answer;
  answer.status = client
                      .Generate(request, absl::Now() + timeout,
                                [&](const v1::GenerateResponse& response) {
                                  for (const auto& token : response.output().tokens()) {
                                    answer.tokens.push_back(token.token_id());
                                  }
                                })
                      .status();
  return answer;
}

// Prompts of 1 to 1,500 tokens, all encoders, several policies, greedy and sampled.
v1::GenerateRequest RandomRequest(uint64_t seed) {
  static constexpr const char* kCompressions[] = {
      "scorer=keep_all,encoder=f16",
      "scorer=snapkv,budget_ratio=0.1,encoder=f16",
      "scorer=snapkv,budget_ratio=0.2,encoder=fp8",
      "scorer=snapkv,allocator=ada,budget_ratio=0.2,encoder=f32",
      "scorer=h2o,budget_ratio=0.2,encoder=bf16",
      "scorer=snapkv,allocator=mass,mass_target=0.7,budget_ratio=0.5,encoder=f16",
      "scorer=streaming_llm,budget_tokens=64,encoder=f16",
      "scorer=keydiff,budget_tokens=64,encoder=f16"};
  v1::GenerateRequest request;
  const size_t length = 1 + RandomBits(seed, 0) % 1500;
  for (size_t i = 0; i < length; ++i)
    request.mutable_tokens()->add_ids(RandomBits(seed, 1 + i) % 320);
  *request.mutable_compression() = *CompressionFromText(kCompressions[seed % 8]);
  request.set_max_tokens(1 + RandomBits(seed, 1) % 64);
  request.set_ignore_end_tokens(true);
  if (seed % 3 == 0) {
    request.mutable_sampling()->set_temperature(0.8F);
    request.mutable_sampling()->set_seed(seed);
  }
  return request;
}

size_t ResidentBytes(const Server& server) {
  std::ifstream status(absl::StrCat("/proc/", server.process.pid(), "/status"));
  for (std::string line; std::getline(status, line);) {
    size_t kib = 0;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (absl::StartsWith(line, "VmRSS:") && absl::SimpleAtoi(words[1], &kib)) return kib * 1024;
  }
  return 0;
}

// One client's share of the load until `end`: most requests in full, some that end early.
void MixedLoad(const std::string& address, const std::vector<Question>& questions, uint64_t seed,
               absl::Time end, std::atomic<size_t>& num_answers) {
  GenerationClient client(address);
  for (uint64_t i = 0; absl::Now() < end; ++i) {
    const Question& question = questions[RandomBits(seed, 2 * i) % questions.size()];
    const uint64_t kind = RandomBits(seed, 2 * i + 1) % 10;
    if (kind == 0) {
      v1::GenerateRequest wrong = question.request;
      wrong.mutable_tokens()->add_ids(320);
      ASSERT_EQ(Ask(client, wrong, absl::Minutes(1)).status.code(),
                absl::StatusCode::kInvalidArgument);
      continue;
    }
    // Two in ten at a deadline that many do not meet, which frees what they hold in any phase.
    const bool hurried = kind <= 2;
    const Answer answer =
        Ask(client, question.request,
            hurried ? absl::Milliseconds(RandomBits(seed, i) % 60) : absl::Minutes(5));
    if (answer.status.ok()) {
      ASSERT_EQ(answer.tokens, question.answer);
      ++num_answers;
      continue;
    }
    ASSERT_TRUE(hurried) << answer.status;
    ASSERT_EQ(answer.status.code(), absl::StatusCode::kDeadlineExceeded) << answer.status;
    ASSERT_LE(answer.tokens.size(), question.answer.size());
    ASSERT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), question.answer.begin()));
  }
}

// Runs for `duration` and says what it saw.
void Soak(absl::Duration duration) {
  const std::string model = KVSHIP_GOLDENS "/models/llama";
  // Freed memory that the address sanitizer holds back would look like a leak.
  setenv("ASAN_OPTIONS", "quarantine_size_mb=8", /*overwrite=*/1);
  Server prefill("kvship-prefill", model, {"--threads=2"});
  Server decode(
      "kvship-decode", model,
      {absl::StrCat("--prefill=", prefill.address()), "--threads=2", "--pool_bytes=4194304"});
  unsetenv("ASAN_OPTIONS");
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  std::vector<Question> questions(kNumQuestions);
  GenerationClient client(decode.address());
  for (size_t i = 0; i < questions.size(); ++i) {
    questions[i].request = RandomRequest(i);
    const Answer answer = Ask(client, questions[i].request, absl::Minutes(5));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    questions[i].answer = answer.tokens;
  }
  std::atomic<size_t> num_answers{0};
  std::vector<std::thread> clients;
  const absl::Time begin = absl::Now();
  for (size_t i = 0; i < kNumClients; ++i) {
    clients.emplace_back([&, i] {
      MixedLoad(decode.address(), questions, 1000 + i, begin + duration, num_answers);
    });
  }
  absl::SleepFor(duration / 4);
  const size_t warm[] = {ResidentBytes(prefill), ResidentBytes(decode)};
  for (std::thread& thread : clients) thread.join();
  const size_t end[] = {ResidentBytes(prefill), ResidentBytes(decode)};
  std::cout << absl::StrFormat(
      "%d answers in %.0f s; resident MiB after a quarter and at the end: prefill %d, %d; decode "
      "%d, %d\n",
      num_answers.load(), absl::ToDoubleSeconds(absl::Now() - begin), warm[0] >> 20, end[0] >> 20,
      warm[1] >> 20, end[1] >> 20);
  EXPECT_GT(num_answers, 0);
  EXPECT_EQ(decode.metric("kvship_decode_pool_reserved_bytes"), 0);
  EXPECT_TRUE(Eventually([&] { return prefill.metric("kvship_prefill_active_requests") == 0; }));
  for (int i = 0; i < 2; ++i) EXPECT_LE(end[i], warm[i] + warm[i] / 10 + (size_t{8} << 20));
  for (Server* server : {&prefill, &decode}) {
    server->process.Signal(SIGTERM);
    EXPECT_EQ(server->process.Wait(), 0) << server->process.Errors();
  }
}

TEST(SoakTest, MixedLoadKeepsAnswersRightAndMemoryFlat) { Soak(absl::Seconds(15)); }

TEST(LongSoakTest, TwentyMinutesOfMixedLoad) { Soak(absl::Minutes(20)); }

}  // namespace
}  // namespace kvship
