// NcclSnapshot is the state of the NCCL transport of one GPU at one moment, for metrics and the
// status page. Plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvship {

enum class NcclState {
  kAbsent,      // no communicator; one may be made
  kConnecting,  // being made, or waiting until the GPU has no transfer under way
  kReady,
  kFailed,  // lost; not to be made again before some time has passed
};

struct NcclPeerSnapshot {
  std::string peer;
  NcclState state = NcclState::kAbsent;
  size_t num_transfers = 0;           // offered, waiting for their turn or under way
  double bytes_per_second = 0;        // lately; 0: not measured
  bool is_slower_than_other = false;  // and rests for that reason
};

// Counts since the start.
struct NcclCounters {
  uint64_t connects = 0;  // begun
  uint64_t rebuilds = 0;  // those with a peer that had a communicator before
  uint64_t connect_failures = 0;
  uint64_t aborts = 0;  // begun, those of evictions included
  uint64_t evictions = 0;
  uint64_t transfers = 0;  // done
  uint64_t transferred_bytes = 0;
  // What had to go over the other transport, by reason.
  uint64_t refused_not_ready = 0;
  uint64_t refused_slower = 0;
  uint64_t failed_transfers = 0;
};

struct NcclSnapshot {
  NcclCounters counters;
  std::vector<NcclPeerSnapshot> peers;  // by name
  size_t num_closing = 0;               // communicators that are aborted and not yet drained
  size_t quarantined_bytes = 0;         // buffers that a late writer of those could touch
};

}  // namespace kvship
