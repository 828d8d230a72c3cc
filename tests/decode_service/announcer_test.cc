#include "decode_service/announcer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace kvship {
namespace {

// Counts what its reader has been told, and reads nothing.
struct Announced {
  explicit Announced(size_t max_waiting_tokens, bool wants_all = false)
      : responses(std::make_shared<ResponseBuffer>(max_waiting_tokens)) {
    responses->OnResponse([this] { ++num_told; }, wants_all);
  }
  void AddTokens(Announcer& announcer, int num_tokens) {
    for (int i = 0; i < num_tokens; ++i) {
      responses->AddOutput("a", {});
      announcer.Add(responses);
    }
  }

  std::atomic<int> num_told{0};
  std::shared_ptr<ResponseBuffer> responses;
};

TEST(Announcer, WhatComesWhileItIsBusyIsAnnouncedOnce) {
  Announced reader(100);
  std::promise<void> begun, go;
  const auto busy = std::make_shared<ResponseBuffer>(1);
  busy->OnResponse([&] {
    begun.set_value();
    go.get_future().wait();
  });
  {
    Announcer announcer;
    busy->AddOutput("a", {});
    announcer.Add(busy);
    begun.get_future().wait();
    reader.AddTokens(announcer, 10);
    EXPECT_EQ(reader.num_told, 0);
    go.set_value();
  }
  EXPECT_EQ(reader.num_told, 1);
}

TEST(Announcer, WhoWantsAllHearsOfHalfTheLimitAndOfTheEnd) {
  Announced reader(10, /*wants_all=*/true);
  {
    Announcer announcer;
    reader.AddTokens(announcer, 4);
  }
  EXPECT_EQ(reader.num_told, 0);
  {
    Announcer announcer;
    reader.AddTokens(announcer, 1);
  }
  EXPECT_EQ(reader.num_told, 1);
  reader.responses->Finish({});
  EXPECT_EQ(reader.num_told, 2);
}

TEST(Announcer, WhoHasHeardOfTheEndHearsNothingMore) {
  Announced reader(10);
  reader.responses->AddOutput("a", {});
  ASSERT_TRUE(reader.responses->WantsAnnouncement());
  reader.responses->Finish({});
  EXPECT_EQ(reader.num_told, 1);
  reader.responses->Announce();
  EXPECT_EQ(reader.num_told, 1);
}

}  // namespace
}  // namespace kvship
