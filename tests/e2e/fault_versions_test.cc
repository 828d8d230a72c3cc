// Prefill nodes that speak another version of the wire, beside one that speaks ours.
#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "client/generation_client.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "rpc/errors.h"
#include "rpc/wire_version.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/processes.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

// A node of the next major version: it runs the same model, and either refuses Begin, as nodes do
// that look at its version, or says Ready in its own.
class NextMajorNode final : public v1::PrefillService::Service {
 public:
  NextMajorNode(const std::string& model_identity, bool refuses) : refuses_(refuses) {
    info_.mutable_model()->set_identity(model_identity);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~NextMajorNode() override { server_->Shutdown(); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  size_t num_calls() const { return num_calls_; }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::PrefillServiceGetModelInfoRequest*,
                            v1::PrefillServiceGetModelInfoResponse* response) override {
    *response = info_;
    return grpc::Status::OK;
  }

  using Stream = grpc::ServerReaderWriter<v1::PrefillResponse, v1::PrefillRequest>;
  grpc::Status Prefill(grpc::ServerContext*, Stream* stream) override {
    ++num_calls_;
    v1::PrefillRequest request;
    stream->Read(&request);
    v1::WireVersion version;
    version.set_major(kWireMajor + 1);
    if (refuses_) {
      return ToGrpcStatus(WithReason(absl::FailedPreconditionError(absl::StrCat(
                                         "the peer's wire_version is ", kWireMajor, ".", kWireMinor,
                                         "; wanted ", kWireMajor + 1, ".0")),
                                     kWireVersionMismatch));
    }
    v1::PrefillResponse ready;
    *ready.mutable_ready()->mutable_wire_version() = version;
    stream->Write(ready);
    while (stream->Read(&request)) {
    }
    return grpc::Status::CANCELLED;
  }

 private:
  const bool refuses_;
  v1::PrefillServiceGetModelInfoResponse info_;
  int port_ = 0;
  std::atomic<size_t> num_calls_{0};
  std::unique_ptr<grpc::Server> server_;
};

class FaultVersionsTest : public ::testing::TestWithParam<bool> {
 protected:
  FaultVersionsTest() {
    EXPECT_TRUE(prefill_.WaitUntilReady()) << prefill_.process.Errors();
    Server decode("kvship-decode", kModel,
                  {"--threads=1", absl::StrCat("--prefill=", prefill_.address())});
    EXPECT_TRUE(decode.WaitUntilReady()) << decode.process.Errors();
    GenerationClient client(decode.address());
    EXPECT_EQ(requests_.Learn(client), absl::OkStatus());
    identity_ = client.GetModelInfo(absl::Seconds(10))->identity();
  }

  Server prefill_{"kvship-prefill", kModel, {"--threads=1"}};
  CheckedRequests requests_;
  std::string identity_;
};

TEST_P(FaultVersionsTest, ANodeOfAnotherVersionIsPassedByForOneOfOurs) {
  const NextMajorNode other(identity_, /*refuses=*/GetParam());
  Server decode(
      "kvship-decode", kModel,
      {"--threads=1", absl::StrCat("--prefill=", other.address(), ",", prefill_.address())});
  ASSERT_TRUE(decode.WaitUntilReady()) << decode.process.Errors();
  GenerationClient client(decode.address(), {.retries = 0});
  // Until both are known to be healthy, and the other one has been tried.
  size_t index = 0;
  ASSERT_TRUE(Eventually([&] {
    EXPECT_EQ(requests_.Send(client, index++, absl::Seconds(20)), absl::OkStatus());
    return other.num_calls() > 0 || testing::Test::HasFailure();
  }));
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(requests_.Send(client, i, absl::Seconds(20)), absl::OkStatus());
  }
}

TEST_P(FaultVersionsTest, NodesOfAnotherVersionAloneAreAnErrorThatNamesBoth) {
  const NextMajorNode other(identity_, /*refuses=*/GetParam());
  Server decode("kvship-decode", kModel,
                {"--threads=1", absl::StrCat("--prefill=", other.address())});
  ASSERT_TRUE(decode.WaitUntilReady()) << decode.process.Errors();
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Resize(50, 1);
  const absl::Status end =
      GenerationClient(decode.address(), {.retries = 0})
          .Generate(request, absl::Seconds(20), [](const v1::GenerateResponse&) {})
          .status();
  EXPECT_EQ(end.code(), absl::StatusCode::kFailedPrecondition) << end;
  EXPECT_THAT(
      std::string(end.message()),
      HasSubstr(absl::StrCat("wire_version is ", GetParam() ? kWireMajor : kWireMajor + 1)));
  EXPECT_EQ(decode.metric("kvship_decode_pool_reserved_bytes"), 0);
}

INSTANTIATE_TEST_SUITE_P(RefusesOrAnswers, FaultVersionsTest, ::testing::Bool());

}  // namespace
}  // namespace kvship
