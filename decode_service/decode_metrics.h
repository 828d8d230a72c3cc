// DecodeMetrics are the counters, gauges and histograms of a decode node, all named
// kvship_decode_*. docs/metrics.md lists them. Thread safe.
#pragma once

#include <cstddef>
#include <mutex>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kvship/v1/generation.pb.h"
#include "prometheus/registry.h"
#include "service/metric_factory.h"

namespace kvship {

class DecodeMetrics {
 public:
  // Borrows the registry, which must outlive it.
  explicit DecodeMetrics(prometheus::Registry& registry);

  // The model that is served; once.
  void SetModel(const std::string& name);
  // The end of a request of `client` (empty: not known): its outcome is the gRPC status code's
  // name, "OK" or "RESOURCE_EXHAUSTED"; that one counts by its reason (rejection.h), too.
  void CountRequest(const absl::Status& status, const std::string& client);
  // The tokens of a request whose prompt was read, at its end, however it ended.
  void CountUsage(const v1::Usage& usage, const std::string& client);
  // An answer on the HTTP port, by its status.
  void CountHttpResponse(int status);
  // An attempt to have a prompt read that failed, neither cancelled nor at a node that drains.
  void CountPrefillFailure(const absl::Status& error);

  // A prompt's cache, which the report tells of, has come and is in use from now on; its layers
  // took `receive_time` to come in.
  void AddCache(const v1::GenerateReport& report, absl::Duration receive_time);
  // It is no more.
  void RemoveCache(const v1::KvReport& kv);

  void ObserveFirstToken(absl::Duration since_arrival);
  void ObserveBetweenTokens(absl::Duration between);
  // The structure that an output is held to was compiled.
  void ObserveStructure(absl::Duration compiling);
  void ObserveBatch(size_t num_sessions);
  void SetSessions(size_t num_sessions);
  void SetPool(size_t capacity_bytes, size_t reserved_bytes);
  // Prompt tokens of requests without memory; of these, the requests in line for it, and theirs.
  void SetWaiting(size_t prompt_tokens, size_t line_requests, size_t line_tokens);
  // `reason` as NameOf(PrefillFault).
  void CountPrefillRetry(absl::string_view reason);
  void CountPrefillEjection();
  // `standing` as PrefillNode::NameOf.
  void SetPrefillNodes(absl::string_view standing, size_t num_nodes);

 private:
  // Of prefill nodes, as a decode node sees them.
  struct PrefillNodeMetrics {
    explicit PrefillNodeMetrics(const MetricFactory& make);

    prometheus::Family<prometheus::Counter>& retries;
    prometheus::Counter& ejections;
    prometheus::Family<prometheus::Gauge>& nodes;
    prometheus::Family<prometheus::Counter>& failures;
  };

  // By client, whose names may be those of any number of certificates: the first thousand have
  // series of their own.
  class ClientMetrics {
   public:
    explicit ClientMetrics(const MetricFactory& make);
    void CountRequest(const std::string& client, absl::StatusCode code);
    void CountUsage(const std::string& client, const v1::Usage& usage);

   private:
    std::string LabelOf(const std::string& client);

    prometheus::Family<prometheus::Counter>& requests_;
    prometheus::Family<prometheus::Counter>& tokens_;
    std::mutex mutex_;
    std::set<std::string> labels_;
  };

  explicit DecodeMetrics(const MetricFactory& make);

  prometheus::Family<prometheus::Gauge>& model_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rejections_;
  ClientMetrics clients_;
  prometheus::Family<prometheus::Counter>& http_responses_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& output_tokens_;
  prometheus::Counter& kept_tokens_;
  prometheus::Family<prometheus::Counter>& uncompressed_bytes_;
  prometheus::Family<prometheus::Counter>& shipped_bytes_;
  prometheus::Family<prometheus::Counter>& saved_bytes_;
  prometheus::Counter& receive_seconds_;
  PrefillNodeMetrics prefill_;
  prometheus::Gauge& pool_capacity_bytes_;
  prometheus::Gauge& pool_reserved_bytes_;
  prometheus::Gauge& pool_fill_ratio_;
  prometheus::Gauge& memory_saved_bytes_;
  prometheus::Gauge& sessions_;
  prometheus::Gauge& waiting_tokens_;
  prometheus::Gauge& line_requests_;
  prometheus::Gauge& line_tokens_;
  prometheus::Histogram& batch_sessions_;
  prometheus::Histogram& first_token_seconds_;
  prometheus::Histogram& between_tokens_seconds_;
  prometheus::Histogram& structure_seconds_;
  prometheus::Histogram& transfer_seconds_;
  prometheus::Family<prometheus::Histogram>& retained_mass_;
};

}  // namespace kvship
