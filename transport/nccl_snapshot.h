// NcclSnapshot is the state of the NCCL transport of one GPU at one moment, for metrics and the
// status page. Plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvship {

enum class NcclState {
  kAbsent,      // no communicator; one may be created
  kConnecting,  // being created, or waiting until the GPU has no transfer in flight
  kReady,
  kFailed,  // lost; not recreated before its backoff ends
};

struct NcclPeerSnapshot {
  std::string peer;
  NcclState state = NcclState::kAbsent;
  size_t num_transfers = 0;           // offered, queued or in flight
  double bytes_per_second = 0;        // moving average; 0: not measured
  bool is_slower_than_other = false;  // and is not used for now
};

// Counts since the process started.
struct NcclCounters {
  uint64_t connects = 0;  // started
  uint64_t rebuilds = 0;  // connects to peers that had a communicator before
  uint64_t connect_failures = 0;
  uint64_t aborts = 0;  // started; includes those of evictions
  uint64_t evictions = 0;
  uint64_t transfers = 0;  // completed
  uint64_t transferred_bytes = 0;
  // Transfers that had to use the other transport, by reason.
  uint64_t refused_not_ready = 0;
  uint64_t refused_slower = 0;
  uint64_t failed_transfers = 0;
};

struct NcclSnapshot {
  NcclCounters counters;
  std::vector<NcclPeerSnapshot> peers;  // by name
  size_t num_closing = 0;               // communicators aborted and not yet drained
  size_t quarantined_bytes = 0;         // buffers that a late write of those could touch
};

}  // namespace kvship
