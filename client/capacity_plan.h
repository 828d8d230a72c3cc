// Capacity planning: what a model's requests need of GPUs and links (bytes, times, sessions,
// nodes), with the whole KV cache shipped and with a compact one. The formulas use a datasheet's
// numbers and the fractions of them that bench/results measured on one GPU; docs/plan.md derives
// them. Pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "kv/compression_options.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship {

// What a plan needs to know about a model.
struct PlannedModel {
  std::string name;
  KvShape shape;
  size_t context_tokens = 0;  // the longest prompt plus output it was made for
  double layer_weights = 0;   // multiplied with each token, in all layers together
  double output_weights = 0;  // of the logits' product
  double weight_bytes = 0;    // of all weights, including the embedding
  double step_bytes = 0;      // of these, read by every decode step
  // For a mixture of experts, excluded from step_bytes: the bytes of all experts, and the share of
  // them that one token uses.
  double experts_bytes = 0;
  double chosen_share = 0;
};

// A GPU's datasheet: operations and bytes per second.
struct Gpu {
  std::string name;
  double flops = 0;  // dense, 16-bit
  double bytes_per_second = 0;
  double memory_bytes = 0;
};

// Parses "a100", "h100", "h200", or "TFLOPS:GB/S:GB", such as "989:4800:141". InvalidArgument
// naming --gpu.
absl::StatusOr<Gpu> ParseGpu(const std::string& text);

struct PlannedLoad {
  size_t prompt_tokens = 0;
  size_t output_tokens = 0;
  double requests_per_second = 0;
  double link_bytes_per_second = 0;   // per node, one direction
  double most_seconds_per_token = 0;  // between output tokens of a request; 0: unlimited
};

// The cost of requests with one kind of cache. Seconds and bytes are per request.
struct RequestCost {
  KvPlan plan;
  double prefill_seconds = 0;
  double compress_seconds = 0;
  double transfer_seconds = 0;  // over the link alone
  double exposed_seconds = 0;   // of these, after the end of prefill
  double session_bytes = 0;     // decode memory, including room for the output
  size_t sessions = 0;          // concurrent on one GPU; 0: not even one fits
  double step_seconds = 0;      // of a decode step of `sessions`
  size_t prefill_nodes = 0;
  size_t decode_nodes = 0;  // 0: no number of nodes suffices

  double first_token_seconds() const {
    return prefill_seconds + compress_seconds + exposed_seconds;
  }
};

struct CapacityPlan {
  RequestCost whole;    // keep_all, in f16 if `compact` quantizes
  RequestCost compact;  // with the options
  // At this link speed or above, prefill hides the transfer of the whole cache except its last
  // layer.
  double hiding_bytes_per_second = 0;
  // Above this link speed the compact cache no longer improves the time to first token: compression
  // takes longer than it saves in transfer. 0: it does at no speed.
  double break_even_bytes_per_second = 0;
};

// Errors: InvalidArgument for an invalid load or options, or weights that fill the GPU.
absl::StatusOr<CapacityPlan> PlanCapacity(const PlannedModel& model, const Gpu& gpu,
                                          const CompressionOptions& options,
                                          const PlannedLoad& load);

// The single formulas. Seconds to read a prompt of T tokens, without compression.
double PrefillSeconds(const PlannedModel& model, const Gpu& gpu, size_t prompt_tokens);

// Seconds to compress a prompt of T tokens with an observation window of W queries, without the
// sums over all queries that h2o takes beside.
double CompressSeconds(const PlannedModel& model, const Gpu& gpu, size_t prompt_tokens,
                       size_t window_tokens);

// Seconds of one decode step of `sessions` requests, each of which reads `kv_bytes` of cache.
double StepSeconds(const PlannedModel& model, const Gpu& gpu, size_t sessions, double kv_bytes);

// The part of a transfer of `transfer_seconds` that remains when prefill ends: layers are shipped
// while later ones are computed.
double ExposedSeconds(size_t num_layers, double prefill_seconds, double transfer_seconds);

}  // namespace kvship
