#include "decode_service/decode_status.h"

#include <cstdint>

#include "base/clock.h"
#include "rpc/message_json.h"
#include "service/status_json.h"

namespace kvship {
namespace {

using Json = nlohmann::ordered_json;

uint64_t Count(const MetricValues& metrics, const std::string& name) {
  return static_cast<uint64_t>(metrics.Sum("kvship_decode_" + name));
}

Json NodesJson(const PrefillNodes& nodes) {
  Json list = Json::array();
  for (const PrefillNodeState& node : nodes.Snapshot()) {
    list.push_back({{"address", node.address},
                    {"serving", node.serving},
                    {"health", node.health},
                    {"load_tokens", node.load_tokens},
                    {"ejected_seconds", absl::ToDoubleSeconds(node.ejected_for)}});
  }
  return list;
}

// [layer][head]
Json RetainedMassJson(const v1::KvReport& kv) {
  Json layers = Json::array();
  for (const v1::LayerReport& layer : kv.layers()) {
    Json heads = Json::array();
    for (const float mass : layer.retained_mass()) heads.push_back(RoundedShare(mass));
    layers.push_back(std::move(heads));
  }
  return layers;
}

Json RequestJson(const RecentRequests::Entry& entry) {
  const v1::KvReport& kv = entry.report.kv();
  return {{"request_id", entry.request_id},
          {"age_seconds", absl::ToDoubleSeconds(MonotonicNow() - entry.ended)},
          {"transfer_bytes_per_second",
           static_cast<double>(kv.shipped_bytes()) / absl::ToDoubleSeconds(entry.receive_time)},
          {"usage", MessageFields(entry.report.usage(), /*only_set=*/false)},
          {"kv", MessageFields(kv, /*only_set=*/false)},
          {"timing", MessageFields(entry.report.timing(), /*only_set=*/false)},
          {"retained_mass", RetainedMassJson(kv)}};
}

}  // namespace

Json DecodeStatusJson(const v1::ModelInfo& model, const MetricValues& metrics,
                      const PrefillNodes& nodes, const RecentRequests& recent) {
  Json requests = Json::array();
  for (const RecentRequests::Entry& entry : recent.Newest()) requests.push_back(RequestJson(entry));
  return {
      {"model", MessageFields(model, /*only_set=*/false)},
      {"pool",
       {{"capacity_bytes", Count(metrics, "pool_capacity_bytes")},
        {"reserved_bytes", Count(metrics, "pool_reserved_bytes")}}},
      {"sessions", Count(metrics, "sessions")},
      {"waiting_prompt_tokens", Count(metrics, "waiting_prompt_tokens")},
      {"line_prompt_tokens", Count(metrics, "line_prompt_tokens")},
      {"requests", RequestsByCode(metrics, "kvship_decode_requests_total")},
      {"prompt_tokens", Count(metrics, "prompt_tokens_total")},
      {"output_tokens", Count(metrics, "output_tokens_total")},
      // The first of each request, and one of each session in each step.
      {"generated_tokens", metrics.Observations("kvship_decode_time_to_first_token_seconds") +
                               Count(metrics, "batch_sessions")},
      {"compression", CompressionStatus(metrics.Sum("kvship_decode_kv_uncompressed_bytes_total"),
                                        metrics.Sum("kvship_decode_kv_shipped_bytes_total"))},
      {"prefill_nodes", NodesJson(nodes)},
      {"recent_requests", std::move(requests)}};
}

}  // namespace kvship
