// DecodeServer is a decode node: the model, the KV pool, the decode loop, the prefill nodes, and
// the ports on which it serves.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "decode_service/generation_service.h"
#include "decode_service/http/http_service.h"
#include "engine/compute_device.h"
#include "engine/decoder.h"
#include "kernels/backend.h"
#include "service/admin_server.h"
#include "service/callers.h"
#include "service/nccl_service.h"
#include "service/node_metrics.h"
#include "service/port_security.h"
#include "service/rpc_server.h"

namespace kvship {

class DecodeServer {
 public:
  struct Options {
    std::string model_path;
    std::string admin = "127.0.0.1:9090";
    RpcServer::Options rpc;
    HttpService::Options http;
    PortSecurity security;
    std::string api_tokens_file;  // empty: clients need no token
    std::vector<std::string> prefill_targets = {"dns:///127.0.0.1:50051"};
    std::string prefill_tls_ca;  // of prefill nodes' certificates; empty: plain text
    ComputeDevice device;
    bool uses_nccl = false;  // with a GPU
    size_t num_threads = 0;  // on the CPU; 0: one per processor
    // Memory for caches, taken from the system as it is used.
    size_t pool_bytes = size_t{2} << 30;
    // None: f16, on a GPU what it computes in, which is all it takes.
    std::optional<PageFormat> tail_format;
    // Text form; where it differs from DefaultCompression of the model's head size.
    std::string default_compression;
    Arithmetic arithmetic = Arithmetic::kFast;
    size_t max_batch_sessions = 32;
    // A decode step that takes longer than this is stuck, and the node not ready.
    absl::Duration stuck_timeout = absl::Seconds(60);
    ReservationQueue::Options queue;
    size_t max_client_requests = 0;  // at a time; 0: any number
    GenerationService::Options calls;
    Generation::Options generation;
    absl::Duration drain_timeout = absl::Seconds(30);
    std::string otlp_endpoint;  // of the collector of traces; empty: none

    // Whether numbers are in their ranges, and the ports as safe as they have to be.
    // InvalidArgument naming the flag; else as PortSecurity.
    absl::Status Validate() const;
  };

  // Loads the model, listens and serves. Errors: as Options::Validate, ServerTls, ApiTokens::Load,
  // ServedModel::Load, KvPool::Create, FindGpu, OpenGpuForDecode, NcclService::Open, Tracer::Start,
  // RpcServer::Start, HttpService::Start and AdminServer::Start.
  static absl::StatusOr<std::unique_ptr<DecodeServer>> Start(Options options);
  ~DecodeServer();

  // Is not ready from now on, lets running requests end for up to drain_timeout, and stops.
  void Drain();

  int port() const { return rpc_->port(); }
  // 0: none.
  int http_port() const { return http_ == nullptr ? 0 : http_->port(); }
  int admin_port() const { return admin_->port(); }
  const ServedModel& model() const { return model_; }

 private:
  DecodeServer(Options options, ServedModel model, std::unique_ptr<Backend> backend,
               DecodeDevice device, std::unique_ptr<ApiTokens> tokens,
               std::shared_ptr<grpc::ChannelCredentials> prefill_credentials,
               std::unique_ptr<NcclMetrics> nccl_metrics, std::unique_ptr<NcclService> nccl);
  absl::Status Listen();
  absl::Status CheckServing() const;

  // In the order in which each needs those above.
  const Options options_;
  const ServedModel model_;
  prometheus::Registry registry_;
  DecodeMetrics metrics_;
  RecentRequests recent_;
  Tracer tracer_;
  const std::unique_ptr<Backend> backend_;
  const DecodeDevice device_;
  ReservationQueue queue_;
  ClientRequests client_requests_;
  DecodeLoop loop_;
  const std::unique_ptr<const NcclMetrics> nccl_metrics_;
  PrefillNodes nodes_;
  const std::unique_ptr<NcclService> nccl_;  // may be null; its last answers find all others there
  WorkQueue compiler_;
  WorkQueue preparer_;
  const Generation::Uses uses_;
  const Callers callers_;
  GenerationService service_;
  Readiness readiness_;
  const NodeMetrics node_metrics_;
  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<RpcServer> rpc_;
  std::unique_ptr<HttpService> http_;  // may be null
};

}  // namespace kvship
