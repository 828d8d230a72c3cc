#include "decode_service/reservation_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"
#include "service/metric_values.h"
#include "tests/address_limit.h"
#include "tests/no_memory_for.h"
#include "tests/sanitized.h"

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
  static ReservationQueue::Demand DemandOf(size_t slabs, const std::string& client = "") {
    const CompressionOptions keep_all = *ParseCompression("scorer=keep_all");
    return {.plan = *MakePlan(keep_all, kShape, slabs * 8 * kPageTokens),
            .max_tail_tokens = 0,
            .client = client};
  }

  prometheus::Registry registry_;
  DecodeMetrics metrics_{registry_};
  std::unique_ptr<KvPool> pool_;
  ReservationQueue queue_{
      *pool_, metrics_, kShape, PageFormat::kF16, {.max_waiting_tokens = 10 * 256}};
};

// A request in the queue, and what it was given.
struct Request {
  Request(ReservationQueue& queue, const ReservationQueue::Demand& demand)
      : ticket(*queue.Enter(demand)) {
    StandInLine(queue);
  }
  void StandInLine(ReservationQueue& queue) {
    queue.StandInLine(*ticket, [this](absl::StatusOr<ReservationQueue::Cache> given) {
      cache = *std::move(given);
    });
    queue.ServeLine();
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

TEST_F(ReservationQueueTest, WhoWasServedInVainIsCountedAgainInLine) {
  Request other(queue_, DemandOf(3));
  Request request(queue_, DemandOf(1));
  request.cache.reset();  // its prefill node was lost
  Request third(queue_, DemandOf(1));
  request.StandInLine(queue_);
  EXPECT_EQ(request.cache, nullptr);
  EXPECT_EQ(queue_.waiting_tokens(), 256u);
  third.cache.reset();
  EXPECT_NE(request.cache, nullptr);
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

// Pages of two sizes do not share slabs.
TEST_F(ReservationQueueTest, WhatFitsInBytesButNotInSlabsIsRefusedForGood) {
  ReservationQueue::Demand demand = DemandOf(4);
  demand.plan =
      *MakePlan(*ParseCompression("scorer=keep_all,encoder=int8"), kShape, 54 * kPageTokens);
  demand.max_tail_tokens = 1;
  ASSERT_LT(SequenceCache::BytesFor(kShape, demand.plan, 1, PageFormat::kF16),
            pool_->capacity_bytes());
  const auto ticket = queue_.Enter(demand);
  EXPECT_EQ(ticket.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(ticket.status().message()), HasSubstr("needs 1310720 bytes"));
}

TEST_F(ReservationQueueTest, WaitingAndStandingInLineAreToldApart) {
  const auto gauge = [this](const char* name) {
    return MetricValues(registry_).Sum(absl::StrCat("kvship_decode_", name, "_prompt_tokens"));
  };
  const auto in_line = [this] {
    return MetricValues(registry_).Sum("kvship_decode_line_requests");
  };
  Request first(queue_, DemandOf(3));
  const auto early = *queue_.Enter(DemandOf(1));  // at a prefill node, say
  EXPECT_EQ(gauge("waiting"), 256);
  EXPECT_EQ(gauge("line"), 0);
  EXPECT_EQ(in_line(), 0);
  EXPECT_EQ(MetricValues(registry_).Sum("kvship_decode_pool_fill_ratio"), 0.75);
  Request large(queue_, DemandOf(2));
  EXPECT_EQ(gauge("waiting"), 3 * 256);
  EXPECT_EQ(gauge("line"), 2 * 256);
  {
    Request gone(queue_, DemandOf(3));
    EXPECT_EQ(gauge("line"), 5 * 256);
    EXPECT_EQ(in_line(), 2);
  }
  EXPECT_EQ(gauge("line"), 2 * 256);
  first.cache.reset();
  EXPECT_NE(large.cache, nullptr);
  EXPECT_EQ(gauge("line"), 0);
  EXPECT_EQ(gauge("waiting"), 256);
}

TEST_F(ReservationQueueTest, FullQueueRefusesForNow) {
  std::vector<std::unique_ptr<ReservationQueue::Ticket>> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(*queue_.Enter(DemandOf(3)));
  const auto refused = queue_.Enter(DemandOf(2));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("takes 2560 in all"));
  EXPECT_EQ(ReasonOf(refused.status()), kPrefillFull) << "the pool is empty";
  EXPECT_TRUE(queue_.Enter(DemandOf(1)).ok());
  waiting.pop_back();
  EXPECT_TRUE(queue_.Enter(DemandOf(2)).ok());
}

TEST_F(ReservationQueueTest, RequestsThatWaitAreBoundedHoweverShort) {
  ReservationQueue queue(*pool_, metrics_, kShape, PageFormat::kF16, {.max_waiting_requests = 2});
  const auto served = *queue.Enter(DemandOf(1));
  const auto waiting = *queue.Enter(DemandOf(1));
  const auto refused = queue.Enter(DemandOf(1));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("2 requests wait already; this server's queue takes 2"));
  const auto cache = queue.TryReserve(*served);
  EXPECT_TRUE(queue.Enter(DemandOf(1)).ok());
  queue.WaitAgain(*served);
  EXPECT_FALSE(queue.Enter(DemandOf(1)).ok());
}

TEST_F(ReservationQueueTest, ARefusalBehindALineIsForWantOfRoomInThePool) {
  Request all(queue_, DemandOf(4));
  std::vector<std::unique_ptr<Request>> line;
  for (int i = 0; i < 3; ++i) line.push_back(std::make_unique<Request>(queue_, DemandOf(3)));
  EXPECT_EQ(ReasonOf(queue_.Enter(DemandOf(2)).status()), kPoolFull);
}

TEST_F(ReservationQueueTest, OnePromptLongerThanTheBoundMayWaitAlone) {
  ReservationQueue short_queue(*pool_, metrics_, kShape, PageFormat::kF16,
                               {.max_waiting_tokens = 10});
  EXPECT_TRUE(short_queue.Enter(DemandOf(2)).ok());
}

TEST_F(ReservationQueueTest, RequestsAreServedInTheOrderInWhichTheyArrived) {
  Request first(queue_, DemandOf(4));
  std::vector<int> served;
  std::vector<std::unique_ptr<ReservationQueue::Ticket>> tickets;
  for (int i = 0; i < 4; ++i) tickets.push_back(*queue_.Enter(DemandOf(1)));
  for (int i : {2, 0, 3, 1}) {
    queue_.StandInLine(*tickets[i], [&served, i](absl::StatusOr<ReservationQueue::Cache>) {
      served.push_back(i);
    });
  }
  queue_.ServeLine();
  EXPECT_TRUE(served.empty());
  first.cache.reset();
  EXPECT_THAT(served, ElementsAre(0, 1, 2, 3));
}

TEST_F(ReservationQueueTest, WhoIsReadyAtOnceDoesNotOvertakeWhoStandsInLine) {
  Request first(queue_, DemandOf(3));
  Request large(queue_, DemandOf(2));
  const auto late = *queue_.Enter(DemandOf(1));
  EXPECT_EQ(queue_.TryReserve(*late).status().code(), absl::StatusCode::kResourceExhausted);
  large.ticket.reset();
  EXPECT_TRUE(queue_.TryReserve(*late).ok());
}

TEST_F(ReservationQueueTest, WhoCameBeforeTheLineIsServedBeforeIt) {
  Request first(queue_, DemandOf(3));
  const auto early = *queue_.Enter(DemandOf(1));
  Request large(queue_, DemandOf(2));
  EXPECT_TRUE(queue_.has_line());
  EXPECT_TRUE(queue_.TryReserve(*early).ok());
}

TEST_F(ReservationQueueTest, WhoFailsAtOnceWhenServedLetsTheNextOnesCome) {
  Request first(queue_, DemandOf(4));
  constexpr int kNumWaiting = 20000;
  ReservationQueue::Demand small = DemandOf(1);
  small.plan = *MakePlan(*ParseCompression("scorer=keep_all"), kShape, 1);
  ReservationQueue long_queue(*pool_, metrics_, kShape, PageFormat::kF16,
                              {.max_waiting_requests = kNumWaiting});
  std::vector<std::unique_ptr<ReservationQueue::Ticket>> tickets(kNumWaiting);
  for (auto& ticket : tickets) {
    ticket = *long_queue.Enter(small);
    // Gives the pages back and leaves, from within.
    long_queue.StandInLine(*ticket,
                           [&ticket](absl::StatusOr<ReservationQueue::Cache>) { ticket.reset(); });
  }
  first.cache.reset();
  long_queue.ServeLine();
  EXPECT_FALSE(long_queue.has_line());
  EXPECT_EQ(pool_->reserved_bytes(), 0u);
}

TEST_F(ReservationQueueTest, WhoIsBeingServedCannotStepOutOfTheLine) {
  Request first(queue_, DemandOf(4));
  ASSERT_NE(first.cache, nullptr);
  Request second(queue_, DemandOf(1));
  EXPECT_TRUE(queue_.StepOut(*second.ticket));
  EXPECT_FALSE(queue_.StepOut(*second.ticket));
  bool served = false;
  queue_.StandInLine(*second.ticket, [&](const absl::StatusOr<ReservationQueue::Cache>&) {
    EXPECT_FALSE(queue_.StepOut(*second.ticket));
    served = true;
  });
  first.cache.reset();
  EXPECT_TRUE(served);
}

TEST_F(ReservationQueueTest, AClientGetsNoMoreThanItsShare) {
  ReservationQueue shared(*pool_, metrics_, kShape, PageFormat::kF16,
                          {.max_client_bytes = 2 * KvPool::kSlabBytes});
  auto held = *shared.Enter(DemandOf(2, "a"));
  const absl::Status refused = shared.Enter(DemandOf(1, "a")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("524288 of the 524288"));
  EXPECT_EQ(ReasonOf(refused), kClientLimit);
  EXPECT_TRUE(shared.Enter(DemandOf(1, "b")).ok());
  EXPECT_EQ(shared.Enter(DemandOf(3, "b")).status().code(), absl::StatusCode::kFailedPrecondition);
  held.reset();
  EXPECT_TRUE(shared.Enter(DemandOf(1, "a")).ok());
  const size_t bytes = shared.PoolBytes(DemandOf(1, "a"));
  EXPECT_TRUE(shared.CheckTogether(2, 2 * bytes).ok());
  EXPECT_EQ(shared.CheckTogether(3, 3 * bytes).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(queue_.CheckTogether(3, 3 * bytes).ok());
}

TEST_F(ReservationQueueTest, PagesThatAreGivenBackAreNoPartOfAClientsShare) {
  ReservationQueue shared(*pool_, metrics_, kShape, PageFormat::kF16,
                          {.max_client_bytes = 2 * KvPool::kSlabBytes});
  const auto ticket = *shared.Enter(DemandOf(2, "a"));
  ReservationQueue::Cache cache = *shared.TryReserve(*ticket);
  shared.GiveBackUnused(*ticket, *cache);  // no layer has come: all
  EXPECT_TRUE(shared.Enter(DemandOf(2, "a")).ok());
  cache.reset();
  cache = *shared.TryReserve(*ticket);  // for another prefill node
  EXPECT_TRUE(absl::IsResourceExhausted(shared.Enter(DemandOf(1, "a")).status()));
}

TEST_F(ReservationQueueTest, OneForWhoseTicketThereIsNoMemoryCountsForNothing) {
  if (!NoMemoryFor::kWorks) GTEST_SKIP() << "sanitizers have an operator new of their own";
  {
    const NoMemoryFor none(sizeof(ReservationQueue::Ticket), /*in_this_thread_alone=*/true);
    EXPECT_THROW((void)queue_.Enter(DemandOf(1)), std::bad_alloc);
  }
  EXPECT_EQ(queue_.waiting_tokens(), 0u);
}

TEST(ReservationQueueMemoryTest, WhoseListOfPagesMemoryDoesNotHoldIsToldAndOthersGoOn) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
  constexpr size_t kPages = 1 << 23;  // whose list takes 64 MiB
  prometheus::Registry registry;
  DecodeMetrics metrics(registry);
  const auto pool =
      *KvPool::Create(kPages * PageBytes(PageFormat::kF16, kShape.head_dim) + (1 << 20));
  ReservationQueue queue(*pool, metrics, kShape, PageFormat::kF16, {});
  const KvPlan plan = *MakePlan(*ParseCompression("scorer=keep_all"), kShape, 1);
  const size_t num_heads = kShape.num_layers * kShape.num_kv_heads;
  const auto ticket =
      *queue.Enter({.plan = plan, .max_tail_tokens = kPages / num_heads * kPageTokens});
  absl::Status served;
  {
    const AddressLimit limit(size_t{32} << 20);
    EXPECT_TRUE(absl::IsResourceExhausted(queue.TryReserve(*ticket).status()));
    queue.StandInLine(*ticket, [&served](const absl::StatusOr<ReservationQueue::Cache>& given) {
      served = given.status();
    });
    queue.ServeLine();
  }
  EXPECT_THAT(std::string(served.message()), HasSubstr("no memory left"));
  EXPECT_TRUE(absl::IsResourceExhausted(served));
  EXPECT_EQ(pool->reserved_bytes(), 0u);
  EXPECT_FALSE(queue.has_line());
  const auto small = *queue.Enter({.plan = plan, .max_tail_tokens = 1});
  EXPECT_TRUE(queue.TryReserve(*small).ok());
}

}  // namespace
}  // namespace kvship
