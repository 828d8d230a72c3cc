#include "base/frame_staging.h"

#include <utility>

#include "base/status_macros.h"

namespace kvship {

absl::StatusOr<std::span<const std::byte>> FrameStaging::Block::Download(size_t num_bytes) const {
  RETURN_IF_ERROR(of_.copy(memory_.host, memory_.device, num_bytes));
  return std::span<const std::byte>(memory_.host, num_bytes);
}

std::shared_ptr<FrameStaging> FrameStaging::Create(std::span<std::byte> device,
                                                   std::span<std::byte> host, Device functions) {
  std::shared_ptr<FrameStaging> staging(new FrameStaging(std::move(functions)));
  for (size_t at = 0; at + kMostFrameBytes <= device.size(); at += kMostFrameBytes) {
    staging->free_.push_back({device.data() + at, host.data() + at});
  }
  return staging;
}

FrameStaging::BlockPtr FrameStaging::Lend(const Block::Memory& memory) {
  return {new Block(memory, functions_), [self = shared_from_this(), memory](const Block* lent) {
            delete lent;
            const std::lock_guard lock(self->mutex_);
            self->free_.push_back(memory);
          }};
}

std::vector<FrameStaging::BlockPtr> FrameStaging::Take(size_t num_blocks) {
  std::vector<BlockPtr> taken;
  const std::lock_guard lock(mutex_);
  if (free_.size() < num_blocks) return taken;
  for (size_t i = 0; i < num_blocks; ++i) {
    taken.push_back(Lend(free_.back()));
    free_.pop_back();
  }
  return taken;
}

size_t FrameStaging::num_free() const {
  const std::lock_guard lock(mutex_);
  return free_.size();
}

}  // namespace kvship
