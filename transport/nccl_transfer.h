// NcclOffer identifies one transfer on both sides; NcclTransfer is one side's buffer and callback
// for it. Plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvship {

// Announced by the sender, with the number of bytes, on the request's stream. NCCL matches
// operations by their order alone, so every transfer of a communicator, of whatever request, has a
// place in that order.
struct NcclOffer {
  uint64_t communicator = 0;
  uint64_t sequence = 0;  // counts the communicator's transfers from 0

  bool operator==(const NcclOffer&) const = default;
};

struct NcclTransfer {
  // Device memory. The sender has already written it: its checksum is in the announcement.
  std::span<std::byte> bytes = {};
  // Keeps `bytes` alive and unused by others as long as the device may touch them, which after a
  // failure is longer than until on_done. Its destructor may run on any thread and must not free
  // device memory, which would wait for the device. shared: with whoever verifies or resends the
  // bytes
  std::shared_ptr<const void> owner = nullptr;
  // By the executor's clock.
  absl::Time deadline = absl::InfiniteFuture();
  // Called once, without locks held, on a thread of the transport; must not block, may call the
  // executor. OK: the sender's bytes have left, or the receiver's have arrived, unverified. An
  // error: resend over the other transport, into memory other than `bytes`.
  std::function<void(const absl::Status&)> on_done = nullptr;
};

}  // namespace kvship
