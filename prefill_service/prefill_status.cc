#include "prefill_service/prefill_status.h"

#include <algorithm>
#include <cstdint>

#include "rpc/message_json.h"
#include "service/status_json.h"

namespace kvship {
namespace {

using Json = nlohmann::ordered_json;

// More than a page shows well; the counts cover all.
constexpr size_t kMostPrompts = 32;

uint64_t Count(const MetricValues& metrics, const std::string& name) {
  return static_cast<uint64_t>(metrics.Sum("kvship_prefill_" + name));
}

const char* NameOf(PrefillScheduler::Prompt::State state) {
  switch (state) {
    case PrefillScheduler::Prompt::State::kQueued: return "queued";
    case PrefillScheduler::Prompt::State::kReady: return "ready";
    case PrefillScheduler::Prompt::State::kRunning: return "running";
    case PrefillScheduler::Prompt::State::kSending: return "sending";
  }
  return "";
}

}  // namespace

Json PrefillStatusJson(const v1::ModelInfo& model, const MetricValues& metrics,
                       const PrefillScheduler& scheduler) {
  const std::vector<PrefillScheduler::Prompt> prompts = scheduler.Prompts();
  Json shown = Json::array();
  for (size_t i = 0; i < std::min(kMostPrompts, prompts.size()); ++i) {
    shown.push_back({{"request_id", prompts[i].request_id},
                     {"prompt_tokens", prompts[i].prompt_tokens},
                     {"state", NameOf(prompts[i].state)},
                     {"fraction", RoundedShare(prompts[i].fraction)},
                     {"age_seconds", absl::ToDoubleSeconds(prompts[i].age)}});
  }
  return {{"model", MessageFields(model, /*only_set=*/false)},
          {"queue",
           {{"queued_requests", Count(metrics, "queue_requests")},
            {"active_requests", Count(metrics, "active_requests")},
            {"sending_requests", Count(metrics, "sending_requests")},
            {"admitted_tokens", Count(metrics, "queue_tokens")},
            {"outbox_bytes", Count(metrics, "outbox_bytes")}}},
          {"prompts", std::move(shown)},
          {"requests", RequestsByCode(metrics, "kvship_prefill_requests_total")},
          {"prompt_tokens", Count(metrics, "prompt_tokens_total")},
          {"reused_tokens", Count(metrics, "reused_tokens_total")},
          {"prefix_cache_bytes", Count(metrics, "prefix_cache_bytes")},
          {"compression", CompressionStatus(metrics.Sum("kvship_prefill_uncompressed_bytes_total"),
                                            metrics.Sum("kvship_prefill_shipped_bytes_total"))}};
}

}  // namespace kvship
