#include "transport/nccl_staging.h"

#include <utility>

namespace kvship {

std::shared_ptr<NcclStaging> NcclStaging::Create(std::span<std::byte> device,
                                                 std::span<std::byte> host, Copy copy) {
  std::shared_ptr<NcclStaging> staging(new NcclStaging(std::move(copy)));
  for (size_t at = 0; at + kMostFrameBytes <= device.size(); at += kMostFrameBytes) {
    staging->free_.push_back({device.data() + at, host.data() + at});
  }
  return staging;
}

std::shared_ptr<const NcclStaging::Block> NcclStaging::Take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) return nullptr;
  const Block block = free_.back();
  free_.pop_back();
  return std::shared_ptr<const Block>(new Block(block),
                                      [self = shared_from_this()](const Block* taken) {
                                        const std::lock_guard lock(self->mutex_);
                                        self->free_.push_back(*taken);
                                        delete taken;
                                      });
}

size_t NcclStaging::num_free() const {
  const std::lock_guard lock(mutex_);
  return free_.size();
}

}  // namespace kvship
