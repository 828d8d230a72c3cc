// Prefill nodes that speak another version of the wire, beside one that speaks ours, and clients of
// other versions at a prefill node of ours.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "client/generation_client.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "rpc/sampling.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"
#include "tests/decode_service/tiny_node.h"
#include "tests/e2e/at_rest.h"
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
    rest_.emplace(prefill_);
  }

  void ExpectNothingIsLeft(const Server& decode) const {
    EXPECT_EQ(AtRest(decode).LeftOver(), "");
    EXPECT_EQ(rest_->LeftOver(), "");
  }

  Server prefill_{"kvship-prefill", kModel, {"--threads=1"}};
  CheckedRequests requests_;
  std::string identity_;
  std::optional<AtRest> rest_;
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
  ExpectNothingIsLeft(decode);
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
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_THAT(
      std::string(end.message()),
      HasSubstr(absl::StrCat("wire_version is ", GetParam() ? kWireMajor : kWireMajor + 1)));
  ExpectNothingIsLeft(decode);
}

INSTANTIATE_TEST_SUITE_P(RefusesOrAnswers, FaultVersionsTest, ::testing::Bool());

// A client that is no decode node of this version at a real prefill node.
class FaultClientVersionsTest : public ::testing::Test {
 protected:
  FaultClientVersionsTest() {
    EXPECT_TRUE(prefill_.WaitUntilReady()) << prefill_.process.Errors();
    stub_ = v1::PrefillService::NewStub(
        grpc::CreateChannel(prefill_.address(), grpc::InsecureChannelCredentials()));
    // As every client that runs the model.
    EXPECT_EQ(Ask(kWireMinor, /*seals=*/true).status, absl::OkStatus());
    rest_.emplace(prefill_);
  }

  struct Answer {
    absl::Status status;
    std::optional<v1::PrefillManifest> manifest;
    size_t num_bytes = 0;  // of all frames
  };
  // Asks in version `major`.`minor`, and seals its messages or does not know of seals.
  Answer Ask(uint32_t minor, bool seals, uint32_t major = kWireMajor) {
    v1::PrefillRequest request = BeginMessage();
    request.mutable_begin()->mutable_wire_version()->set_major(major);
    request.mutable_begin()->mutable_wire_version()->set_minor(minor);
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(WallNow() + absl::Seconds(60)));
    const auto stream = stub_->Prefill(&context);
    stream->Write(seals ? SealedMessage(request) : request);
    Answer answer;
    v1::PrefillResponse response;
    while (stream->Read(&response)) {
      if (response.has_ready()) {
        v1::PrefillRequest go;
        go.mutable_go()->set_transport(kGrpcTransport);
        stream->Write(seals ? SealedMessage(go) : go);
      }
      if (response.has_frame()) answer.num_bytes += response.frame().payload().size();
      if (response.has_manifest()) answer.manifest = response.manifest();
    }
    answer.status = FromGrpcStatus(stream->Finish());
    return answer;
  }

  void ExpectRightCache(const Answer& answer) const {
    EXPECT_EQ(answer.status, absl::OkStatus());
    ASSERT_TRUE(answer.manifest.has_value());
    EXPECT_EQ(answer.manifest->total_bytes(), answer.num_bytes);
    EXPECT_EQ(static_cast<int32_t>(answer.manifest->first_token().token_id()),
              node_.Reference(tokens_, kCompression, 1)[0]);
  }

  const TinyNode node_;  // the same model in this process
  const std::vector<int32_t> tokens_ = node_.Prompt(/*num_tokens=*/100, /*seed=*/3);
  Server prefill_{"kvship-prefill", kModel, {"--threads=1"}};
  std::unique_ptr<v1::PrefillService::Stub> stub_;
  std::optional<AtRest> rest_;

 private:
  static constexpr char kCompression[] = "scorer=keep_all,encoder=f16";

  v1::PrefillRequest BeginMessage() const {
    const CompressionOptions options = *ParseCompression(kCompression);
    v1::PrefillRequest message;
    v1::PrefillBegin& begin = *message.mutable_begin();
    begin.set_model_identity(node_.model.identity.data(), node_.model.identity.size());
    begin.mutable_tokens()->Add(tokens_.begin(), tokens_.end());
    *begin.mutable_compression() = CompressionToProto(options);
    *begin.mutable_plan() = PlanToProto(*MakePlan(options, node_.shape, tokens_.size()));
    *begin.mutable_sampling() = SamplingToProto({});
    begin.add_transports(kGrpcTransport);
    return message;
  }
  static v1::PrefillRequest SealedMessage(const v1::PrefillRequest& message) {
    v1::PrefillRequest sealed;
    sealed.ParseFromString(Sealed(message));
    return sealed;
  }
};

TEST_F(FaultClientVersionsTest, OneOfTheNextMajorVersionIsRefusedWithBothVersionsNamed) {
  const Answer refused = Ask(/*minor=*/kWireMinor, /*seals=*/true, kWireMajor + 1);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kFailedPrecondition) << refused.status;
  EXPECT_EQ(ReasonOf(refused.status), kWireVersionMismatch);
  EXPECT_THAT(std::string(refused.status.message()),
              HasSubstr(absl::StrCat("wire_version is ", kWireMajor + 1, ".", kWireMinor,
                                     "; wanted ", kWireMajor, ".", kOldestWireMinor)));
  EXPECT_FALSE(refused.manifest.has_value());
  ExpectRightCache(Ask(kWireMinor, /*seals=*/true));
  EXPECT_EQ(rest_->LeftOver(), "");
}

TEST_F(FaultClientVersionsTest, OneOfAMinorVersionBeforeSealsIsServed) {
  ExpectRightCache(Ask(/*minor=*/1, /*seals=*/false));
  EXPECT_EQ(rest_->LeftOver(), "");
}

TEST_F(FaultClientVersionsTest, OneOfThisVersionThatSealsNothingIsRefused) {
  const Answer refused = Ask(kWireMinor, /*seals=*/false);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kDataLoss) << refused.status;
  EXPECT_FALSE(refused.manifest.has_value());
  EXPECT_EQ(rest_->LeftOver(), "");
}

}  // namespace
}  // namespace kvship
