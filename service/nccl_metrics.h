// NcclMetrics are what a node tells of NCCL: communicators, what became of them, transfers, and
// what had to go over gRPC instead. Names begin with the program's, as
// kvship_decode_nccl_aborts_total; all are 0 where NCCL is not used. Thread safe.
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
  // `program` as "kvship-decode".
  explicit NcclMetrics(const std::string& program);

  // Whose communicators and transfers are told from now on. shared: until the next one
  void Watch(std::shared_ptr<const NcclExecutor> executor);

  // Frames that went over gRPC for reasons that the executor does not know: no staging was free, or
  // what came had another checksum.
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
