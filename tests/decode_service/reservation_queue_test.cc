#include "decode_service/reservation_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr KvShape kShape = {
    .num_layers = 2, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 64};

// Four slabs of one MiB together; a demand below fills `slabs` of them.
class ReservationQueueTest : public ::testing::Test {
 protected:
  ReservationQueueTest() : pool_(*KvPool::Create(4 * KvPool::kSlabBytes)) {}

  // A prompt whose kept pages take that many slabs: 32 pages of 8 KiB fill one.
  static ReservationQueue::Demand DemandOf(size_t slabs) {
    const CompressionOptions keep_all = *ParseCompression("scorer=keep_all");
    return {.plan = *MakePlan(keep_all, kShape, slabs * 8 * kPageTokens), .max_tail_tokens = 0};
  }

  prometheus::Registry registry_;
  DecodeMetrics metrics_{registry_};
  std::unique_ptr<KvPool> pool_;
  ReservationQueue queue_{*pool_, metrics_, kShape, PageFormat::kF16, 10 * 256};
};

// A request in the queue, and what it was given.
struct Request {
  Request(ReservationQueue& queue, ReservationQueue::Demand demand) : ticket(*queue.Enter(demand)) {
    queue.Reserve(*ticket, demand, [this](absl::StatusOr<ReservationQueue::Cache> given) {
      cache = *std::move(given);
    });
  }
  ReservationQueue::Cache cache;
  std::unique_ptr<ReservationQueue::Ticket> ticket;
};

TEST_F(ReservationQueueTest, GivesPagesAtOnceWhileThereAreSome) {
  Request request(queue_, DemandOf(3));
  ASSERT_NE(request.cache, nullptr);
  EXPECT_EQ(pool_->reserved_bytes(), 3 * KvPool::kSlabBytes);
  EXPECT_EQ(queue_.waiting_tokens(), 0u);
  request.cache.reset();
  EXPECT_EQ(pool_->reserved_bytes(), 0u);
}

TEST_F(ReservationQueueTest, SmallRequestDoesNotOvertakeALargeOne) {
  Request first(queue_, DemandOf(3));
  Request large(queue_, DemandOf(2));
  Request small(queue_, DemandOf(1));
  EXPECT_EQ(large.cache, nullptr);
  EXPECT_EQ(small.cache, nullptr);
  EXPECT_EQ(queue_.waiting_tokens(), 3 * 256u);
  first.cache.reset();
  EXPECT_NE(large.cache, nullptr);
  EXPECT_NE(small.cache, nullptr);
  EXPECT_EQ(queue_.waiting_tokens(), 0u);
}

TEST_F(ReservationQueueTest, WhoLeavesTheLineMakesWayForThoseBehind) {
  Request first(queue_, DemandOf(3));
  Request large(queue_, DemandOf(2));
  Request small(queue_, DemandOf(1));
  large.ticket.reset();
  EXPECT_NE(small.cache, nullptr);
  first.cache.reset();
  EXPECT_EQ(large.cache, nullptr);
  EXPECT_EQ(queue_.waiting_tokens(), 0u);
}

TEST_F(ReservationQueueTest, MoreThanTheWholePoolIsRefusedForGood) {
  const auto ticket = queue_.Enter(DemandOf(5));
  EXPECT_EQ(ticket.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(ticket.status().message()), HasSubstr("1310720 bytes"));
  EXPECT_THAT(std::string(ticket.status().message()), HasSubstr("1048576"));
}

TEST_F(ReservationQueueTest, RoomForOutputTokensCounts) {
  ReservationQueue::Demand demand = DemandOf(4);
  demand.max_tail_tokens = 1;
  EXPECT_EQ(queue_.Enter(demand).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ReservationQueueTest, FullQueueRefusesForNow) {
  std::vector<std::unique_ptr<ReservationQueue::Ticket>> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(*queue_.Enter(DemandOf(3)));
  const auto refused = queue_.Enter(DemandOf(2));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("takes 2560 in all"));
  EXPECT_TRUE(queue_.Enter(DemandOf(1)).ok());
  waiting.pop_back();
  EXPECT_TRUE(queue_.Enter(DemandOf(2)).ok());
}

TEST_F(ReservationQueueTest, OnePromptLongerThanTheBoundMayWaitAlone) {
  ReservationQueue short_queue(*pool_, metrics_, kShape, PageFormat::kF16, 10);
  EXPECT_TRUE(short_queue.Enter(DemandOf(2)).ok());
}

TEST_F(ReservationQueueTest, RequestsAreServedInTheOrderInWhichTheyAsked) {
  Request first(queue_, DemandOf(4));
  std::vector<int> served;
  std::vector<std::unique_ptr<ReservationQueue::Ticket>> tickets;
  for (int i = 0; i < 4; ++i) {
    tickets.push_back(*queue_.Enter(DemandOf(1)));
    queue_.Reserve(*tickets.back(), DemandOf(1),
                   [&served, i](absl::StatusOr<ReservationQueue::Cache>) { served.push_back(i); });
  }
  first.cache.reset();
  EXPECT_THAT(served, ElementsAre(0, 1, 2, 3));
}

}  // namespace
}  // namespace kvship
