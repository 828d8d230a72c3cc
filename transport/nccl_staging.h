// NcclStaging is the device memory through which frames go over NCCL, in blocks of one frame, each
// with host memory of the same size beside it. It is taken at the start and kept, as nothing may
// be allocated or freed on the device while a transfer waits for its peer. Thread safe; shared with
// the blocks' users, of which a communicator that does not end may be one.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/frame_header.h"

namespace kvship {

class NcclStaging : public std::enable_shared_from_this<NcclStaging> {
 public:
  // Copies between host and device memory, in either direction; done when it returns.
  using Copy = std::function<absl::Status(std::byte* to, const std::byte* from, size_t num_bytes)>;

  struct Block {
    std::byte* device = nullptr;  // both of kMostFrameBytes
    std::byte* host = nullptr;
  };

  // `device` and `host` hold the same number of frames, and live for ever.
  static std::shared_ptr<NcclStaging> Create(std::span<std::byte> device, std::span<std::byte> host,
                                             Copy copy);

  // A block that is free again when its last user has let go; null if all are taken.
  std::shared_ptr<const Block> Take();

  // Fills the block's device memory, or the first `num_bytes` of its host memory from there.
  absl::Status Upload(const Block& block, std::span<const std::byte> bytes) const {
    return copy_(block.device, bytes.data(), bytes.size());
  }
  absl::Status Download(const Block& block, size_t num_bytes) const {
    return copy_(block.host, block.device, num_bytes);
  }

  size_t num_free() const;

 private:
  explicit NcclStaging(Copy copy) : copy_(std::move(copy)) {}

  const Copy copy_;
  mutable std::mutex mutex_;
  std::vector<Block> free_;
};

}  // namespace kvship
