// FrameStaging is device memory through which frames go between GPUs, in blocks of one frame, each
// with host memory of the same size beside it. It is taken at the start and kept, as nothing may be
// allocated or freed on a device while a transfer waits for its peer. Thread safe; shared with the
// blocks' users, of which a transfer that does not end may be one.
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
  // What the device does, for any thread, which waits for it.
  struct Device {
    // Copies between host and device memory, in either direction.
    std::function<absl::Status(std::byte* to, const std::byte* from, size_t num_bytes)> copy;
    // The CRC32C of the beginning of a block.
    std::function<absl::StatusOr<uint32_t>(std::span<const std::byte> bytes)> checksum;
  };

  class Block {
   public:
    // Of kMostFrameBytes.
    std::byte* device() const { return memory_.device; }
    // Fills the beginning of the block's device memory.
    absl::Status Upload(std::span<const std::byte> bytes) const {
      return of_.copy(memory_.device, bytes.data(), bytes.size());
    }
    // The beginning of its device memory, in its host memory.
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
  // shared: by all who read or write the block; free again when the last one has let go
  using BlockPtr = std::shared_ptr<const Block>;

  // `device` and `host` hold the same number of frames, and live for ever.
  static std::shared_ptr<FrameStaging> Create(std::span<std::byte> device,
                                              std::span<std::byte> host, Device functions);

  // As many blocks as are asked for; none if fewer are free.
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
