#include "decode_service/http/parse_turns.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <vector>

#include "base/clock.h"

namespace kvship {
namespace {

class ParseTurnsTest : public ::testing::Test {
 protected:
  using Wait = std::future<absl::StatusOr<ParseTurns::Turn>>;

  // Returns when the wait has begun, if it does not end at once.
  Wait StartWait(size_t body_bytes, absl::Time deadline = absl::InfiniteFuture()) {
    const int before = num_asked_;
    Wait wait = std::async(std::launch::async, [this, body_bytes, deadline] {
      return turns_.Wait(body_bytes, deadline, [this] {
        ++num_asked_;
        return client_has_gone_.load();
      });
    });
    while (num_asked_ < before + 1 && !HasEnded(wait)) {
    }
    return wait;
  }
  static bool HasEnded(const Wait& wait) {
    return wait.wait_for(std::chrono::milliseconds(1)) == std::future_status::ready;
  }

  std::atomic<int> num_asked_{0};
  std::atomic<bool> client_has_gone_{false};
  ParseTurns turns_{100};
};

TEST_F(ParseTurnsTest, ABodyWaitsUntilThoseBeforeItLeaveRoom) {
  auto first = StartWait(60).get(), second = StartWait(40).get();
  Wait third = StartWait(50);
  second = absl::CancelledError();
  EXPECT_FALSE(HasEnded(third));
  first = absl::CancelledError();
  EXPECT_TRUE(third.get().ok());
  EXPECT_TRUE(StartWait(100).get().ok());
}

TEST_F(ParseTurnsTest, SmallBodiesWaitBehindALargeOne) {
  auto first = StartWait(60).get();
  Wait large = StartWait(100);
  std::vector<Wait> small;
  for (int i = 0; i < 3; ++i) small.push_back(StartWait(30));
  for (const Wait& wait : small) EXPECT_FALSE(HasEnded(wait));
  first = absl::CancelledError();
  {
    const auto turn = large.get();
    EXPECT_TRUE(turn.ok());
    for (const Wait& wait : small) EXPECT_FALSE(HasEnded(wait));
  }
  for (Wait& wait : small) EXPECT_TRUE(wait.get().ok());
}

TEST_F(ParseTurnsTest, ADeadlineEndsAWaitAndLetsTheNextOneGoOn) {
  const auto first = StartWait(60).get();
  Wait large = StartWait(100, MonotonicNow() + absl::Seconds(1));
  Wait small = StartWait(30);
  EXPECT_TRUE(absl::IsDeadlineExceeded(large.get().status()));
  EXPECT_TRUE(small.get().ok());
  // What has room need not wait, whatever its deadline.
  EXPECT_TRUE(StartWait(30, MonotonicNow()).get().ok());
}

TEST_F(ParseTurnsTest, NobodyWaitsForAClientThatHasGone) {
  const auto first = StartWait(60).get();
  Wait large = StartWait(100);
  client_has_gone_ = true;
  EXPECT_TRUE(absl::IsCancelled(large.get().status()));
}

TEST_F(ParseTurnsTest, AllWaitsEndTogether) {
  const auto first = StartWait(60).get();
  Wait large = StartWait(100), small = StartWait(30);
  const absl::Status why = absl::UnavailableError("the server is shutting down");
  turns_.EndAll(why);
  EXPECT_EQ(large.get().status(), why);
  EXPECT_EQ(small.get().status(), why);
  EXPECT_EQ(StartWait(30).get().status(), why);
}

}  // namespace
}  // namespace kvship
