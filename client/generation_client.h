// GenerationClient talks to a decode server: one blocking call per request. Thread safe.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvship/v1/generation.grpc.pb.h"

namespace kvship {

class GenerationClient {
 public:
  // `server` is a gRPC name, "127.0.0.1:50050" or "dns:///decode:50050". Connects when first used.
  explicit GenerationClient(const std::string& server);

  // Runs one request to its end. `on_response` sees progress and output as they come. Errors: as
  // the server's; Unavailable, naming the server, if it cannot be reached.
  absl::StatusOr<v1::GenerateReport> Generate(
      const v1::GenerateRequest& request, absl::Time deadline,
      const std::function<void(const v1::GenerateResponse&)>& on_response);

  absl::StatusOr<v1::ModelInfo> GetModelInfo(absl::Time deadline);

 private:
  absl::Status Explain(const grpc::Status& status) const;

  const std::string server_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::GenerationService::Stub> stub_;
};

}  // namespace kvship
