// Requests over a channel that drops, corrupts, truncates, duplicates and reorders frames, and cuts
// streams: both services in one process, without a network between them. Whatever happens to its
// frames, a request gives the tokens of the undisturbed run, or ends with a status that says what
// to do, and leaves nothing behind.
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <future>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "decode_service/decode_loop.h"
#include "decode_service/prefill_attempt.h"
#include "decode_service/prefill_fault.h"
#include "tests/decode_service/tiny_node.h"
#include "tests/e2e/prefill_side.h"
#include "transport/loopback.h"

namespace kvship {
namespace {

// Only what hangs takes as long.
constexpr absl::Duration kHangs = absl::Seconds(60);

class FaultChannelTest : public ::testing::Test {
 protected:
  FaultChannelTest() {
    spdlog::set_level(spdlog::level::warn);  // a line per request, twice
    for (const char* compression : {"scorer=keep_all,encoder=f32", "budget_tokens=24,window=8",
                                    "allocator=ada,budget_tokens=24,window=8",
                                    "encoder=fp8,window_encoder=f16,budget_tokens=24,window=8"}) {
      for (const double temperature : {0.0, 1.0}) {
        AddRequest(compression, {.temperature = temperature, .seed = requests_.size()});
      }
    }
  }
  ~FaultChannelTest() override { spdlog::set_level(spdlog::level::info); }

  void AddRequest(const std::string& compression, const SamplingOptions& sampling) {
    GenerationRequest& request = requests_.emplace_back();
    request.tokens = decode_.Prompt(/*num_tokens=*/60, /*seed=*/requests_.size());
    request.compression = *ParseCompression(compression);
    request.plan = *MakePlan(request.compression, decode_.shape, request.tokens.size());
    request.output.max_tokens = 4;
    request.output.sampling = sampling;
  }

  // The tokens of a request, or how it ended.
  absl::StatusOr<std::vector<int32_t>> Run(const GenerationRequest& request,
                                           LoopbackNetwork& network) {
    const auto ticket =
        *decode_.queue.Enter({.plan = request.plan, .max_tail_tokens = request.max_tail_tokens()});
    std::promise<absl::StatusOr<PrefillAttempt::Result>> end;
    const auto attempt = std::make_shared<PrefillAttempt>(
        request, decode_.model.identity,
        PrefillAttempt::Memory{decode_.queue, *ticket, /*cache=*/nullptr},
        [](const v1::GenerateProgress&) {},
        [&end](absl::StatusOr<PrefillAttempt::Result> result) {
          end.set_value(std::move(result));
        });
    attempt->Open([&](const std::shared_ptr<ChannelEvents>& events) {
      return network.Open(events, [this](const std::shared_ptr<FrameChannel>& channel) {
        return prefill_.service.Accept(channel);
      });
    });
    auto future = end.get_future();
    if (future.wait_for(absl::ToChronoSeconds(kHangs)) != std::future_status::ready) {
      return absl::InternalError("the request hangs");
    }
    absl::StatusOr<PrefillAttempt::Result> result = future.get();
    if (!result.ok()) return result.status();
    return Decode(request, *std::move(result));
  }

  absl::StatusOr<std::vector<int32_t>> Decode(const GenerationRequest& request,
                                              PrefillAttempt::Result result) {
    Reader reader;
    std::promise<absl::Status> end;
    auto session = std::make_unique<Session>(
        request.output, /*tokenizer=*/nullptr, std::move(result.cache), reader.responses,
        [&end](const Session::End& ended) { end.set_value(ended.status); });
    session->Take(result.first_token);
    loop_.Join(std::move(session));
    auto future = end.get_future();
    if (future.wait_for(absl::ToChronoSeconds(kHangs)) != std::future_status::ready) {
      return absl::InternalError("the session hangs");
    }
    if (absl::Status status = future.get(); !status.ok()) return status;
    while (reader.Take()) {
    }
    return reader.tokens;
  }

  // Both sides have given everything back, the prefill side soon: its scheduler lets go of a
  // channel after its stream has ended.
  bool NothingIsLeft() {
    const absl::Time give_up = MonotonicNow() + kHangs;
    while (!prefill_.service.WaitUntilIdle(absl::Seconds(1)) ||
           prefill_.scheduler.admitted_tokens() != 0 || !prefill_.scheduler.Prompts().empty()) {
      if (MonotonicNow() > give_up) return false;
    }
    return decode_.pool->reserved_bytes() == 0 && decode_.queue.waiting_tokens() == 0;
  }

  // Requests until `num_faults` have happened to their frames.
  void RunThroughFaults(size_t num_faults);

  std::vector<GenerationRequest> requests_;
  PrefillSide prefill_;
  TinyNode decode_;
  Backend backend_{1};
  DecodeEngine engine_{*decode_.model.transformer, backend_, Arithmetic::kFloat32};
  DecodeLoop loop_{engine_, backend_.threads(), decode_.metrics, /*max_batch_sessions=*/8};
};

void FaultChannelTest::RunThroughFaults(size_t num_faults) {
  std::vector<std::vector<int32_t>> undisturbed;
  for (const GenerationRequest& request : requests_) {
    LoopbackNetwork network({});
    undisturbed.push_back(*Run(request, network));
    ASSERT_TRUE(NothingIsLeft());
  }
  EXPECT_EQ(undisturbed[0],
            decode_.Reference(requests_[0].tokens, "scorer=keep_all,encoder=f32", 4));

  LoopbackNetwork::FaultCounts faults;
  std::map<std::string, size_t> ends;
  size_t num_requests = 0;
  while (faults.total() < num_faults) {
    const size_t which = num_requests++ % requests_.size();
    // Two frames a request: every fifth stream is cut before one of them.
    const uint64_t draw = RandomBits(/*seed=*/77, num_requests);
    LoopbackNetwork network({.seed = num_requests,
                             .drop = 0.1,
                             .corrupt = 0.15,
                             .truncate = 0.15,
                             .duplicate = 0.15,
                             .reorder = 0.15,
                             .cut_before_frame = draw % 5 == 0 ? draw / 5 % 2 : SIZE_MAX});
    const auto tokens = Run(requests_[which], network);
    const LoopbackNetwork::FaultCounts met = network.fault_counts();
    if (tokens.ok()) {
      ASSERT_EQ(*tokens, undisturbed[which]) << "request " << num_requests;
    } else {
      // Where no other node is left, the caller is told to come again.
      const absl::Status told = ForCaller(tokens.status());
      ASSERT_TRUE(absl::IsUnavailable(told)) << "request " << num_requests << ": " << told;
      ASSERT_FALSE(told.message().empty());
      ++ends[absl::StrCat("told ", absl::StatusCodeToString(told.code()), " for ",
                          NameOf(FaultOf(tokens.status())))];
      ASSERT_GT(met.total(), 0u) << "request " << num_requests << ": " << tokens.status();
    }
    ASSERT_TRUE(NothingIsLeft()) << "request " << num_requests;
    if (tokens.ok()) ++ends["right tokens"];
    faults.dropped += met.dropped;
    faults.corrupted += met.corrupted;
    faults.truncated += met.truncated;
    faults.duplicated += met.duplicated;
    faults.reordered += met.reordered;
    faults.cut += met.cut;
  }
  std::printf(
      "%zu requests; frames dropped %zu, corrupted %zu, truncated %zu, duplicated %zu, reordered "
      "%zu; "
      "streams cut %zu; ends:",
      num_requests, faults.dropped, faults.corrupted, faults.truncated, faults.duplicated,
      faults.reordered, faults.cut);
  for (const auto& [end, count] : ends) std::printf(" %s %zu;", end.c_str(), count);
  std::printf("\n");
  for (const size_t count : {faults.dropped, faults.corrupted, faults.truncated, faults.duplicated,
                             faults.reordered, faults.cut, ends["right tokens"]}) {
    EXPECT_GT(count, 0u);
  }
}

TEST_F(FaultChannelTest, TenThousandFaultsGiveNoWrongTokenAndLeaveNothing) {
  RunThroughFaults(10'000);
}

}  // namespace
}  // namespace kvship
