#include "tests/prefill_service/prefill_node.h"

#include <utility>

#include "base/random.h"
#include "engine/model_identity.h"
#include "rpc/sealed_message.h"
#include "tests/eventually.h"

namespace kvship {
namespace {

std::unique_ptr<const Transformer> Load() {
  absl::StatusOr<std::unique_ptr<const Transformer>> loaded =
      LoadTransformer(KVSHIP_GOLDENS "/models/llama");
  if (!loaded.ok()) throw std::runtime_error(std::string(loaded.status().message()));
  return *std::move(loaded);
}

}  // namespace

TinyModel::TinyModel(size_t times) : loaded(Load()) {
  if (times == 1) return;
  auto deeper = std::make_unique<Transformer>();
  deeper->config = loaded->config;
  deeper->config.num_layers *= times;
  deeper->config.context_tokens = 1 << 20;
  deeper->embedding = loaded->embedding;
  deeper->output_norm = loaded->output_norm;
  deeper->output = loaded->output;
  deeper->identity = loaded->identity;
  for (size_t i = 0; i < times; ++i) {
    deeper->layers.insert(deeper->layers.end(), loaded->layers.begin(), loaded->layers.end());
  }
  repeated = std::move(deeper);
}

PrefillNode::PrefillNode(const PrefillScheduler::Options& options, size_t model_times,
                         size_t block_tokens, size_t prefix_cache_bytes)
    : model(model_times),
      identity(CombinedIdentity(model.transformer().identity, {})),
      metrics(registry),
      reader(model.transformer(), backend,
             {.arithmetic = Arithmetic::kFloat32,
              .block_tokens = block_tokens,
              .prefix_cache_bytes = prefix_cache_bytes}),
      scheduler(reader, metrics, options),
      service({.callers = callers,
               .model = model.config(),
               .identity = identity,
               .scheduler = scheduler,
               .metrics = metrics,
               .tracer = tracer,
               .readiness = readiness},
              GrpcServerChannelOptions()) {
  RpcServer::Options rpc;
  rpc.listen = "127.0.0.1:0";
  rpc.max_message_bytes = PrefillRpcService::MostMessageBytes(model.config());
  auto started = RpcServer::Start(rpc, {&service}, {}, readiness);
  if (!started.ok()) throw std::runtime_error(std::string(started.status().message()));
  server = *std::move(started);
  readiness.StartServing([this] { return scheduler.CheckProgress(); });
  connection = std::make_unique<PrefillConnection>(target(), PrefillConnection::Options());
}

PrefillNode::~PrefillNode() {
  connection.reset();
  server->Shutdown(absl::Seconds(1));
}

v1::PrefillBegin PrefillNode::Begin(const std::vector<int32_t>& tokens,
                                    const std::string& compression) const {
  const CompressionOptions options = *ParseCompression(compression);
  v1::PrefillBegin begin;
  *begin.mutable_wire_version() = WireVersionProto();
  begin.set_model_identity(identity.data(), identity.size());
  for (int32_t token : tokens) begin.add_tokens(token);
  *begin.mutable_compression() = CompressionToProto(options);
  const auto plan = MakePlan(options, ShapeOf(model.config()), tokens.size());
  if (plan.ok()) *begin.mutable_plan() = PlanToProto(*plan);
  *begin.mutable_sampling() = SamplingToProto({});
  begin.add_transports("grpc");
  return begin;
}

double PrefillNode::Metric(const std::string& name) const {
  double sum = 0;
  for (const prometheus::MetricFamily& family : registry.Collect()) {
    if (family.name != name) continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      sum += metric.counter.value + metric.gauge.value +
             static_cast<double>(metric.histogram.sample_count);
    }
  }
  return sum;
}

bool PrefillNode::Becomes(const std::string& metric, double value, absl::Duration timeout) const {
  return Eventually([&] { return Metric(metric) == value; }, timeout);
}

std::shared_ptr<CollectedCall> CollectedCall::Start(PrefillNode& node,
                                                    const v1::PrefillBegin& begin,
                                                    const Options& options,
                                                    absl::Duration timeout) {
  auto call = std::make_shared<CollectedCall>(options);
  std::unique_lock lock(call->mutex_);  // events wait until the channel is known
  call->channel_ = node.connection->Open(absl::Now() + timeout, call);
  lock.unlock();
  v1::PrefillRequest request;
  *request.mutable_begin() = begin;
  call->channel_->SendMessage(Sealed(request));
  return call;
}

void CollectedCall::OnMessage(std::span<const std::byte> message) {
  std::lock_guard lock(mutex_);
  v1::PrefillResponse response;
  if (!response.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
    channel_->Close(absl::DataLossError("no PrefillResponse"));
    return;
  }
  if (response.has_ready() && options_.says_go) {
    v1::PrefillRequest request;
    request.mutable_go()->set_transport("grpc");
    channel_->SendMessage(Sealed(request));
  }
  if (receiver_.has_value() && response.has_layer()) {
    cache_status_.Update(receiver_->BeginLayer(LayerHeaderFromProto(response.layer())));
  }
  if (receiver_.has_value() && response.has_manifest()) {
    cache_status_.Update(receiver_->Finish(*ManifestFromProto(response.manifest())));
  }
  messages_.push_back(std::move(response));
  changed_.notify_all();
}

void CollectedCall::OnFrame(const FrameHeader& header, BytePieces payload) {
  std::lock_guard lock(mutex_);
  if (receiver_.has_value()) cache_status_.Update(receiver_->AddFrame(header, payload));
}

void CollectedCall::OnClosed(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  closed_ = status;
  changed_.notify_all();
}

absl::Status CollectedCall::WaitUntilClosed() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(kHangs),
                    [this] { return closed_.has_value(); });
  return closed_.value_or(absl::InternalError("the call did not end"));
}

bool CollectedCall::WaitFor(v1::PrefillResponse::MessageCase kind, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [&] {
    for (const auto& message : messages_) {
      if (message.message_case() == kind) return true;
    }
    return false;
  });
}

void CollectedCall::SayGo() {
  v1::PrefillRequest request;
  request.mutable_go()->set_transport("grpc");
  channel_->SendMessage(Sealed(request));
}

v1::PrefillResponse CollectedCall::First(v1::PrefillResponse::MessageCase kind) const {
  std::lock_guard lock(mutex_);
  for (const auto& message : messages_) {
    if (message.message_case() == kind) return message;
  }
  return {};
}

std::vector<int32_t> RandomTokens(size_t num_tokens, uint64_t seed) {
  constexpr uint64_t kVocabTokens = 320;
  std::vector<int32_t> tokens(num_tokens);
  for (size_t i = 0; i < num_tokens; ++i) {
    tokens[i] = static_cast<int32_t>(RandomBits(seed, i) % kVocabTokens);
  }
  return tokens;
}

}  // namespace kvship
