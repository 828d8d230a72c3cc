// What GenerationService answers before a request gets anywhere.
#include "decode_service/generation_service.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"
#include "rpc/request_id.h"
#include "tests/decode_service/fake_tokenizer.h"
#include "tests/decode_service/generation_parts.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

class GenerationServiceTest : public ::testing::Test {
 protected:
  explicit GenerationServiceTest(const GenerationService::Options& options = {})
      : service_(parts_.uses, callers_, {}, options) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
  }

  struct Answer {
    absl::Status end;
    bool has_request_id = false;
  };
  Answer Ask() const {
    const auto stub = v1::GenerationService::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.mutable_tokens()->add_ids(1);
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    const absl::Status end = FromGrpcStatus(reader->Finish());
    const auto& metadata = context.GetServerInitialMetadata();
    return {.end = end, .has_request_id = metadata.contains(kRequestIdMetadata)};
  }

  GenerationParts parts_{{}, 1 << 20};
  const Callers callers_{{}, nullptr};
  GenerationService service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(GenerationServiceTest, RefusalsWhileDrainingSayWhatToDoAndAreCounted) {
  service_.StartDraining();
  const Answer answer = Ask();
  EXPECT_TRUE(absl::IsUnavailable(answer.end)) << answer.end;
  EXPECT_EQ(ReasonOf(answer.end), kDraining);
  EXPECT_THAT(std::string(answer.end.message()), HasSubstr("send the request again"));
  EXPECT_TRUE(answer.has_request_id);
  EXPECT_THAT(parts_.Metrics(),
              HasSubstr("kvship_decode_requests_total{code=\"UNAVAILABLE\"} 1\n"));
  EXPECT_TRUE(service_.WaitUntilIdle(absl::ZeroDuration()));
}

// Has no memory for what it makes of a text.
class ForgetfulTokenizer final : public FakeTokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view,
                                              std::span<const TextRange>) const override {
    throw std::bad_alloc();
  }
};

TEST_F(GenerationServiceTest, ATextWhoseTokensMemoryDoesNotHoldIsRefused) {
  parts_.node.model.tokenizer = std::make_unique<ForgetfulTokenizer>();
  const auto stub = v1::GenerationService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  request.set_text("text");
  v1::TokenizeResponse response;
  const absl::Status end = FromGrpcStatus(stub->Tokenize(&context, request, &response));
  EXPECT_TRUE(absl::IsResourceExhausted(end)) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("no memory left"));
}

// Holds up whoever asks it, until it is let go.
class SlowTokenizer final : public FakeTokenizer {
 public:
  SlowTokenizer(std::atomic<bool>& is_asked, std::shared_future<void> may_go_on)
      : is_asked_(is_asked), may_go_on_(std::move(may_go_on)) {}
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view,
                                              std::span<const TextRange>) const override {
    is_asked_ = true;
    may_go_on_.wait();
    return std::vector<int32_t>{1};
  }

 private:
  std::atomic<bool>& is_asked_;
  const std::shared_future<void> may_go_on_;
};

TEST_F(GenerationServiceTest, TextsThatTakeLongHoldUpNoOtherCall) {
  std::atomic<bool> is_asked = false;
  std::promise<void> may_go_on;
  parts_.node.model.tokenizer =
      std::make_unique<SlowTokenizer>(is_asked, may_go_on.get_future().share());
  const auto stub = v1::GenerationService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials()));
  // Many more than gRPC has threads.
  std::vector<std::thread> others;
  std::atomic<size_t> num_answered = 0;
  for (size_t i = 0; i < 32; ++i) {
    others.emplace_back([&] {
      grpc::ClientContext context;
      v1::TokenizeRequest request;
      request.set_text("text");
      v1::TokenizeResponse response;
      if (stub->Tokenize(&context, request, &response).ok()) ++num_answered;
    });
  }
  while (!is_asked) std::this_thread::yield();
  // One that waits for its turn behind them ends when its deadline comes, not with them.
  const auto deadline_of = [](auto& context, int seconds) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  };
  grpc::ClientContext late;
  deadline_of(late, 1);
  v1::GenerateRequest request;
  request.set_prompt("text");
  EXPECT_EQ(stub->Generate(&late, request)->Finish().error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(service_.WaitUntilIdle(absl::Seconds(10)));
  grpc::ClientContext context;
  deadline_of(context, 10);
  v1::GenerationServiceGetModelInfoResponse response;
  EXPECT_TRUE(stub->GetModelInfo(&context, {}, &response).ok());
  may_go_on.set_value();
  for (std::thread& other : others) other.join();
  EXPECT_EQ(num_answered, 32u);
}

class GenerationDeadlineTest : public GenerationServiceTest {
 protected:
  explicit GenerationDeadlineTest(
      const GenerationService::Options& options = {.default_deadline = absl::Milliseconds(100)})
      : GenerationServiceTest(options) {}

  std::unique_ptr<ReservationQueue::Ticket> Enter() {
    const KvPlan plan = *MakePlan({}, parts_.node.shape, 50);
    return *parts_.node.queue.Enter({.plan = plan, .max_tail_tokens = 119 * kPageTokens});
  }

  // A client reads nothing of its call, until the service has ended that.
  void ReadNothing() {
    // The whole pool is taken: requests stand in line, and are told so.
    const auto first = Enter(), second = Enter();
    const ReservationQueue::Cache blocking = *parts_.node.queue.TryReserve(*first);
    parts_.node.queue.StandInLine(*second, [](const absl::StatusOr<ReservationQueue::Cache>&) {});
    // Less than any message may come before it is asked for.
    grpc::ChannelArguments little;
    little.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 5);
    little.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    const auto stub = v1::GenerationService::NewStub(grpc::CreateCustomChannel(
        absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials(), little));
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.mutable_tokens()->add_ids(1);
    const auto reader = stub->Generate(&context, request);
    reader->WaitForInitialMetadata();  // the call is there
    EXPECT_TRUE(service_.WaitUntilIdle(absl::Seconds(20)));
    context.TryCancel();
    reader->Finish();
  }
};

TEST_F(GenerationDeadlineTest, AClientThatReadsNothingHoldsItsCallNotMuchLonger) { ReadNothing(); }

class GenerationStallTest : public GenerationDeadlineTest {
 protected:
  GenerationStallTest() : GenerationDeadlineTest({.stall_timeout = absl::Milliseconds(100)}) {}
};

TEST_F(GenerationStallTest, AClientThatReadsNothingLosesItsAnswer) { ReadNothing(); }

TEST_F(GenerationServiceTest, MoreIdsThanTheContextHasAreNotDetokenized) {
  parts_.node.model.tokenizer = std::make_unique<ForgetfulTokenizer>();
  const auto stub = v1::GenerationService::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  const size_t most = parts_.uses.model.config().context_tokens;
  for (size_t i = 0; i <= most; ++i) request.add_ids(1);
  v1::DetokenizeResponse response;
  const absl::Status end = FromGrpcStatus(stub->Detokenize(&context, request, &response));
  EXPECT_TRUE(absl::IsInvalidArgument(end)) << end;
  EXPECT_THAT(
      std::string(end.message()),
      HasSubstr(absl::StrCat("wanted at most ", most, ", the tokens of the model's context")));
}

}  // namespace
}  // namespace kvship
