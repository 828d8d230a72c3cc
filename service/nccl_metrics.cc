#include "service/nccl_metrics.h"

#include <utility>

#include "service/metric_factory.h"

namespace kvship {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// By the value of one label.
using Values = std::vector<std::pair<std::string, double>>;

MetricFamily Family(std::string name, std::string help, MetricType type, const std::string& label,
                    const Values& values) {
  MetricFamily family{std::move(name), std::move(help), type, {}};
  for (const auto& [which, value] : values) {
    ClientMetric metric;
    if (!label.empty()) metric.label = {{label, which}};
    (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    family.metric.push_back(std::move(metric));
  }
  return family;
}

}  // namespace

NcclMetrics::NcclMetrics(const std::string& program) : prefix_(MetricPrefix(program) + "nccl_") {}

void NcclMetrics::Watch(std::shared_ptr<const NcclExecutor> executor) {
  const std::lock_guard lock(mutex_);
  executor_ = std::move(executor);
}

std::vector<MetricFamily> NcclMetrics::Collect() const {
  NcclSnapshot now;
  {
    const std::lock_guard lock(mutex_);
    if (executor_ != nullptr) now = executor_->Snapshot();
  }
  const NcclCounters& counters = now.counters;
  double connecting = 0, ready = 0, failed = 0;
  for (const NcclPeerSnapshot& peer : now.peers) {
    connecting += peer.state == NcclState::kConnecting;
    ready += peer.state == NcclState::kReady;
    failed += peer.state == NcclState::kFailed;
  }
  const auto counter = [this](const char* name, const char* help, uint64_t value) {
    return Family(prefix_ + name, help, MetricType::Counter, "",
                  {{"", static_cast<double>(value)}});
  };
  return {
      Family(prefix_ + "communicators",
             "NCCL communicators by state: connecting (or waiting until the GPU has no transfer "
             "under way), ready, failed (lost, and not made again yet), closing (aborted, and not "
             "yet known to have ended)",
             MetricType::Gauge, "state",
             {{"connecting", connecting},
              {"ready", ready},
              {"failed", failed},
              {"closing", static_cast<double>(now.num_closing)}}),
      Family(prefix_ + "quarantined_bytes",
             "Bytes of frames that a communicator which is being aborted may still touch",
             MetricType::Gauge, "", {{"", static_cast<double>(now.quarantined_bytes)}}),
      counter("connects_total", "NCCL communicators that were begun", counters.connects),
      counter("rebuilds_total", "Of these, those with a peer that had one before",
              counters.rebuilds),
      counter("connect_failures_total", "NCCL communicators that did not become ready",
              counters.connect_failures),
      counter("aborts_total", "NCCL communicators that were aborted, for whatever reason",
              counters.aborts),
      counter("evictions_total", "Of these, those that made room for another", counters.evictions),
      counter("transfers_total", "Frames that went by NCCL", counters.transfers),
      counter("transferred_bytes_total", "Bytes of these", counters.transferred_bytes),
      Family(prefix_ + "fallbacks_total",
             "Frames that went over gRPC though both ends have NCCL, by reason: not_ready (no "
             "communicator now), slower (than gRPC of late), failed (lost or late under way), "
             "no_memory (no staging was free), damaged (another checksum came)",
             MetricType::Counter, "reason",
             {{"not_ready", static_cast<double>(counters.refused_not_ready)},
              {"slower", static_cast<double>(counters.refused_slower)},
              {"failed", static_cast<double>(counters.failed_transfers)},
              {"no_memory", static_cast<double>(no_memory_)},
              {"damaged", static_cast<double>(damaged_)}}),
  };
}

}  // namespace kvship
