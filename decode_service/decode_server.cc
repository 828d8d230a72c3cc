#include "decode_service/decode_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "decode_service/decode_status.h"
#include "engine/decode.h"
#include "engine/gpu.h"
#include "engine/prefill.h"
#include "rpc/compression.h"
#include "rpc/model_info.h"
#include "service/option_range.h"
#include "service/process.h"

namespace kvship {
namespace {

constexpr char kProgram[] = "kvship-decode";

// An answer that has ended here may still be on its way to a slow client, and gRPC does not tell.
// Streams that never end by themselves, such as watches of the health service, take all of it.
constexpr absl::Duration kMostDeliveryTime = absl::Seconds(5);

// A text of the longest prompt takes seconds to tokenize: with a second thread short ones come by.
constexpr size_t kPreparingThreads = 2;
// Of what waits: requests whose text is to be tokenized, structures that are to be compiled.
constexpr size_t kMostPreparerBytes = 128 << 20, kMostCompilerBytes = 32 << 20;

absl::StatusOr<ServedModel> LoadModel(const std::string& path) {
  const ExitOnStop exit_on_stop;
  LogInfo(absl::StrCat("loading ", path));
  return ServedModel::Load(path);
}

absl::StatusOr<DecodeDevice> OpenCpu(const DecodeServer::Options& options, const Transformer& model,
                                     Backend& backend) {
  DecodeDevice device;
  auto pool = KvPool::Create(options.pool_bytes);
  if (!pool.ok()) return OfFlag("--pool_bytes", pool.status());
  device.pool = *std::move(pool);
  device.tail_format = options.tail_format.value_or(PageFormat::kF16);
  device.decoder = std::make_unique<DecodeEngine>(model, backend, options.arithmetic);
  return device;
}

absl::StatusOr<DecodeDevice> OpenGpu(const DecodeServer::Options& options,
                                     const Transformer& model) {
  const ExitOnStop exit_on_stop;
  LogInfo(absl::StrCat("moving the model to cuda:", options.device.ordinal));
  ASSIGN_OR_RETURN(DecodeDevice device, OpenGpuForDecode(options.device, model, options.pool_bytes,
                                                         options.max_batch_sessions));
  const PageFormat own = device.tail_format;
  if (options.tail_format.value_or(own) != own) {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv_tail is '", PageFormatName(*options.tail_format), "'; wanted '",
                     PageFormatName(own), "', in which a GPU computes this model"));
  }
  return device;
}

// What a request gets that says nothing. Where that is not quantized, a GPU reads what it computes
// in as it is.
absl::StatusOr<CompressionOptions> DefaultCompressionOn(const DecodeServer::Options& options,
                                                        const DecodeDevice& device,
                                                        const ModelConfig& model) {
  CompressionOptions compression = DefaultCompression(model.head_dim);
  if (options.device.is_gpu && !IsQuantized(compression.encoder)) {
    compression.encoder = device.tail_format;
  }
  auto parsed = ParseCompression(options.default_compression, compression);
  if (!parsed.ok()) return OfFlag("--default_compression", parsed.status());
  return parsed;
}

v1::ModelInfo InfoOf(const ServedModel& model, const RequestLimits& limits) {
  v1::ModelInfo info =
      ModelInfoToProto(model.config(), model.identity, limits.ContextOf(model.config()));
  *info.mutable_default_compression() = CompressionToProto(limits.default_compression);
  return info;
}

// To prefill nodes; null: plain text.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> PrefillCredentials(
    const DecodeServer::Options& options) {
  if (options.prefill_tls_ca.empty()) return nullptr;
  const TlsFiles& own = options.security.tls;
  auto credentials =
      ChannelTls({.certificate = own.certificate, .key = own.key, .ca = options.prefill_tls_ca});
  if (!credentials.ok()) return OfFlag("--prefill_tls_ca", credentials.status());
  return credentials;
}

}  // namespace

absl::Status DecodeServer::Options::Validate() const {
  RETURN_IF_ERROR(CheckModelFlags(model_path, arithmetic == Arithmetic::kFloat32, device.is_gpu));
  RETURN_IF_ERROR(
      FirstWrongFlag({rpc.Validate(), CheckPositive("max_http_requests", http.max_requests),
                      CheckPositive("http_deadline", http.deadline),
                      CheckPositive("default_deadline", calls.default_deadline),
                      CheckPositive("stall_timeout", calls.stall_timeout),
                      CheckPositive("default_max_tokens", generation.limits.default_max_tokens),
                      CheckPositive("max_batch_sessions", max_batch_sessions),
                      CheckPositive("max_waiting_tokens", queue.max_waiting_tokens),
                      CheckPositive("max_waiting_requests", queue.max_waiting_requests),
                      CheckPositive("max_unread_tokens", generation.max_unread_tokens),
                      CheckPositive("pool_bytes", pool_bytes), CheckThreads("threads", num_threads),
                      CheckNotNegative("drain_timeout", drain_timeout),
                      CheckStuckTimeout("stuck_timeout", stuck_timeout)}));
  RETURN_IF_ERROR(security.Validate());
  const bool has_tokens = !api_tokens_file.empty();
  RETURN_IF_ERROR(security.CheckListen("listen", rpc.listen, "--tls_client_ca or --api_tokens_file",
                                       has_tokens || !security.tls.ca.empty()));
  if (!http.listen.empty()) {
    RETURN_IF_ERROR(security.CheckListen("http", http.listen, "--api_tokens_file", has_tokens));
  }
  RETURN_IF_ERROR(CheckTargets(prefill_targets));
  if (prefill_tls_ca.empty() && !security.insecure) {
    RETURN_IF_ERROR(CheckTargetsInPlainText(prefill_targets));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DecodeServer>> DecodeServer::Start(Options options) {
  RETURN_IF_ERROR(options.Validate());
  if (options.device.is_gpu) RETURN_IF_ERROR(FindGpu(options.device));
  ASSIGN_OR_RETURN(options.rpc.credentials, options.security.Credentials());
  std::unique_ptr<ApiTokens> tokens;
  if (!options.api_tokens_file.empty()) {
    auto loaded = ApiTokens::Load(options.api_tokens_file);
    if (!loaded.ok()) return OfFlag("--api_tokens_file", loaded.status());
    tokens = *std::move(loaded);
  }
  ASSIGN_OR_RETURN(auto prefill_credentials, PrefillCredentials(options));
  ASSIGN_OR_RETURN(ServedModel model, LoadModel(options.model_path));
  auto backend = std::make_unique<Backend>(NumThreads(options.num_threads));
  ASSIGN_OR_RETURN(DecodeDevice device, options.device.is_gpu
                                            ? OpenGpu(options, *model.transformer)
                                            : OpenCpu(options, *model.transformer, *backend));
  ASSIGN_OR_RETURN(options.generation.limits.default_compression,
                   DefaultCompressionOn(options, device, model.config()));
  auto nccl_metrics = std::make_unique<NcclMetrics>(kProgram);
  std::unique_ptr<NcclService> nccl;
  if (options.uses_nccl) {
    ASSIGN_OR_RETURN(auto staging, OpenGpuFrameStaging(options.device, NcclService::kStagedFrames));
    ASSIGN_OR_RETURN(nccl,
                     NcclService::Open(options.device.ordinal, std::move(staging), *nccl_metrics));
  }
  std::unique_ptr<DecodeServer> server(new DecodeServer(
      std::move(options), std::move(model), std::move(backend), std::move(device),
      std::move(tokens), std::move(prefill_credentials), std::move(nccl_metrics), std::move(nccl)));
  RETURN_IF_ERROR(server->Listen());
  return server;
}

DecodeServer::DecodeServer(Options options, ServedModel model, std::unique_ptr<Backend> backend,
                           DecodeDevice device, std::unique_ptr<ApiTokens> tokens,
                           std::shared_ptr<grpc::ChannelCredentials> prefill_credentials,
                           std::unique_ptr<NcclMetrics> nccl_metrics,
                           std::unique_ptr<NcclService> nccl)
    : options_(std::move(options)),
      model_(std::move(model)),
      metrics_(registry_),
      backend_(std::move(backend)),
      device_(std::move(device)),
      queue_(*device_.pool, metrics_, ShapeOf(model_.config()), device_.tail_format,
             options_.queue),
      client_requests_(options_.max_client_requests),
      loop_(*device_.decoder, backend_->threads(), metrics_, options_.max_batch_sessions),
      nccl_metrics_(std::move(nccl_metrics)),
      nodes_({.targets = options_.prefill_targets,
              .model_identity = model_.identity,
              .connection = {.credentials = std::move(prefill_credentials)}},
             metrics_),
      nccl_(std::move(nccl)),
      compiler_(/*num_threads=*/1, kMostCompilerBytes),
      preparer_(kPreparingThreads, kMostPreparerBytes),
      uses_{.model = model_,
            .nodes = nodes_,
            .client_requests = client_requests_,
            .queue = queue_,
            .loop = loop_,
            .metrics = metrics_,
            .nccl = nccl_.get(),
            .recent = recent_,
            .tracer = tracer_,
            .preparer = preparer_,
            .compiler = compiler_,
            .options = options_.generation},
      callers_(options_.security.allowed_peers, std::move(tokens)),
      service_(uses_, callers_, InfoOf(model_, options_.generation.limits), options_.calls),
      node_metrics_(kProgram, readiness_, callers_.tokens()) {
  metrics_.SetModel(model_.config().name);
}

DecodeServer::~DecodeServer() { readiness_.StartDraining(); }

absl::Status DecodeServer::Listen() {
  RETURN_IF_ERROR(tracer_.Start(kProgram, options_.otlp_endpoint, registry_));
  ASSIGN_OR_RETURN(
      admin_, AdminServer::Start(kProgram, options_.admin,
                                 {&registry_, &node_metrics_, nccl_metrics_.get()}, readiness_));
  admin_->ShowStatus([this] {
    return DecodeStatusJson(service_.model_info(), MetricValues(registry_), nodes_, recent_);
  });
  ASSIGN_OR_RETURN(rpc_,
                   RpcServer::Start(options_.rpc, {&service_},
                                    {v1::GenerationService::service_full_name()}, readiness_));
  if (!options_.http.listen.empty()) {
    ASSIGN_OR_RETURN(
        http_, HttpService::Start(uses_, callers_, readiness_, options_.security, options_.http));
  }
  readiness_.StartServing([this] { return CheckServing(); });
  return absl::OkStatus();
}

absl::Status DecodeServer::CheckServing() const {
  RETURN_IF_ERROR(loop_.CheckProgress(options_.stuck_timeout));
  return nodes_.CheckAnyAnswers();
}

void DecodeServer::Drain() {
  const absl::Duration timeout = options_.drain_timeout;
  const absl::Time deadline = MonotonicNow() + timeout;
  readiness_.StartDraining();
  LogDraining(timeout);
  absl::SleepFor(std::min(kDrainNotice, timeout));
  service_.StartDraining();
  if (http_ != nullptr) http_->StartDraining();
  rpc_->StartShutdown();
  const bool rpc_idle = service_.WaitUntilIdle(deadline - MonotonicNow());
  const bool http_idle = http_ == nullptr || http_->WaitUntilIdle(deadline - MonotonicNow());
  if (!rpc_idle || !http_idle) {
    LogWarning(absl::StrCat("some requests did not end within ", absl::FormatDuration(timeout),
                            "; they are ended"));
    const absl::Status unfinished = absl::UnavailableError(
        "the server shuts down and could not finish the answer; send the request again");
    service_.EndAll(unfinished);
    if (http_ != nullptr) http_->EndAll(unfinished);
  }
  // Both ports' clients have the same time.
  const absl::Time delivered = MonotonicNow() + kMostDeliveryTime;
  if (http_ != nullptr) http_->Stop(kMostDeliveryTime);
  rpc_->Shutdown(delivered - MonotonicNow());
}

}  // namespace kvship
