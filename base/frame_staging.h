// FrameStaging is a pool of staging buffers through which frames go between GPUs. Each block is
// device memory for one frame, with host memory of the same size. The pool is allocated at the
// start and kept, because a device must not allocate or free while a transfer waits for its peer.
// Thread safe. Blocks share its ownership: one may be held by a transfer that never ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/frame_header.h"

namespace kvship {

class FrameStaging : public std::enable_shared_from_this<FrameStaging> {
 public:
  // Synchronous operations on the device, for any thread.
  struct Device {
    // Copies between host and device memory, in either direction.
    std::function<absl::Status(std::byte* to, const std::byte* from, size_t num_bytes)> copy;
    // The CRC32C of the beginning of a block.
    std::function<absl::StatusOr<uint32_t>(std::span<const std::byte> bytes)> checksum;
  };

  class Block {
   public:
    // kMostFrameBytes of device memory.
    std::byte* device() const { return memory_.device; }
    // Copies `bytes` to the beginning of the device memory.
    absl::Status Upload(std::span<const std::byte> bytes) const {
      return of_.copy(memory_.device, bytes.data(), bytes.size());
    }
    // Copies the beginning of the device memory to the host memory, and returns that.
    absl::StatusOr<std::span<const std::byte>> Download(size_t num_bytes) const;
    absl::StatusOr<uint32_t> Checksum(size_t num_bytes) const {
      return of_.checksum({memory_.device, num_bytes});
    }

   private:
    friend class FrameStaging;
    struct Memory {
      std::byte* device;
      std::byte* host;
    };
    Block(const Memory& memory, const Device& of) : memory_(memory), of_(of) {}

    const Memory memory_;
    const Device& of_;
  };
  // shared: by all who read or write the block; free again when the last one releases it
  using BlockPtr = std::shared_ptr<const Block>;

  // `device` and `host` hold the same number of frames and must never be freed.
  static std::shared_ptr<FrameStaging> Create(std::span<std::byte> device,
                                              std::span<std::byte> host, Device functions);

  // Takes `num_blocks` blocks, or none if fewer are free.
  std::vector<BlockPtr> Take(size_t num_blocks);

  size_t num_free() const;

 private:
  explicit FrameStaging(Device functions) : functions_(std::move(functions)) {}
  BlockPtr Lend(const Block::Memory& memory);

  const Device functions_;
  mutable std::mutex mutex_;
  std::vector<Block::Memory> free_;
};

}  // namespace kvship
