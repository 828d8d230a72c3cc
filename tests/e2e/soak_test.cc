// Mixed load for a while, over gRPC and HTTP, of clients who wait for their answers, read slowly,
// or go: every answer is the undisturbed one, and the servers' memory, threads and descriptors stay
// as many as they were.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/generation_client.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/http_load.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::IsEmpty;
using ::testing::Pair;

// All encoders that suit the tiny model's heads, and several policies.
const std::vector<std::string> kCompressions = {
    "scorer=keep_all,encoder=f16",
    "scorer=snapkv,budget_ratio=0.1,encoder=f16",
    "scorer=snapkv,budget_ratio=0.2,encoder=fp8",
    "scorer=snapkv,allocator=ada,budget_ratio=0.2,encoder=f32",
    "scorer=h2o,budget_ratio=0.2,encoder=bf16",
    "scorer=snapkv,allocator=mass,mass_target=0.7,budget_ratio=0.5,encoder=f16",
    "scorer=streaming_llm,budget_tokens=64,encoder=f16",
    "scorer=keydiff,budget_tokens=64,encoder=f16"};

size_t ResidentBytes(const Server& server) {
  std::ifstream status(absl::StrCat("/proc/", server.process.pid(), "/status"));
  for (std::string line; std::getline(status, line);) {
    size_t kib = 0;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (absl::StartsWith(line, "VmRSS:") && absl::SimpleAtoi(words[1], &kib)) return kib * 1024;
  }
  return 0;
}

// Asks for what cannot be until `stop`; each time it is refused for that.
void AskWrongly(const std::string& address, const std::atomic<bool>& stop) {
  GenerationClient client(address);
  v1::GenerateRequest wrong;
  wrong.mutable_tokens()->add_ids(320);  // one past the vocabulary
  while (!stop) {
    const auto report =
        client.Generate(wrong, absl::Minutes(1), [](const v1::GenerateResponse&) {});
    ASSERT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument) << report.status();
    absl::SleepFor(absl::Milliseconds(20));
  }
}

// Takes the first token of a long answer and cancels the rest until `stop`; how often.
size_t CancelEarly(const std::string& address, const std::atomic<bool>& stop) {
  GenerationClient client(address);
  v1::GenerateRequest request;
  for (uint32_t i = 0; i < 100; ++i) request.mutable_tokens()->add_ids(i * 37 % 320);
  request.set_max_tokens(1000);
  request.set_ignore_end_tokens(true);
  size_t num_cancelled = 0;
  for (; !stop; ++num_cancelled) {
    std::stop_source cancel;
    const auto report = client.Generate(
        request, absl::Minutes(1),
        [&cancel](const v1::GenerateResponse& response) {
          if (response.has_output()) cancel.request_stop();
        },
        cancel.get_token());
    EXPECT_TRUE(absl::IsCancelled(report.status())) << report.status();
    absl::SleepFor(absl::Milliseconds(20));
  }
  return num_cancelled;
}

// All that is asked of a decode server.
class MixedLoad {
 public:
  MixedLoad(const Server& decode, int http_port)
      : address_(decode.address()),
        checked_({.servers = {address_}, .compressions = kCompressions}),
        http_(http_port) {}

  // Until it has lasted as long and all answers are there.
  void Run(absl::Duration duration);
  // Every request had its own right end, and of each kind there were some.
  void Expect() const;

 private:
  const std::string address_;
  CheckedLoad checked_;
  HttpLoad http_;
  size_t num_cancelled_ = 0;
};

void MixedLoad::Run(absl::Duration duration) {
  std::atomic<bool> stop{false};
  checked_.Start();
  http_.Start();
  std::thread wrong([&] { AskWrongly(address_, stop); });
  std::thread cancels([&] { num_cancelled_ += CancelEarly(address_, stop); });
  absl::SleepFor(duration);
  stop = true;
  checked_.Stop();
  http_.Stop();
  wrong.join();
  cancels.join();
}

void MixedLoad::Expect() const {
  EXPECT_THAT(checked_.faults(), IsEmpty());
  EXPECT_THAT(http_.faults(), IsEmpty());
  ASSERT_THAT(checked_.outcomes(), ElementsAre(Pair("OK", Gt(0))));
  using Reader = HttpLoad::Reader;
  const size_t num_whole = http_.num_answers(Reader::kWhole);
  const size_t num_slow = http_.num_answers(Reader::kSlow);
  const size_t num_half = http_.num_answers(Reader::kGoesHalfWay);
  EXPECT_GT(std::min({num_whole, num_slow, num_half, num_cancelled_}), 0u);
  std::cout << absl::StrFormat(
      "%d answers over gRPC, %d calls cancelled after a token; over HTTP %d answers, %d read "
      "slowly, %d left half-way\n",
      checked_.outcomes().at("OK"), num_cancelled_, num_whole, num_slow, num_half);
}

// Runs for `duration` and says what it saw.
void Soak(absl::Duration duration) {
  const std::string model = KVSHIP_GOLDENS "/models/llama";
  // Freed memory that the address sanitizer holds back would look like a leak.
  setenv("ASAN_OPTIONS", "quarantine_size_mb=8", /*overwrite=*/1);
  const int http_port = FreePort();
  // Beginnings of prompts in fewer blocks than there are prompts.
  Server prefill("kvship-prefill", model, {"--threads=2", "--prefix_cache_bytes=1048576"});
  Server decode("kvship-decode", model,
                {absl::StrCat("--prefill=", prefill.address()), "--threads=2",
                 "--pool_bytes=4194304", absl::StrCat("--http=127.0.0.1:", http_port)});
  unsetenv("ASAN_OPTIONS");
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  MixedLoad load(decode, http_port);
  load.Run(duration / 4);
  const Server* const servers[] = {&prefill, &decode};
  std::vector<size_t> resident_bytes;
  std::vector<AtRest> rests;
  for (const Server* server : servers) {
    resident_bytes.push_back(ResidentBytes(*server));
    rests.emplace_back(*server);
  }
  load.Run(duration - duration / 4);
  load.Expect();
  for (size_t i = 0; i < rests.size(); ++i) {
    const size_t now_bytes = ResidentBytes(*servers[i]);
    EXPECT_LE(now_bytes, resident_bytes[i] + resident_bytes[i] / 10 + (size_t{8} << 20));
    EXPECT_EQ(rests[i].LeftOver(), "");
    std::cout << absl::StrFormat("%s after a quarter and at the end: resident MiB %d, %d; %s\n",
                                 i == 0 ? "prefill" : "decode", resident_bytes[i] >> 20,
                                 now_bytes >> 20, rests[i].Text());
  }
  for (Server* server : {&prefill, &decode}) {
    server->process.Signal(SIGTERM);
    EXPECT_EQ(server->process.Wait(), 0) << server->process.Errors();
  }
}

TEST(SoakTest, MixedLoadKeepsAnswersRightAndMemoryFlat) { Soak(absl::Seconds(15)); }

TEST(LongSoakTest, TwentyMinutesOfMixedLoad) { Soak(absl::Minutes(20)); }

}  // namespace
}  // namespace kvship
