// GenerationService is the public RPC: it gives each Generate call a Generation and writes its
// responses, one at a time, as fast as the client reads.
#pragma once

#include <string>

#include "base/deadline_watch.h"
#include "decode_service/generation.h"
#include "decode_service/running_generations.h"
#include "kvship/v1/generation.grpc.pb.h"
#include "service/callers.h"

namespace kvship {

class GenerationService final : public v1::GenerationService::CallbackService {
 public:
  struct Options {
    absl::Duration default_deadline = absl::Minutes(10);  // of Generate calls that bring none
    // How long a client may take nothing of an answer that waits for it: what it does not read
    // holds memory of the pool.
    absl::Duration stall_timeout = absl::Minutes(1);
  };

  // `model_info` is what GetModelInfo answers.
  GenerationService(const Generation::Uses& uses, const Callers& callers, v1::ModelInfo model_info,
                    const Options& options)
      : uses_(uses), callers_(callers), model_info_(std::move(model_info)), options_(options) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;

  grpc::ServerUnaryReactor* GetModelInfo(
      grpc::CallbackServerContext* context, const v1::GenerationServiceGetModelInfoRequest* request,
      v1::GenerationServiceGetModelInfoResponse* response) override;

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

  const v1::ModelInfo& model_info() const { return model_info_; }

  // Of Generate calls: as RunningGenerations.
  void StartDraining() { running_.StartDraining(); }
  bool WaitUntilIdle(absl::Duration timeout) { return running_.WaitUntilIdle(timeout); }
  void EndAll(const absl::Status& why) { running_.EndAll(why); }

 private:
  // Counts and logs a Generate call that gets no Generation, and ends it.
  grpc::ServerWriteReactor<v1::GenerateResponse>* Refuse(const absl::Status& error,
                                                         const std::string& client,
                                                         grpc::CallbackServerContext& context);

  const Generation::Uses uses_;
  const Callers& callers_;
  const v1::ModelInfo model_info_;
  const Options options_;
  DeadlineWatch deadlines_;  // of Generate calls
  RunningGenerations running_;
};

}  // namespace kvship
