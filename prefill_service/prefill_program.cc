#include "prefill_service/prefill_program.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "engine/gpu.h"
#include "engine/model_identity.h"
#include "engine/transformer.h"
#include "prefill_service/gpu_prompt_reader.h"
#include "prefill_service/host_prompt_reader.h"
#include "prefill_service/prefill_rpc_service.h"
#include "prefill_service/prefill_status.h"
#include "rpc/model_info.h"
#include "service/admin_server.h"
#include "service/nccl_service.h"
#include "service/node_metrics.h"
#include "service/option_range.h"
#include "service/readiness.h"
#include "service/rpc_server.h"

namespace kvship {
namespace {

constexpr char kProgram[] = "kvship-prefill";

struct ServedModel {
  std::unique_ptr<const Transformer> transformer;
  Sha256Digest identity;  // of weights and tokenizer together
};

absl::StatusOr<ServedModel> LoadModel(const std::string& path) {
  const ExitOnStop exit_on_stop;
  LogInfo(absl::StrCat("loading ", path));
  ServedModel model;
  ASSIGN_OR_RETURN(model.transformer, LoadTransformer(path));
  ASSIGN_OR_RETURN(model.identity, ModelIdentity(*model.transformer, path));
  return model;
}

absl::StatusOr<std::unique_ptr<PromptReader>> OpenReader(const PrefillProgramOptions& options,
                                                         const Transformer& model,
                                                         Backend& backend) {
  if (options.device.is_gpu) {
    const ExitOnStop exit_on_stop;  // a large prefix cache takes a minute to pin
    LogInfo(absl::StrCat("moving the model to cuda:", options.device.ordinal));
    return OpenGpuPromptReader(options.device, model, options.block_tokens,
                               options.prefix_cache_bytes);
  }
  PrefillEngine::Options engine;
  if (options.float32) engine.arithmetic = Arithmetic::kFloat32;
  if (options.block_tokens > 0) engine.block_tokens = options.block_tokens;
  RETURN_IF_ERROR(FirstWrongFlag({PrefixCache::CheckBytes(
      options.prefix_cache_bytes, PrefillEngine::PrefixBlockBytes(model.config))}));
  engine.prefix_cache_bytes = options.prefix_cache_bytes;
  return std::make_unique<HostPromptReader>(model, backend, engine);
}

// Grace for streams that never end by themselves, such as watches of the health service.
constexpr absl::Duration kOtherCallsGrace = absl::Milliseconds(200);
// For the engine's current step, and for sending the requests' ends.
constexpr absl::Duration kMostEndTime = absl::Seconds(2);

void Drain(absl::Duration timeout, Readiness& readiness, PrefillScheduler& scheduler,
           PrefillRpcService& service, RpcServer& server) {
  const absl::Time deadline = MonotonicNow() + timeout;
  readiness.StartDraining();
  LogDraining(timeout);
  absl::SleepFor(std::min(kDrainNotice, timeout));
  scheduler.StartDraining();
  if (!service.WaitUntilIdle(deadline - MonotonicNow())) {
    LogWarning(absl::StrCat("some requests did not end within ", absl::FormatDuration(timeout),
                            "; they are ended"));
    scheduler.EndAll();
    service.WaitUntilIdle(kMostEndTime);
  }
  server.Shutdown(kOtherCallsGrace);
}

// Returns null if caches go over gRPC only.
absl::StatusOr<std::unique_ptr<NcclService>> OpenNccl(const PrefillProgramOptions& options,
                                                      NcclMetrics& metrics) {
  if (!options.uses_nccl) return nullptr;
  ASSIGN_OR_RETURN(auto staging, OpenGpuFrameStaging(options.device, NcclService::kStagedFrames));
  return NcclService::Open(options.device.ordinal, std::move(staging), metrics);
}

}  // namespace

absl::Status PrefillProgramOptions::Validate() const {
  RETURN_IF_ERROR(CheckModelFlags(model, float32, device.is_gpu));
  RETURN_IF_ERROR(FirstWrongFlag({scheduler.Validate(), CheckThreads("threads", num_threads),
                                  CheckNotNegative("drain_timeout", drain_timeout)}));
  RETURN_IF_ERROR(security.Validate());
  return security.CheckListen("listen", listen, "--tls_client_ca", !security.tls.ca.empty());
}

absl::Status RunPrefillProgram(const PrefillProgramOptions& options, StopSignals& signals) {
  RETURN_IF_ERROR(options.Validate());
  if (options.device.is_gpu) RETURN_IF_ERROR(FindGpu(options.device));
  RpcServer::Options rpc;
  rpc.listen = options.listen;
  ASSIGN_OR_RETURN(rpc.credentials, options.security.Credentials());
  prometheus::Registry registry;
  NcclMetrics nccl_metrics(kProgram);
  Tracer tracer;
  RETURN_IF_ERROR(tracer.Start(kProgram, options.otlp_endpoint, registry));
  Readiness readiness;
  const NodeMetrics node_metrics(kProgram, readiness, nullptr);
  ASSIGN_OR_RETURN(const auto admin,
                   AdminServer::Start(kProgram, options.admin,
                                      {&registry, &node_metrics, &nccl_metrics}, readiness));

  ASSIGN_OR_RETURN(const ServedModel model, LoadModel(options.model));
  const ModelConfig& config = model.transformer->config;
  const size_t num_threads = NumThreads(options.num_threads);
  Backend backend(num_threads);
  ASSIGN_OR_RETURN(const auto reader, OpenReader(options, *model.transformer, backend));
  PrefillMetrics metrics(registry);
  metrics.SetModel(config.name);
  PrefillScheduler scheduler(*reader, metrics, options.scheduler);
  ASSIGN_OR_RETURN(const auto nccl, OpenNccl(options, nccl_metrics));
  const Callers callers(options.security.allowed_peers, nullptr);
  PrefillRpcService service({.callers = callers,
                             .model = config,
                             .identity = model.identity,
                             .scheduler = scheduler,
                             .metrics = metrics,
                             .tracer = tracer,
                             .readiness = readiness,
                             .keeps_prefixes = options.prefix_cache_bytes > 0,
                             .nccl = nccl.get()},
                            GrpcServerChannelOptions());
  // Of one decode node all requests, and its checks, share a connection.
  rpc.max_streams +=
      std::min(options.scheduler.max_queue_requests, RpcServer::kMostStreams - rpc.max_streams);
  rpc.max_message_bytes =
      std::min(PrefillRpcService::MostMessageBytes(config), RpcServer::kMostMessageBytes);
  ASSIGN_OR_RETURN(
      const auto server,
      RpcServer::Start(rpc, {&service}, {v1::PrefillService::service_full_name()}, readiness));
  const v1::ModelInfo model_info = ModelInfoToProto(config, model.identity, config.context_tokens);
  admin->ShowStatus(
      [&] { return PrefillStatusJson(model_info, MetricValues(registry), scheduler); });
  readiness.StartServing([&scheduler] { return scheduler.CheckProgress(); });
  LogInfo(absl::StrCat("serving ", config.name, " on port ", server->port(), ", admin port ",
                       admin->port(), ", with ", num_threads, " threads"));

  signals.Wait(options.drain_timeout);
  Drain(options.drain_timeout, readiness, scheduler, service, *server);
  admin->ShowStatus(nullptr);  // the scheduler is destroyed before it
  return absl::OkStatus();
}

}  // namespace kvship
