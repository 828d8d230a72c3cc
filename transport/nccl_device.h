// What the NCCL transport uses of NCCL and CUDA: communicators of two ranks, each with a stream of
// its own, over which bytes go from rank 0 to rank 1. The real ones are made by nccl_cuda.h. Thread
// rule: all calls of all communicators of one device come from one thread, but Abort and Drain,
// which come from a helper thread, when no other call of that communicator is under way.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvship {

// Lets whoever has it take part in a communicator: it travels over authenticated streams only.
using NcclUniqueId = std::array<std::byte, 128>;

// Marks of one communicator: so many operations may be on its stream at a time. Far fewer than the
// 1024 launches after which CUDA makes the caller wait.
inline constexpr size_t kNcclMarks = 64;

class NcclCommunicator {
 public:
  virtual ~NcclCommunicator() = default;

  // Whether the last call (connecting, WarmUp or Move) has been carried out, so that what it
  // started is on the stream. Until then WarmUp, Move and Mark may not be called. An error, which
  // may come at any time, means that the communicator is lost.
  virtual absl::StatusOr<bool> Poll() = 0;
  // Puts a first operation of a few bytes on the stream, which connects the two ranks for good: the
  // only calls after it allocate no memory.
  virtual absl::Status WarmUp() = 0;
  // Sends these bytes of device memory (rank 0), or receives into them (rank 1). The peer must call
  // it with as many. They must have been written, and must stay until the operation's mark is
  // passed or Drain has returned.
  virtual absl::Status Move(std::span<std::byte> bytes) = 0;
  // Sets mark number `mark`, below kNcclMarks, behind everything that is on the stream.
  virtual absl::Status Mark(size_t mark) = 0;
  // Whether the stream has come to the mark.
  virtual absl::StatusOr<bool> Passed(size_t mark) = 0;
  // Makes operations on the device stop and frees what the communicator holds, without the peer.
  // Blocks; may take seconds, or never return.
  virtual void Abort() = 0;
  // After Abort: waits until nothing on the stream can touch memory any more. On an error nobody
  // knows.
  virtual absl::Status Drain() = 0;
};

class NcclLibrary {
 public:
  virtual ~NcclLibrary() = default;
  // Called first on every thread that makes calls.
  virtual absl::Status AttachThread() = 0;
  // Thread safe.
  virtual absl::StatusOr<NcclUniqueId> NewUniqueId() = 0;
  // Begins to connect as `rank`, 0 or 1; Poll tells when the two have found each other.
  virtual absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const NcclUniqueId& id,
                                                                    int rank) = 0;
};

}  // namespace kvship
