// Requests while a proxy between a decode process and two prefill processes breaks what they send.
#include "tests/e2e/fault_proxy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/random.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

class FaultProxyTest : public ::testing::Test {
 protected:
  FaultProxyTest() {
    for (int i = 0; i < 2; ++i) {
      prefills_.push_back(std::make_unique<Server>("kvship-prefill", kModel,
                                                   std::vector<std::string>{"--threads=1"}));
      proxies_.push_back(std::make_unique<FaultProxy>(prefills_.back()->port));
    }
    decode_ = std::make_unique<Server>(
        "kvship-decode", kModel,
        std::vector<std::string>{"--threads=1", absl::StrCat("--prefill=", proxies_[0]->address(),
                                                             ",", proxies_[1]->address())});
    for (const auto& prefill : prefills_) {
      EXPECT_TRUE(prefill->WaitUntilReady()) << prefill->process.Errors();
    }
    EXPECT_TRUE(decode_->WaitUntilReady()) << decode_->process.Errors();
    client_ = std::make_unique<GenerationClient>(decode_->address(),
                                                 GenerationClient::Options{.retries = 0});
    EXPECT_EQ(requests_.Learn(*client_), absl::OkStatus());
  }

  // Sends requests, four at a time, until `num_faults` have happened or `most_time` has passed;
  // every kind but stalls, which end nothing by themselves.
  void RunThroughFaults(size_t num_faults, absl::Duration most_time);
  void ExpectNothingIsLeft();

  size_t num_faults() const {
    size_t sum = 0;
    for (const auto& proxy : proxies_) {
      for (size_t kind = 0; kind < FaultProxy::kKinds; ++kind) {
        sum += proxy->count(static_cast<FaultProxy::Kind>(kind));
      }
    }
    return sum;
  }

  std::vector<std::unique_ptr<Server>> prefills_;
  std::vector<std::unique_ptr<FaultProxy>> proxies_;
  std::unique_ptr<Server> decode_;
  std::unique_ptr<GenerationClient> client_;
  CheckedRequests requests_;
};

FaultProxy::Fault RandomFault(uint64_t index) {
  uint64_t draw = 0;
  const auto next = [&](uint64_t bound) { return RandomBits(index, draw++) % bound; };
  // After bytes that are lost or repeated both ends may wait until the connection's keepalive
  // passes.
  using Kind = FaultProxy::Kind;
  constexpr Kind kKinds[] = {Kind::kCut,   Kind::kCut,     Kind::kCut,     Kind::kDelay,
                             Kind::kDelay, Kind::kCorrupt, Kind::kCorrupt, Kind::kCorrupt,
                             Kind::kLose,  Kind::kRepeat};
  return {.kind = kKinds[next(std::size(kKinds))],
          // At once, or in one of the next few requests: nodes that fail again and again are left
          // alone for longer and longer.
          .after_bytes = next(4) == 0 ? next(500) : next(500'000),
          .from_target = next(4) != 0,
          .num_bytes = 1 + next(40),
          .time = absl::Milliseconds(next(50))};
}

void FaultProxyTest::RunThroughFaults(size_t num_faults, absl::Duration most_time) {
  constexpr size_t kClients = 4;
  const absl::Time end_time = MonotonicNow() + most_time;
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::vector<std::thread> clients;
  const auto goes_on = [&] {
    return this->num_faults() < num_faults && MonotonicNow() < end_time && !failed;
  };
  for (size_t c = 0; c < kClients; ++c) {
    clients.emplace_back([&] {
      while (goes_on()) {
        const absl::Status end = requests_.Send(*client_, next++, absl::Seconds(4));
        if (absl::IsInternal(end)) failed = true;
        EXPECT_FALSE(absl::IsInternal(end)) << end;
        // As clients that are told to come again do.
        if (absl::IsUnavailable(end)) absl::SleepFor(absl::Milliseconds(20));
      }
    });
  }
  uint64_t index = 0;
  while (goes_on()) {
    for (const auto& proxy : proxies_) {
      if (!proxy->armed()) proxy->Arm(RandomFault(index++));
    }
    absl::SleepFor(absl::Milliseconds(2));
  }
  for (std::thread& client : clients) client.join();
  std::printf("faults:");
  for (size_t kind = 0; kind < FaultProxy::kKinds; ++kind) {
    const auto k = static_cast<FaultProxy::Kind>(kind);
    std::printf(" %s %zu", FaultProxy::NameOf(k), proxies_[0]->count(k) + proxies_[1]->count(k));
  }
  std::printf("; requests: %s\n",
              absl::StrJoin(requests_.outcomes(), ", ", absl::PairFormatter(" ")).c_str());
}

void FaultProxyTest::ExpectNothingIsLeft() {
  EXPECT_TRUE(
      Eventually([&] { return decode_->metric("kvship_decode_pool_reserved_bytes") == 0; }));
  EXPECT_TRUE(
      Eventually([&] { return decode_->metric("kvship_decode_waiting_prompt_tokens") == 0; }));
  for (const auto& prefill : prefills_) {
    EXPECT_TRUE(Eventually([&] { return prefill->metric("kvship_prefill_queue_tokens") == 0; }));
  }
}

TEST_F(FaultProxyTest, BrokenBytesGiveNoWrongTokenAndLeaveNothing) {
  RunThroughFaults(/*num_faults=*/100, /*most_time=*/absl::Seconds(20));
  EXPECT_GT(num_faults(), 5u);
  EXPECT_GT(requests_.outcomes()["OK"], 0u);
  ExpectNothingIsLeft();
  // Nodes that failed again and again are left alone for half a minute.
  EXPECT_TRUE(Eventually([&] { return requests_.Send(*client_, 0, absl::Seconds(4)).ok(); },
                         absl::Seconds(90)))
      << decode_->process.Errors();
}

using LongFaultProxyTest = FaultProxyTest;

TEST_F(LongFaultProxyTest, BrokenBytesGiveNoWrongTokenAndLeaveNothing) {
  RunThroughFaults(/*num_faults=*/2000, /*most_time=*/absl::Minutes(20));
  ExpectNothingIsLeft();
}

TEST_F(FaultProxyTest, ANodeThatFallsSilentIsPassedBy) {
  proxies_[0]->SetStalled(true);
  // Until it is known to be silent, requests may end at their deadline.
  std::vector<std::thread> clients;
  for (size_t c = 0; c < 8; ++c) {
    clients.emplace_back(
        [&, c] { EXPECT_FALSE(absl::IsInternal(requests_.Send(*client_, c, absl::Seconds(3)))); });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(requests_.outcomes()["OK"], 0u);
  EXPECT_TRUE(Eventually([&] {
    for (size_t i = 0; i < 8; ++i) {
      if (!requests_.Send(*client_, i, absl::Seconds(2)).ok()) return false;
    }
    return true;
  }));
  proxies_[0]->SetStalled(false);
  ExpectNothingIsLeft();
}

TEST_F(FaultProxyTest, AConnectionThatSwallowsBytesIsReplacedWithinSeconds) {
  for (const bool from_target : {false, true}) {
    for (const auto& proxy : proxies_) {
      proxy->Arm({.kind = FaultProxy::Kind::kSwallow, .from_target = from_target});
    }
    const auto is_armed = [](const auto& proxy) { return proxy->armed(); };
    ASSERT_TRUE(
        Eventually([&] { return std::none_of(proxies_.begin(), proxies_.end(), is_armed); }));
    const absl::Time begin = MonotonicNow();
    std::vector<std::thread> clients;
    for (size_t c = 0; c < 4; ++c) {
      clients.emplace_back(
          [&, c] { EXPECT_EQ(requests_.Send(*client_, c, absl::Minutes(1)), absl::OkStatus()); });
    }
    for (std::thread& client : clients) client.join();
    EXPECT_LT(MonotonicNow() - begin, absl::Seconds(15));
  }
  ExpectNothingIsLeft();
}

}  // namespace
}  // namespace kvship
