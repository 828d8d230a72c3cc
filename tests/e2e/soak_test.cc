// Mixed load for a while: every answer is the undisturbed one, and the servers' memory stays flat.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

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
#include "client/generation_client.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
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
  CheckedLoad load({.servers = {decode.address()}, .compressions = kCompressions});
  std::atomic<bool> stop{false};
  const absl::Time begin = MonotonicNow();
  load.Start();
  std::thread wrong([&] { AskWrongly(decode.address(), stop); });
  absl::SleepFor(duration / 4);
  const size_t warm[] = {ResidentBytes(prefill), ResidentBytes(decode)};
  absl::SleepFor(duration - duration / 4);
  load.Stop();
  stop = true;
  wrong.join();
  const size_t end[] = {ResidentBytes(prefill), ResidentBytes(decode)};
  EXPECT_THAT(load.faults(), IsEmpty());
  ASSERT_THAT(load.outcomes(), ElementsAre(Pair("OK", ::testing::Gt(0))));
  std::cout << absl::StrFormat(
      "%d answers in %.0f s; resident MiB after a quarter and at the end: prefill %d, %d; decode "
      "%d, %d\n",
      load.outcomes().at("OK"), absl::ToDoubleSeconds(MonotonicNow() - begin), warm[0] >> 20,
      end[0] >> 20, warm[1] >> 20, end[1] >> 20);
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
