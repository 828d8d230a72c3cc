#include "decode_service/decode_metrics.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "decode_service/prefill_fault.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"
#include "service/metric_factory.h"

namespace kvship {
namespace {

using prometheus::Histogram;

// From a cached short prompt to a request's deadline, as the flags have it.
const Histogram::BucketBoundaries kFirstTokenSeconds = {
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 200, 400, 600};
const Histogram::BucketBoundaries kStructureSeconds = {0.001, 0.005, 0.025, 0.1, 0.5, 2, 10};
// To where a step is nearly stuck.
const Histogram::BucketBoundaries kBetweenTokensSeconds = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};
// From a loopback connection, where next to nothing is left to wait for, to a slow link.
const Histogram::BucketBoundaries kTransferSeconds = {
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
const Histogram::BucketBoundaries kBatchSessions = {1, 2, 4, 8, 16, 32, 64};

// What rejections count as, by the reasons of their statuses; without one memory was short.
constexpr std::pair<absl::string_view, const char*> kRejections[] = {
    {kPoolFull, "pool"}, {kPrefillFull, "prefill"}, {kClientLimit, "client"}, {kHttpFull, "http"}};
constexpr char kMemoryShort[] = "memory";

std::string RejectionOf(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  for (const auto& [known, label] : kRejections) {
    if (reason == known) return label;
  }
  return kMemoryShort;
}

constexpr size_t kMaxClients = 1000;
constexpr char kNoName[] = "(none)";
constexpr char kOtherClients[] = "(others)";

// Negative where nothing is dropped: pages are whole.
double MemorySavedBytes(const v1::KvReport& kv) {
  return static_cast<double>(kv.uncompressed_bytes()) - static_cast<double>(kv.pool_bytes());
}

}  // namespace

DecodeMetrics::DecodeMetrics(prometheus::Registry& registry)
    : DecodeMetrics(MetricFactory(registry, "kvship-decode")) {}

DecodeMetrics::PrefillNodeMetrics::PrefillNodeMetrics(const MetricFactory& make)
    : retries(make.Counters(
          "prefill_retries_total",
          "Prompts sent to another prefill node, by what was wrong with the one before: "
          "lost (its stream broke, or it said that it is stuck), broken (it sent what "
          "cannot be), full, gave_up (it waited too long for this side), draining, "
          "mismatch (another model, wire version or plan, or too little memory)")),
      ejections(make.Counter("prefill_ejections_total",
                             "Times that a prefill node got no prompts for a while because one "
                             "had failed there")),
      nodes(make.Gauges(
          "prefill_nodes",
          "Prefill nodes that are known, by standing: serving; draining (it said that it "
          "shuts down); ejected (it answers, but its last prompt failed); silent (it "
          "does not answer); unfit (it said that it cannot serve: stuck, another "
          "model). Prompts go to the first of these that any node has, never to unfit")),
      failures(make.Counters(
          "prefill_failures_total",
          "Prompts that a prefill node did not deliver, but for what it sent away as it shut down, "
          "by gRPC status code: UNAVAILABLE where it was lost, INTERNAL where a step of its engine "
          "failed, DATA_LOSS where what came was broken")) {
  BeginAtZero(failures, {absl::StatusCode::kUnavailable, absl::StatusCode::kInternal,
                         absl::StatusCode::kUnknown, absl::StatusCode::kDataLoss});
  for (const PrefillFault fault :
       {PrefillFault::kLost, PrefillFault::kBroken, PrefillFault::kFull, PrefillFault::kGaveUp,
        PrefillFault::kDraining, PrefillFault::kMismatch}) {
    retries.Add({{"reason", std::string(NameOf(fault))}});
  }
}

DecodeMetrics::ClientMetrics::ClientMetrics(const MetricFactory& make)
    : requests_(make.Counters(
          "client_requests_total",
          "Requests that ended, by gRPC status code and by client: the name of its API token or "
          "certificate, (none) without one, (others) for names after the first thousand")),
      tokens_(make.Counters(
          "client_tokens_total",
          "Tokens of requests whose prompts were read, however they ended, by client and kind: "
          "prompt; reused, of these those at the prompt's beginning that an earlier prompt had "
          "already; output")) {}

std::string DecodeMetrics::ClientMetrics::LabelOf(const std::string& client) {
  if (client.empty()) return kNoName;
  // A certificate's name can be any bytes, and Prometheus takes no metrics with a label that is
  // not UTF-8.
  if (ValidUtf8Bytes(client) != client.size()) return kOtherClients;
  std::lock_guard lock(mutex_);
  if (labels_.size() < kMaxClients) labels_.insert(client);
  return labels_.contains(client) ? client : kOtherClients;
}

void DecodeMetrics::ClientMetrics::CountRequest(const std::string& client, absl::StatusCode code) {
  requests_.Add({{"client", LabelOf(client)}, {"code", absl::StatusCodeToString(code)}})
      .Increment();
}

void DecodeMetrics::ClientMetrics::CountUsage(const std::string& client, const v1::Usage& usage) {
  const std::string label = LabelOf(client);
  const auto count = [&](const char* kind, uint32_t tokens) {
    tokens_.Add({{"client", label}, {"kind", kind}}).Increment(tokens);
  };
  count("prompt", usage.prompt_tokens());
  count("reused", usage.reused_tokens());
  count("output", usage.output_tokens());
}

DecodeMetrics::DecodeMetrics(const MetricFactory& make)
    : model_(make.ModelInfo()),
      requests_(make.Requests()),
      rejections_(make.Counters(
          "rejections_total",
          "Requests that ended with RESOURCE_EXHAUSTED, by what there was too little of: pool (too "
          "many prompt tokens wait, some in line for the KV pool), prefill (too many wait, all for "
          "prefill nodes, or these are full), client (its --max_client_requests or "
          "--max_client_bytes), http (--max_http_requests), memory (beside the pool)")),
      clients_(make),
      http_responses_(make.Counters(
          "http_responses_total",
          "Answers on the HTTP port, of whatever path, by status; a stream's status is "
          "that of its beginning; 499: the client had gone before the answer")),
      prompt_tokens_(
          make.Counter("prompt_tokens_total",
                       "Prompt tokens of requests whose cache has come, however they end")),
      output_tokens_(
          make.Counter("output_tokens_total", "Output tokens of requests that ended, however")),
      kept_tokens_(make.Counter("kept_tokens_total",
                                "Prompt tokens kept per KV head, the mean over layers and heads")),
      uncompressed_bytes_(
          make.Counters("kv_uncompressed_bytes_total",
                        "KV bytes that keeping whole prompts would have shipped, in f16 "
                        "where the encoder quantizes")),
      shipped_bytes_(make.Counters("kv_shipped_bytes_total", "KV bytes that crossed the wire")),
      saved_bytes_(
          make.Counters("kv_saved_bytes_total",
                        "KV bytes that did not have to be shipped: uncompressed less shipped")),
      receive_seconds_(
          make.Counter("kv_receive_seconds_total",
                       "Time in which layers were coming in, from a layer's header to its "
                       "last byte in the pool; shipped bytes per second of it is the speed "
                       "of the way from the prefill node")),
      prefill_(make),
      pool_capacity_bytes_(make.Gauge("pool_capacity_bytes", "Bytes of the KV pool")),
      pool_reserved_bytes_(
          make.Gauge("pool_reserved_bytes", "Bytes of the KV pool that are handed out")),
      pool_fill_ratio_(make.Gauge("pool_fill_ratio", "Share of the KV pool that is handed out")),
      memory_saved_bytes_(
          make.Gauge("memory_saved_bytes",
                     "Bytes that the whole prompts of running requests would take beyond "
                     "what their caches take in the KV pool")),
      sessions_(make.Gauge("sessions", "Requests whose output is being made")),
      waiting_tokens_(
          make.Gauge("waiting_prompt_tokens",
                     "Prompt tokens of requests without memory: they wait for a prefill node to be "
                     "ready, or in line for room in the KV pool")),
      line_requests_(make.Gauge("line_requests", "Requests in line for room in the KV pool")),
      line_tokens_(make.Gauge("line_prompt_tokens",
                              "Prompt tokens of requests in line for room in the KV pool")),
      batch_sessions_(
          make.Histogram("batch_sessions", "Sessions in a decode step", kBatchSessions)),
      first_token_seconds_(make.Histogram("time_to_first_token_seconds",
                                          "From a request's arrival to its first output token",
                                          kFirstTokenSeconds)),
      between_tokens_seconds_(make.Histogram("time_between_tokens_seconds",
                                             "From an output token to the next one of its request",
                                             kBetweenTokensSeconds)),
      structure_seconds_(
          make.Histogram("structure_compile_seconds",
                         "Compiling the JSON schema, or the strict tools, that a request's output "
                         "is held to",
                         kStructureSeconds)),
      transfer_seconds_(make.Histogram(
          "transfer_seconds",
          "The part of the transfer that requests wait for: from the end of the last "
          "layer's computation to the verified cache, and before that while the "
          "network held it up",
          kTransferSeconds)),
      retained_mass_(make.Histograms("retained_mass_ratio",
                                     "Share of the window's attention on kept tokens, by policy")) {
  http_responses_.Add({{"status", "200"}});
  for (const auto& [reason, label] : kRejections) rejections_.Add({{"reason", label}});
  rejections_.Add({{"reason", kMemoryShort}});
}

void DecodeMetrics::SetModel(const std::string& name) { model_.Add({{"model", name}}).Set(1); }

void DecodeMetrics::CountRequest(const absl::Status& status, const std::string& client) {
  clients_.CountRequest(client, status.code());
  requests_.Add({{"code", absl::StatusCodeToString(status.code())}}).Increment();
  if (!absl::IsResourceExhausted(status)) return;
  rejections_.Add({{"reason", RejectionOf(status)}}).Increment();
}

void DecodeMetrics::CountUsage(const v1::Usage& usage, const std::string& client) {
  output_tokens_.Increment(usage.output_tokens());
  clients_.CountUsage(client, usage);
}

void DecodeMetrics::CountHttpResponse(int status) {
  http_responses_.Add({{"status", absl::StrCat(status)}}).Increment();
}

void DecodeMetrics::CountPrefillFailure(const absl::Status& error) {
  prefill_.failures.Add({{"code", absl::StatusCodeToString(error.code())}}).Increment();
}

void DecodeMetrics::AddCache(const v1::GenerateReport& report, absl::Duration receive_time) {
  const v1::KvReport& kv = report.kv();
  memory_saved_bytes_.Increment(MemorySavedBytes(kv));
  prompt_tokens_.Increment(report.usage().prompt_tokens());
  kept_tokens_.Increment(kv.kept_tokens());
  receive_seconds_.Increment(absl::ToDoubleSeconds(receive_time));
  transfer_seconds_.Observe(report.timing().transfer_ms() / 1e3);
  prometheus::Labels labels = {{"scorer", kv.compression().scorer()},
                               {"allocator", kv.compression().allocator()},
                               {"selector", kv.compression().selector()}};
  retained_mass_.Add(labels, RetainedMassBounds()).Observe(kv.retained_mass_mean());
  labels.emplace("encoder", kv.compression().encoder());
  uncompressed_bytes_.Add(labels).Increment(static_cast<double>(kv.uncompressed_bytes()));
  shipped_bytes_.Add(labels).Increment(static_cast<double>(kv.shipped_bytes()));
  // Where a budget barely below the prompt's length drops nothing, positions can make it negative.
  const double saved =
      static_cast<double>(kv.uncompressed_bytes()) - static_cast<double>(kv.shipped_bytes());
  saved_bytes_.Add(labels).Increment(std::max(0.0, saved));
}

void DecodeMetrics::RemoveCache(const v1::KvReport& kv) {
  memory_saved_bytes_.Decrement(MemorySavedBytes(kv));
}

void DecodeMetrics::ObserveFirstToken(absl::Duration since_arrival) {
  first_token_seconds_.Observe(absl::ToDoubleSeconds(since_arrival));
}

void DecodeMetrics::ObserveStructure(absl::Duration compiling) {
  structure_seconds_.Observe(absl::ToDoubleSeconds(compiling));
}

void DecodeMetrics::ObserveBetweenTokens(absl::Duration between) {
  between_tokens_seconds_.Observe(absl::ToDoubleSeconds(between));
}

void DecodeMetrics::ObserveBatch(size_t num_sessions) {
  batch_sessions_.Observe(static_cast<double>(num_sessions));
}

void DecodeMetrics::SetSessions(size_t num_sessions) {
  sessions_.Set(static_cast<double>(num_sessions));
}

void DecodeMetrics::SetPool(size_t capacity_bytes, size_t reserved_bytes) {
  pool_capacity_bytes_.Set(static_cast<double>(capacity_bytes));
  pool_reserved_bytes_.Set(static_cast<double>(reserved_bytes));
  pool_fill_ratio_.Set(static_cast<double>(reserved_bytes) / static_cast<double>(capacity_bytes));
}

void DecodeMetrics::SetWaiting(size_t prompt_tokens, size_t line_requests, size_t line_tokens) {
  waiting_tokens_.Set(static_cast<double>(prompt_tokens));
  line_requests_.Set(static_cast<double>(line_requests));
  line_tokens_.Set(static_cast<double>(line_tokens));
}

void DecodeMetrics::CountPrefillRetry(absl::string_view reason) {
  prefill_.retries.Add({{"reason", std::string(reason)}}).Increment();
}

void DecodeMetrics::CountPrefillEjection() { prefill_.ejections.Increment(); }

void DecodeMetrics::SetPrefillNodes(absl::string_view standing, size_t num_nodes) {
  prefill_.nodes.Add({{"standing", std::string(standing)}}).Set(static_cast<double>(num_nodes));
}

}  // namespace kvship
