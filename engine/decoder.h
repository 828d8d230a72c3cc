// Decoder runs decode steps on a batch. A step takes one token per sequence through the network,
// appends its K and V to the sequence's cache and yields its logits. DecodeEngine runs on the CPU,
// cuda::DeviceDecoder on a GPU. Belongs to one thread; CheckPlan may be called from any.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "kernels/token_draw.h"
#include "kv/plan.h"
#include "kv/pool.h"
#include "kv/sequence.h"

namespace kvship {

class Decoder {
 public:
  struct Item {
    int32_t token = 0;               // inside the vocabulary
    SequenceCache* cache = nullptr;  // with room in its tail
    bool wants_logits = true;        // else drawn()
    TokenDraw draw = {};             // how to draw the next token
  };

  virtual ~Decoder() = default;

  // FailedPrecondition, naming field, value and what is wanted, if caches of this plan cannot be
  // decoded.
  virtual absl::Status CheckPlan(const KvPlan& plan) const = 0;

  // Runs one step, which adds one tail token to each cache. On error no cache has changed.
  virtual absl::Status Step(std::span<const Item> items) = 0;

  // Call it between steps. Internal if the device is lost, so that no later step can succeed.
  virtual absl::Status CheckDevice() { return absl::OkStatus(); }

  // Of items[item] of the last step, valid until the next step: the logits [vocab] of one that
  // wants them, else the token that DrawToken() draws from them, or kNoToken. Any number of threads
  // may call these.
  virtual std::span<const float> logits(size_t item) const = 0;
  virtual int32_t drawn(size_t item) const = 0;
};

// Where a decode node computes and keeps its caches: the CPU, or one GPU.
struct DecodeDevice {
  std::unique_ptr<KvPool> pool;
  PageFormat tail_format = PageFormat::kF16;  // of generated tokens
  std::unique_ptr<Decoder> decoder;
};

}  // namespace kvship
