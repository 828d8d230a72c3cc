// What GenerationService answers before a request gets anywhere.
#include "decode_service/generation_service.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"
#include "rpc/request_id.h"
#include "tests/decode_service/generation_parts.h"
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

  GenerationParts parts_;
  const Callers callers_{{}, nullptr};
  GenerationService service_{parts_.uses, callers_, {}, absl::Minutes(1)};
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

}  // namespace
}  // namespace kvship
