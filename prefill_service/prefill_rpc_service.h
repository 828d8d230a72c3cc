// PrefillRpcService implements kvship.v1.PrefillService: it parses and checks the messages of each
// stream and hands requests to the scheduler. Thread safe.
#pragma once

#include <condition_variable>
#include <mutex>

#include "base/deadline_watch.h"
#include "base/sha256.h"
#include "engine/model_config.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "prefill_service/prefill_metrics.h"
#include "prefill_service/prefill_scheduler.h"
#include "prefill_service/prefill_trace.h"
#include "service/callers.h"
#include "service/nccl_service.h"
#include "service/readiness.h"
#include "service/tracer.h"
#include "transport/grpc_server.h"

namespace kvship {

class PrefillRpcService final
    : public v1::PrefillService::WithRawCallbackMethod_Prefill<
          v1::PrefillService::WithCallbackMethod_GetModelInfo<v1::PrefillService::Service>> {
 public:
  // What the service uses; borrowed, must outlive all calls.
  struct Parts {
    const Callers& callers;
    const ModelConfig& model;
    Sha256Digest identity;
    PrefillScheduler& scheduler;
    PrefillMetrics& metrics;
    Tracer& tracer;
    const Readiness& readiness;
    bool keeps_prefixes = false;  // there is a prefix cache
    NcclService* nccl = nullptr;  // null: frames go over gRPC only
  };

  PrefillRpcService(const Parts& parts, const GrpcServerChannelOptions& options)
      : parts_(parts), options_(options) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Prefill(
      grpc::CallbackServerContext* context) override;

  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::PrefillServiceGetModelInfoRequest* request,
                                         v1::PrefillServiceGetModelInfoResponse* response) override;

  // Returns the handler of one Prefill stream, on any kind of channel. `caller` is the caller's
  // name.
  std::shared_ptr<FrameChannelEvents> Accept(const std::shared_ptr<FrameChannel>& channel,
                                             const PrefillTrace& trace = {},
                                             const std::string& caller = "");

  // Waits until all calls have ended and sent all they had to; false on timeout.
  bool WaitUntilIdle(absl::Duration timeout);

  // The size of the longest valid Begin: ids of a whole context take up to 5 bytes each, the mask
  // of first tokens a bit per token of the vocabulary.
  static size_t MostMessageBytes(const ModelConfig& model);

 private:
  friend class PrefillCall;
  absl::Status FillModelInfo(v1::PrefillServiceGetModelInfoResponse* response) const;

  const Parts parts_;
  const GrpcServerChannelOptions options_;
  DeadlineWatch deadlines_;  // of calls
  std::mutex mutex_;
  std::condition_variable idle_;
  size_t num_calls_ = 0;
};

}  // namespace kvship
