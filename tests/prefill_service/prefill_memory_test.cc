// What a run holds must not follow the number of layers, nor the patience of its reader.
#include <gtest/gtest.h>
#include <malloc.h>

#include "base/clock.h"
#include "tests/prefill_service/prefill_node.h"
#include "tests/prefill_service/stalled_client.h"

// Of the sanitizers' runtime; gcc has no header for it.
// NOLINTNEXTLINE(bugprone-reserved-identifier): the sanitizers' name
extern "C" size_t __sanitizer_get_current_allocated_bytes();

namespace kvship {
namespace {

constexpr size_t kPromptTokens = 2048;
constexpr size_t kOutboxBytes = 1 << 20;

// What the process holds of its heap; a sanitizer brings a heap of its own.
size_t AllocatedBytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return __sanitizer_get_current_allocated_bytes();
#else
  const struct mallinfo2 heap = mallinfo2();
  return heap.uordblks + heap.hblkhd;
#endif
}

// Whether so many requests are active soon.
bool BecomesActive(const PrefillNode& node, size_t wanted) {
  return node.Becomes("kvship_prefill_active_requests", static_cast<double>(wanted),
                      absl::Seconds(30));
}

// Until no step has been taken for a while.
void WaitUntilNothingMoves(const PrefillNode& node) {
  double steps = -1;
  while (node.Metric("kvship_prefill_step_seconds") > steps) {
    steps = node.Metric("kvship_prefill_step_seconds");
    absl::SleepFor(absl::Milliseconds(400));
  }
}

struct Stalled {
  size_t layer_bytes = 0;
  size_t total_bytes = 0;
  double outbox_bytes = 0;     // when nothing moves any more
  size_t allocated_bytes = 0;  // what the stalled run added to the process
};

// Runs a prompt through `times` x 2 layers towards a reader that stalls until no more moves.
Stalled RunStalled(size_t times) {
  PrefillNode node({.max_outbox_bytes = kOutboxBytes}, times, 256);
  const v1::PrefillBegin begin =
      node.Begin(RandomTokens(kPromptTokens, 1), "scorer=keep_all,encoder=f32");
  Stalled out;
  out.total_bytes = begin.plan().wire_bytes();
  out.layer_bytes = out.total_bytes / node.model.config().num_layers;
  const size_t allocated_before = AllocatedBytes();
  StalledClient client(node.target(), begin);
  WaitUntilNothingMoves(node);
  out.outbox_bytes = node.Metric("kvship_prefill_outbox_bytes");
  out.allocated_bytes = AllocatedBytes() - allocated_before;
  return out;
}

TEST(PrefillMemory, DoesNotFollowTheLayersWhenTheReaderStalls) {
  RunStalled(8);  // threads and buffers that stay are there from now on
  const Stalled shallow = RunStalled(64);
  const Stalled deep = RunStalled(128);
  ASSERT_EQ(deep.total_bytes, 2 * shallow.total_bytes);
  ASSERT_GE(shallow.total_bytes, size_t{64} << 20);
  for (const Stalled& run : {shallow, deep}) {
    EXPECT_GT(run.outbox_bytes, kOutboxBytes);
    // A layer is sent whole; control messages are small.
    EXPECT_LT(run.outbox_bytes, kOutboxBytes + run.layer_bytes + 4096);
    // Residual stream, scratch, a layer, the outbox, and what gRPC holds in flight on both sides:
    // a quarter of what the layers together have.
    EXPECT_LT(run.allocated_bytes, shallow.total_bytes / 4);
    EXPECT_GT(run.allocated_bytes, kOutboxBytes);
  }
}

TEST(PrefillMemory, AReaderThatGoesOnGetsAll) {
  PrefillNode node({.max_outbox_bytes = kOutboxBytes}, 16, 256);
  const v1::PrefillBegin begin =
      node.Begin(RandomTokens(kPromptTokens, 5), "scorer=keep_all,encoder=f32");
  StalledClient client(node.target(), begin);
  absl::SleepFor(absl::Milliseconds(500));
  const auto [num_bytes, status] = client.ReadAll();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(num_bytes, begin.plan().wire_bytes());
}

TEST(PrefillMemory, TheTimeThatAReaderHoldsItUpIsNotTheNodes) {
  constexpr absl::Duration kPause = absl::Milliseconds(500);
  PrefillNode node({.max_outbox_bytes = kOutboxBytes}, 64, 256);
  const absl::Time begun = MonotonicNow();
  StalledClient client(node.target(),
                       node.Begin(RandomTokens(kPromptTokens, 6), "scorer=keep_all,encoder=f32"));
  WaitUntilNothingMoves(node);
  absl::SleepFor(kPause);
  ASSERT_TRUE(client.ReadAll().second.ok());
  const double told = client.manifest().computed_after_ms();
  EXPECT_GT(told, 0);
  EXPECT_LT(told, absl::ToDoubleMilliseconds(MonotonicNow() - begun - kPause));
}

TEST(PrefillMemory, AnotherRequestRunsWhileAReaderStalls) {
  PrefillNode node({.max_outbox_bytes = kOutboxBytes}, 64, 256);
  StalledClient stalled(node.target(),
                        node.Begin(RandomTokens(kPromptTokens, 2), "scorer=keep_all,encoder=f32"));
  WaitUntilNothingMoves(node);
  const auto call =
      CollectedCall::Start(node, node.Begin(RandomTokens(100, 3), "scorer=keep_all"), {});
  EXPECT_EQ(call->WaitUntilClosed(), absl::OkStatus());
  EXPECT_TRUE(BecomesActive(node, 1));
}

TEST(PrefillMemory, AReaderThatTakesNothingIsGivenUp) {
  PrefillNode node({.max_outbox_bytes = kOutboxBytes, .stall_timeout = absl::Milliseconds(300)}, 64,
                   256);
  StalledClient stalled(node.target(),
                        node.Begin(RandomTokens(kPromptTokens, 4), "scorer=keep_all,encoder=f32"));
  EXPECT_TRUE(BecomesActive(node, 1));
  EXPECT_TRUE(BecomesActive(node, 0));
  EXPECT_EQ(stalled.ReadAll().second.error_code(), grpc::StatusCode::ABORTED);
}

}  // namespace
}  // namespace kvship
