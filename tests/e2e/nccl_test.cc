// Requests whose caches come by NCCL: both services in one process, GPUs and NCCL faked. Whatever
// becomes of NCCL, a request gives the tokens that it gives over gRPC alone, and leaves nothing
// behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <future>

#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "decode_service/decode_loop.h"
#include "decode_service/prefill_attempt.h"
#include "tests/decode_service/tiny_node.h"
#include "tests/e2e/prefill_side.h"
#include "tests/service/nccl_side.h"
#include "transport/loopback.h"

namespace kvship {
namespace {

using ::testing::IsEmpty;

struct Answer {
  std::vector<int32_t> tokens;
  std::string transport;

  bool operator==(const Answer&) const = default;
};
void PrintTo(const Answer& answer, std::ostream* out) {
  *out << absl::StrJoin(answer.tokens, " ") << " over " << answer.transport;
}

class NcclServicesTest : public ::testing::Test {
 protected:
  explicit NcclServicesTest(absl::Duration timeout = kTimeout) : timeout_(timeout) {
    spdlog::set_level(spdlog::level::err);
    request_.tokens = decode_.Prompt(/*num_tokens=*/60, /*seed=*/1);
    request_.compression = *ParseCompression("budget_tokens=24,window=8");
    request_.plan = *MakePlan(request_.compression, decode_.shape, request_.tokens.size());
    request_.output.max_tokens = 4;
    const absl::StatusOr<Answer> undisturbed = Run(/*with_nccl=*/false);
    EXPECT_TRUE(undisturbed.ok()) << undisturbed.status();
    tokens_ = undisturbed->tokens;
  }
  ~NcclServicesTest() override {
    EXPECT_TRUE(NothingIsLeft());
    prefill_nccl_.service = nullptr;
    decode_nccl_.service = nullptr;
    EXPECT_THAT(network_.violations(), IsEmpty());
    spdlog::set_level(spdlog::level::info);
  }

  // An attempt at the request, and what it will come to.
  struct Attempt {
    std::shared_ptr<PrefillAttempt> attempt;
    std::unique_ptr<ReservationQueue::Ticket> ticket;
    std::promise<absl::StatusOr<PrefillAttempt::Result>> end;
    std::shared_ptr<FrameChannel> stream;  // the prefill node's end, under NCCL
  };
  std::unique_ptr<Attempt> Begin(bool with_nccl) {
    auto one = std::make_unique<Attempt>();
    one->ticket = *decode_.queue.Enter(
        {.plan = request_.plan, .max_tail_tokens = request_.max_tail_tokens()});
    one->attempt = std::make_shared<PrefillAttempt>(
        request_, decode_.model.identity,
        PrefillAttempt::Memory{decode_.queue, *one->ticket, /*cache=*/nullptr},
        [](const v1::GenerateProgress&) {},
        [end = &one->end](absl::StatusOr<PrefillAttempt::Result> result) {
          end->set_value(std::move(result));
        });
    one->attempt->Open(
        [this, &one](const std::shared_ptr<ChannelEvents>& events) {
          return channels_.Open(events, [this, &one](const std::shared_ptr<FrameChannel>& channel) {
            one->stream = channel;
            return prefill_.service.Accept(channel);
          });
        },
        with_nccl ? std::make_shared<NcclReceiver>(*decode_nccl_.service, "prefill",
                                                   request_.plan.wire_bytes())
                  : nullptr);
    return one;
  }

  absl::StatusOr<Answer> Finish(Attempt& one) {
    auto future = one.end.get_future();
    if (future.wait_for(absl::ToChronoSeconds(kHangs)) != std::future_status::ready) {
      return absl::InternalError("the request hangs");
    }
    absl::StatusOr<PrefillAttempt::Result> result = future.get();
    if (!result.ok()) return result.status();
    Answer answer{.tokens = {}, .transport = result->kv.transport()};
    Reader reader;
    std::promise<absl::Status> end;
    auto session = std::make_unique<Session>(
        request_.output, /*tokenizer=*/nullptr, std::move(result->cache), reader.responses,
        [&end](const Session::End& ended) { end.set_value(ended.status); });
    session->Take(result->first_token);
    loop_.Join(std::move(session));
    if (absl::Status status = end.get_future().get(); !status.ok()) return status;
    while (reader.Take()) {
    }
    answer.tokens = reader.tokens;
    return answer;
  }
  // The right answer.
  Answer Over(const char* transport) const { return {tokens_, transport}; }
  absl::StatusOr<Answer> Run(bool with_nccl = true) { return Finish(*Begin(with_nccl)); }

  // A request that has the communicator made, and may be served before it is ready.
  void Connect() {
    ASSERT_EQ(Run()->tokens, tokens_);
    ASSERT_TRUE(Becomes([this] { return prefill_nccl_.IsReady() && decode_nccl_.IsReady(); }));
    ASSERT_TRUE(NothingIsLeft());
  }

  bool NothingIsLeft() {
    return Becomes([this] {
      return prefill_.service.WaitUntilIdle(absl::ZeroDuration()) &&
             prefill_.scheduler.admitted_tokens() == 0 && decode_.pool->reserved_bytes() == 0 &&
             decode_.queue.waiting_tokens() == 0 &&
             prefill_nccl_.staging->num_free() == NcclSide::kFrames &&
             decode_nccl_.staging->num_free() == NcclSide::kFrames;
    });
  }

  const absl::Duration timeout_;  // of one transfer
  FakeNccl network_{MonotonicNow};
  NcclSide prefill_nccl_{network_, "kvship-prefill", timeout_};
  NcclSide decode_nccl_{network_, "kvship-decode", timeout_};
  PrefillSide prefill_{prefill_nccl_.service.get()};
  TinyNode decode_;
  Backend backend_{1};
  DecodeEngine engine_{*decode_.model.transformer, backend_, Arithmetic::kFloat32};
  DecodeLoop loop_{engine_, backend_.threads(), decode_.metrics, /*max_batch_sessions=*/8};
  LoopbackNetwork channels_{LoopbackNetwork::Faults()};
  GenerationRequest request_;
  std::vector<int32_t> tokens_;  // over gRPC
};

TEST_F(NcclServicesTest, CachesComeByNcclOnceItIsReady) {
  Connect();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(*Run(), Over("nccl"));
  EXPECT_EQ(decode_nccl_.Metric("_connects_total"), 1);
  EXPECT_GT(decode_nccl_.Metric("_transfers_total"), 0);
  EXPECT_TRUE(Becomes([this] {
    return decode_nccl_.Metric("_transfers_total") == prefill_nccl_.Metric("_transfers_total");
  }));
  EXPECT_EQ(decode_nccl_.Metric("_fallbacks_total"), 0);
}

TEST_F(NcclServicesTest, ClientsWithoutNcclGetTheirFramesOverGrpc) {
  Connect();
  EXPECT_EQ(*Run(/*with_nccl=*/false), Over("grpc"));
}

TEST_F(NcclServicesTest, ManyRequestsAtATimeShareTheCommunicator) {
  Connect();
  std::vector<std::unique_ptr<Attempt>> attempts;
  for (int i = 0; i < 8; ++i) attempts.push_back(Begin(/*with_nccl=*/true));
  for (const auto& attempt : attempts) EXPECT_EQ(Finish(*attempt)->tokens, tokens_);
  EXPECT_EQ(decode_nccl_.Metric("_connects_total"), 1);
}

TEST_F(NcclServicesTest, APeerGoneBeforeATransferCostsItsTimeout) {
  Connect();
  decode_nccl_.gpu->Die(/*peers_see_it=*/false);
  EXPECT_EQ(*Run(), Over("grpc"));
  for (NcclSide* side : {&prefill_nccl_, &decode_nccl_}) {
    EXPECT_TRUE(Becomes([side] { return side->Metric("_aborts_total") == 1; }));
    EXPECT_GT(side->Metric("_fallbacks_total", "failed"), 0);
  }
}

TEST_F(NcclServicesTest, APeerGoneInATransferIsNoticed) {
  Connect();
  network_.SetTransferTime(absl::Hours(1));
  const auto attempt = Begin(/*with_nccl=*/true);
  ASSERT_TRUE(Becomes([this] { return decode_nccl_.staging->num_free() < NcclSide::kFrames; }));
  prefill_nccl_.gpu->Die(/*peers_see_it=*/true);
  EXPECT_EQ(*Finish(*attempt), Over("grpc"));
}

TEST_F(NcclServicesTest, APeerGoneAfterATransferIsFoundByTheNextRequest) {
  Connect();
  EXPECT_EQ(*Run(), Over("nccl"));
  prefill_nccl_.gpu->Die(/*peers_see_it=*/false);
  EXPECT_EQ(*Run(), Over("grpc"));
  EXPECT_EQ(*Run(), Over("grpc"));
}

TEST_F(NcclServicesTest, SlowTransfersAreGivenUpAndTheCommunicatorMadeAgain) {
  Connect();
  network_.SetTransferTime(absl::Hours(1));
  EXPECT_EQ(*Run(), Over("grpc"));
  network_.SetTransferTime(absl::ZeroDuration());
  ASSERT_TRUE(Becomes([this] { return Run()->transport == "nccl"; }));
  EXPECT_GT(prefill_nccl_.Metric("_rebuilds_total"), 0);
  EXPECT_GT(decode_nccl_.Metric("_rebuilds_total"), 0);
}

TEST_F(NcclServicesTest, AnAbortThatHangsTurnsNcclOffAndHoldsUpNothing) {
  Connect();
  for (NcclSide* side : {&prefill_nccl_, &decode_nccl_}) side->gpu->SetAbortsHang(true);
  network_.SetTransferTime(absl::Hours(1));
  EXPECT_EQ(*Run(), Over("grpc"));
  EXPECT_TRUE(Becomes([this] { return decode_nccl_.Snapshot().quarantined_bytes > 0; }));
  EXPECT_LT(decode_nccl_.staging->num_free(), NcclSide::kFrames);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(*Run(), Over("grpc"));
  for (NcclSide* side : {&prefill_nccl_, &decode_nccl_}) side->gpu->SetAbortsHang(false);
}

// No transfer is late, however slow the machine.
class PatientNcclServicesTest : public NcclServicesTest {
 protected:
  PatientNcclServicesTest() : NcclServicesTest(kHangs) {}
};

TEST_F(PatientNcclServicesTest, ACancelledRequestLeavesTheCommunicatorToOthers) {
  Connect();
  const double before = decode_nccl_.Metric("_transfers_total");
  EXPECT_EQ(*Run(), Over("nccl"));
  const auto num_frames = static_cast<size_t>(decode_nccl_.Metric("_transfers_total") - before);
  ASSERT_TRUE(NothingIsLeft());
  network_.SetTransferTime(absl::Hours(1));
  const auto attempt = Begin(/*with_nccl=*/true);
  // An offer that is not answered yet would cost the communicator.
  ASSERT_TRUE(
      Becomes([&] { return decode_nccl_.staging->num_free() == NcclSide::kFrames - num_frames; }));
  attempt->attempt->Cancel(absl::CancelledError("the client has gone"));
  network_.SetTransferTime(absl::ZeroDuration());
  EXPECT_TRUE(absl::IsCancelled(Finish(*attempt).status()));
  ASSERT_TRUE(NothingIsLeft());
  EXPECT_EQ(*Run(), Over("nccl"));
  EXPECT_EQ(decode_nccl_.Metric("_aborts_total"), 0);
}

TEST_F(NcclServicesTest, ABrokenStreamCostsTheCommunicatorAndNoMore) {
  Connect();
  network_.SetTransferTime(absl::Hours(1));
  const auto attempt = Begin(/*with_nccl=*/true);
  ASSERT_TRUE(Becomes([this] { return decode_nccl_.staging->num_free() < NcclSide::kFrames; }));
  attempt->stream->Close(absl::UnavailableError("the network broke"));
  EXPECT_TRUE(absl::IsUnavailable(Finish(*attempt).status()));
  ASSERT_TRUE(NothingIsLeft());
  network_.SetTransferTime(absl::ZeroDuration());
  ASSERT_TRUE(Becomes([this] { return Run()->transport == "nccl"; }));
  EXPECT_EQ(*Run(), Over("nccl"));
}

TEST_F(NcclServicesTest, DamagedBytesComeAgainOverGrpc) {
  Connect();
  decode_nccl_.damages = true;
  EXPECT_EQ(*Run(), Over("grpc"));
  EXPECT_GT(decode_nccl_.Metric("_fallbacks_total", "damaged"), 0);
  decode_nccl_.damages = false;
  EXPECT_EQ(*Run(), Over("nccl"));
}

TEST_F(NcclServicesTest, WithoutStagingFramesGoOverGrpc) {
  Connect();
  {
    const auto taken = decode_nccl_.staging->Take(decode_nccl_.staging->num_free());
    EXPECT_EQ(*Run(), Over("grpc"));
    EXPECT_GT(decode_nccl_.Metric("_fallbacks_total", "no_memory"), 0);
  }
  EXPECT_EQ(*Run(), Over("nccl"));
}

TEST_F(NcclServicesTest, WhoIsRefusedIsNotInvited) {
  prefill_.scheduler.StartDraining();
  EXPECT_TRUE(absl::IsUnavailable(Run().status()));
  EXPECT_EQ(prefill_nccl_.Metric("_connects_total"), 0);
}

TEST_F(NcclServicesTest, AConnectThatFailsLeavesGrpc) {
  decode_nccl_.gpu->SetConnectFault(absl::UnavailableError("no network"));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(*Run(), Over("grpc"));
  EXPECT_TRUE(Becomes([this] { return decode_nccl_.Metric("_connect_failures_total") > 0; }));
}

}  // namespace
}  // namespace kvship
