// The interface through which the NCCL transport uses NCCL and CUDA: communicators of two ranks,
// each with its own stream, that move bytes from rank 0 to rank 1. nccl_cuda.h makes the real ones.
// Thread rule: one thread makes all calls of all communicators of a device, except Abort and Drain,
// which a helper thread makes while no other call of that communicator is in progress.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvship {

// Whoever holds the id can join the communicator, so it travels over authenticated streams only.
using NcclUniqueId = std::array<std::byte, 128>;

// The number of marks of a communicator, and so of operations that may be on its stream at a time.
// Far below 1024 launches, after which CUDA blocks the caller.
inline constexpr size_t kNcclMarks = 64;

class NcclCommunicator {
 public:
  virtual ~NcclCommunicator() = default;

  // Returns whether the last call (connecting, WarmUp or Move) has completed, so that its work is
  // on the stream. Until then WarmUp, Move and Mark must not be called. An error, which may come at
  // any time, means that the communicator is lost.
  virtual absl::StatusOr<bool> Poll() = 0;
  // Enqueues a first operation of a few bytes, which connects the two ranks for good: calls after
  // it allocate no memory.
  virtual absl::Status WarmUp() = 0;
  // Sends (rank 0) or receives (rank 1) `bytes` of device memory; the peer must call it with the
  // same size. The sender's must have been written; all must stay valid until the operation's mark
  // is passed or Drain has returned.
  virtual absl::Status Move(std::span<std::byte> bytes) = 0;
  // Records mark number `mark`, below kNcclMarks, behind everything on the stream.
  virtual absl::Status Mark(size_t mark) = 0;
  // Returns whether the stream has reached the mark.
  virtual absl::StatusOr<bool> Passed(size_t mark) = 0;
  // Stops operations on the device and frees what the communicator holds, without the peer. Blocks;
  // may take seconds, or never return.
  virtual void Abort() = 0;
  // Call after Abort: blocks until nothing on the stream can touch memory any more. After an error
  // the stream may still do so.
  virtual absl::Status Drain() = 0;
};

class NcclLibrary {
 public:
  virtual ~NcclLibrary() = default;
  // Must be the first call on every thread that calls a communicator.
  virtual absl::Status AttachThread() = 0;
  // Thread safe.
  virtual absl::StatusOr<NcclUniqueId> NewUniqueId() = 0;
  // Starts connecting as `rank`, 0 or 1; Poll tells when the two ranks are connected.
  virtual absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const NcclUniqueId& id,
                                                                    int rank) = 0;
};

}  // namespace kvship
