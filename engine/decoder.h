// Decoder computes decode steps of a batch: each sequence's next token goes through the network,
// its K and V are appended to the sequence's cache, and its logits come out. DecodeEngine is the
// CPU's, cuda::DeviceDecoder a GPU's. Belongs to one thread, but for CheckPlan, which any may call.
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
    bool wants_logits = true;        // else only drawn() is asked for
    TokenDraw draw = {};             // of the token that comes out
  };

  virtual ~Decoder() = default;

  // Whether caches of this plan can be decoded. FailedPrecondition naming field, value and what is
  // wanted.
  virtual absl::Status CheckPlan(const KvPlan& plan) const = 0;

  // Runs one step. Afterwards each cache has one tail token more. On error no cache has changed.
  virtual absl::Status Step(std::span<const Item> items) = 0;

  // Between steps: Internal if no later one can succeed, as the device is lost.
  virtual absl::Status CheckDevice() { return absl::OkStatus(); }

  // Of items[item] of the last step, valid until the next one: its logits [vocab], and the token
  // that DrawToken() draws from them.
  virtual std::span<const float> logits(size_t item) const = 0;
  virtual int32_t drawn(size_t item) const = 0;
};

// Where a decode node computes and keeps its caches: the CPU, or one GPU.
struct DecodeDevice {
  std::unique_ptr<KvPool> pool;
  PageFormat tail_format = PageFormat::kF16;  // of what is generated
  std::unique_ptr<Decoder> decoder;
};

}  // namespace kvship
