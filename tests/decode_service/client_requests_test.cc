#include "decode_service/client_requests.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <new>
#include <vector>

#include "decode_service/rejection.h"
#include "decode_service/running_generations.h"
#include "rpc/errors.h"
#include "tests/no_memory_for.h"

namespace kvship {
namespace {

TEST(ClientRequests, EachClientHasItsOwnPlaces) {
  ClientRequests requests(2);
  auto first = requests.Enter("a");
  const auto second = requests.Enter("a");
  EXPECT_TRUE(first.ok() && second.ok());
  const absl::Status refused = requests.Enter("a").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), kClientLimit);
  EXPECT_TRUE(RetryDelayOf(refused).has_value());
  EXPECT_TRUE(requests.Enter("b").ok());
  *first = nullptr;
  EXPECT_TRUE(requests.Enter("a").ok());
}

TEST(ClientRequests, WhatCannotBeTogetherIsToldAtOnce) {
  const ClientRequests requests(2);
  EXPECT_TRUE(requests.CheckTogether(2).ok());
  EXPECT_EQ(requests.CheckTogether(3).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(ClientRequests(0).CheckTogether(128).ok());
}

TEST(ClientRequests, ZeroIsAnyNumber) {
  ClientRequests requests(0);
  std::vector<ClientRequests::Place> places;
  for (int i = 0; i < 100; ++i) places.push_back(*requests.Enter(""));
}

// Without memory for a place; of it only the size is not known.
template <class Enter>
void EnterWithoutMemory(const Enter& enter) {
  for (size_t num_bytes = 16; num_bytes <= 256; num_bytes += 8) {
    const NoMemoryFor none(num_bytes, /*in_this_thread_alone=*/true);
    try {
      EXPECT_TRUE(enter().ok());
    } catch (const std::bad_alloc&) {
    }
  }
}

TEST(PlacesDeathTest, OneForWhichThereIsNoMemoryHoldsUpNobody) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "sanitizers have an operator new of their own";
  const auto run_out = [] {
    alarm(10);
    ClientRequests clients(1);
    EnterWithoutMemory([&] { return clients.Enter("a"); });
    const auto place = clients.Enter("a");
    RunningGenerations running(1);
    EnterWithoutMemory([&] { return running.Take(); });
    _exit(place.ok() && running.Take().ok() ? 0 : 1);
  };
  EXPECT_EXIT(run_out(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace kvship
