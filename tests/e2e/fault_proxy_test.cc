// Requests while a proxy between a decode process and two prefill processes breaks what they send.
#include "tests/e2e/fault_proxy.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/random.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
// Of the decode node, for requests that have none: shorter than it takes to give a silent node up.
constexpr absl::Duration kServerDeadline = absl::Seconds(2);

using Kind = FaultProxy::Kind;
// Every kind but those that end nothing by themselves. After bytes that are lost, repeated or
// swapped both ends may wait until the connection is given up as silent.
constexpr Kind kRandomKinds[] = {Kind::kCut,  Kind::kTruncate, Kind::kDelay, Kind::kCorrupt,
                                 Kind::kLose, Kind::kRepeat,   Kind::kSwap};

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
        std::vector<std::string>{
            "--threads=1",
            absl::StrCat("--default_deadline=", absl::FormatDuration(kServerDeadline)),
            absl::StrCat("--prefill=", proxies_[0]->address(), ",", proxies_[1]->address())});
    for (const auto& prefill : prefills_) {
      EXPECT_TRUE(prefill->WaitUntilReady()) << prefill->process.Errors();
    }
    EXPECT_TRUE(decode_->WaitUntilReady()) << decode_->process.Errors();
    WaitUntilBothServe();
    client_ = std::make_unique<GenerationClient>(decode_->address(),
                                                 GenerationClient::Options{.retries = 0});
    EXPECT_EQ(requests_.Learn(*client_), absl::OkStatus());
    SendAtOnce(absl::Minutes(1));  // so that each process has all threads that it needs
    num_ok_undisturbed_ = requests_.outcomes()["OK"];
    for (const auto& prefill : prefills_) rests_.emplace_back(*prefill);
    rests_.emplace_back(*decode_);
  }

  // On a busy machine one may be known long before the other.
  void WaitUntilBothServe() const {
    EXPECT_TRUE(Eventually([this] { return decode_->num_serving_nodes() == 2; }));
  }

  // Sends eight requests at the same time; no wrong token, but any end that tells what to do.
  void SendAtOnce(absl::Duration timeout);

  // Sends requests, four at a time, one of five without a deadline, until `num_faults` have
  // happened or `most_time` has passed. Each kind must have happened, and some answers have come.
  void RunThroughFaults(size_t num_faults, absl::Duration most_time);
  void ExpectNothingIsLeft();

  size_t count(Kind kind) const { return proxies_[0]->count(kind) + proxies_[1]->count(kind); }
  size_t num_faults() const {
    size_t sum = 0;
    for (const Kind kind : kRandomKinds) sum += count(kind);
    return sum;
  }

  std::vector<std::unique_ptr<Server>> prefills_;
  std::vector<std::unique_ptr<FaultProxy>> proxies_;
  std::unique_ptr<Server> decode_;
  std::unique_ptr<GenerationClient> client_;
  CheckedRequests requests_;
  size_t num_ok_undisturbed_ = 0;  // of requests before the test's own
  std::vector<AtRest> rests_;
};

FaultProxy::Fault RandomFault(uint64_t index) {
  uint64_t draw = 0;
  const auto next = [&](uint64_t bound) { return RandomBits(index, draw++) % bound; };
  return {.kind = kRandomKinds[index % std::size(kRandomKinds)],
          // At once, or in one of the next few requests: nodes that fail again and again are left
          // alone for longer and longer.
          .after_bytes = next(4) == 0 ? next(500) : next(500'000),
          .from_target = next(4) != 0,
          .num_bytes = 1 + next(40),
          .time = absl::Milliseconds(next(50))};
}

void FaultProxyTest::SendAtOnce(absl::Duration timeout) {
  std::vector<std::thread> clients;
  for (size_t c = 0; c < 8; ++c) {
    clients.emplace_back([this, c, timeout] {
      const absl::Status end = requests_.Send(*client_, c, timeout);
      EXPECT_FALSE(absl::IsInternal(end)) << end;
    });
  }
  for (std::thread& client : clients) client.join();
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
        const size_t index = next++;
        const absl::Status end =
            index % 5 == 4 ? requests_.SendWithoutDeadline(*client_, index, kServerDeadline)
                           : requests_.Send(*client_, index, absl::Seconds(4));
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
  for (const Kind kind : kRandomKinds) {
    std::printf(" %s %zu", FaultProxy::NameOf(kind), count(kind));
    EXPECT_GT(count(kind), 0u) << FaultProxy::NameOf(kind);
  }
  std::printf("; requests: %s; with the server's deadline: %s\n",
              absl::StrJoin(requests_.outcomes(), ", ", absl::PairFormatter(" ")).c_str(),
              absl::StrJoin(requests_.undated_outcomes(), ", ", absl::PairFormatter(" ")).c_str());
  EXPECT_GT(requests_.outcomes()["OK"], num_ok_undisturbed_);
  EXPECT_GT(requests_.undated_outcomes()["OK"], 0u);
}

void FaultProxyTest::ExpectNothingIsLeft() {
  for (const AtRest& rest : rests_) EXPECT_EQ(rest.LeftOver(), "") << decode_->process.Errors();
}

TEST_F(FaultProxyTest, BrokenBytesGiveNoWrongTokenAndLeaveNothing) {
  RunThroughFaults(/*num_faults=*/35, /*most_time=*/absl::Minutes(1));
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
  SendAtOnce(absl::Seconds(3));
  EXPECT_GT(requests_.outcomes()["OK"], num_ok_undisturbed_);
  EXPECT_TRUE(Eventually([&] {
    for (size_t i = 0; i < 8; ++i) {
      if (!requests_.Send(*client_, i, absl::Seconds(2)).ok()) return false;
    }
    return true;
  }));
  proxies_[0]->SetStalled(false);
  ExpectNothingIsLeft();
}

TEST_F(FaultProxyTest, ARequestWithoutADeadlineIsEndedByTheServersWhileAllNodesAreSilent) {
  for (const auto& proxy : proxies_) proxy->SetStalled(true);
  std::vector<std::thread> clients;
  for (size_t c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      const absl::Status end = requests_.SendWithoutDeadline(*client_, c, kServerDeadline);
      EXPECT_EQ(end.code(), absl::StatusCode::kDeadlineExceeded) << end;
    });
  }
  for (std::thread& client : clients) client.join();
  for (const auto& proxy : proxies_) proxy->SetStalled(false);
  ExpectNothingIsLeft();
}

TEST_F(FaultProxyTest, RequestsOnAConnectionThatSwallowsBytesEndWellWithinTheirDeadline) {
  struct Case {
    std::vector<FaultProxy*> swallowing;
    size_t retries = 0;
  };
  // With another node left, the decode node turns to it; without, the client comes again.
  const Case cases[] = {{{proxies_[0].get()}, 0}, {{proxies_[0].get(), proxies_[1].get()}, 3}};
  for (const Case& now : cases) {
    WaitUntilBothServe();
    for (FaultProxy* proxy : now.swallowing) {
      proxy->Arm({.kind = FaultProxy::Kind::kSwallow, .from_target = now.retries > 0});
      ASSERT_TRUE(Eventually([proxy] { return !proxy->armed(); }));
    }
    GenerationClient client(decode_->address(), {.retries = now.retries});
    const absl::Time begin = MonotonicNow();
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 6; ++i) {
      threads.emplace_back(
          [&, i] { EXPECT_EQ(requests_.Send(client, i, absl::Minutes(1)), absl::OkStatus()); });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_LT(MonotonicNow() - begin, absl::Seconds(25));
  }
  ExpectNothingIsLeft();
}

}  // namespace
}  // namespace kvship
