// What GenerationService answers before a request gets anywhere.
#include "decode_service/generation_service.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"
#include "rpc/request_id.h"
#include "tests/decode_service/tiny_node.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

class GenerationServiceTest : public ::testing::Test {
 protected:
  GenerationServiceTest() {
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

  std::string Metrics() const {
    return prometheus::TextSerializer().Serialize(node_.registry.Collect());
  }

  TinyNode node_;
  Backend backend_{1};
  DecodeEngine engine_{*node_.model.transformer, backend_, Arithmetic::kFast};
  DecodeLoop loop_{engine_, node_.metrics, 1};
  PrefillNodes nodes_{{}, node_.metrics};
  ClientRequests client_requests_{0};
  RecentRequests recent_;
  Tracer tracer_;
  const Generation::Options options_;
  const Callers callers_{{}, nullptr};
  GenerationService service_{{.model = node_.model,
                              .nodes = nodes_,
                              .client_requests = client_requests_,
                              .queue = node_.queue,
                              .loop = loop_,
                              .metrics = node_.metrics,
                              .recent = recent_,
                              .tracer = tracer_,
                              .options = options_},
                             callers_,
                             {},
                             absl::Minutes(1)};
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
  EXPECT_THAT(Metrics(), HasSubstr("kvship_decode_requests_total{code=\"UNAVAILABLE\"} 1\n"));
  EXPECT_TRUE(service_.WaitUntilIdle(absl::ZeroDuration()));
}

}  // namespace
}  // namespace kvship
