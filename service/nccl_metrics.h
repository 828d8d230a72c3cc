// NcclMetrics exports a node's NCCL metrics: communicators and their fate, transfers, and fallbacks
// to gRPC. Names begin with the program's, as kvship_decode_nccl_aborts_total; all are 0 if NCCL is
// not used. Thread safe.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "transport/nccl_executor.h"

namespace kvship {

class NcclMetrics final : public prometheus::Collectable {
 public:
  // `program`: for example "kvship-decode".
  explicit NcclMetrics(const std::string& program);

  // Exports this executor's values from now on. shared: until replaced
  void Watch(std::shared_ptr<const NcclExecutor> executor);

  // Count frames that went over gRPC for reasons unknown to the executor: no staging buffer was
  // free, or the received bytes had a wrong checksum.
  void CountNoMemory() { ++no_memory_; }
  void CountDamaged() { ++damaged_; }

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string prefix_;
  std::atomic<uint64_t> no_memory_{0};
  std::atomic<uint64_t> damaged_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<const NcclExecutor> executor_;
};

}  // namespace kvship
