// What a model's requests take of GPUs and links, with the whole KV cache shipped and with a
// compact one: bytes, times, sessions, nodes. Formulas of the numbers of a datasheet and the shares
// of them that bench/results measured on one GPU; docs/plan.md derives them. Pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "kv/compression_options.h"
#include "kv/plan.h"
#include "kv/shape.h"

namespace kvship {

// What a plan needs to know of a model.
struct PlannedModel {
  std::string name;
  KvShape shape;
  size_t context_tokens = 0;  // the longest prompt plus output it was made for
  double layer_weights = 0;   // that a token is multiplied with, in all layers together
  double output_weights = 0;  // of the product that gives the logits
  double weight_bytes = 0;    // of all weights, embedding included
  double step_bytes = 0;      // of these, what a decode step reads whatever its tokens
  // Of a mixture of experts, which step_bytes leaves out: all experts, and the share of them that
  // one token goes through.
  double experts_bytes = 0;
  double chosen_share = 0;
};

// One GPU by its datasheet: operations and bytes per second.
struct Gpu {
  std::string name;
  double flops = 0;  // of dense products in 16 bits
  double bytes_per_second = 0;
  double memory_bytes = 0;
};

// "a100", "h100", "h200", or "TFLOPS:GB/S:GB", such as "989:4800:141". InvalidArgument naming
// --gpu.
absl::StatusOr<Gpu> ParseGpu(const std::string& text);

struct PlannedLoad {
  size_t prompt_tokens = 0;
  size_t output_tokens = 0;
  double requests_per_second = 0;
  double link_bytes_per_second = 0;   // of each node, one direction
  double most_seconds_per_token = 0;  // between two output tokens of a request; 0: any time
};

// What requests take with one way to keep the cache. Seconds and bytes of one request.
struct RequestCost {
  KvPlan plan;
  double prefill_seconds = 0;
  double compress_seconds = 0;
  double transfer_seconds = 0;  // of the bytes over the link by themselves
  double exposed_seconds = 0;   // of these, what comes after the end of prefill
  double session_bytes = 0;     // of decode memory, with room for the output
  size_t sessions = 0;          // at a time on one GPU; 0: not even one fits
  double step_seconds = 0;      // of a decode step with so many
  size_t prefill_nodes = 0;
  size_t decode_nodes = 0;  // 0: no number of nodes serves it

  double first_token_seconds() const {
    return prefill_seconds + compress_seconds + exposed_seconds;
  }
};

struct CapacityPlan {
  RequestCost whole;    // keep_all, in f16 where `compact` quantizes
  RequestCost compact;  // by the options
  // From this link speed on the whole cache hides behind prefill, but for its last layer.
  double hiding_bytes_per_second = 0;
  // Above this link speed the compact cache no longer brings the first token earlier: what is saved
  // in transfer is less than what compressing takes. 0: at no speed it does.
  double break_even_bytes_per_second = 0;
};

// Errors: InvalidArgument for a load or options that cannot be, or weights that fill the GPU.
absl::StatusOr<CapacityPlan> PlanCapacity(const PlannedModel& model, const Gpu& gpu,
                                          const CompressionOptions& options,
                                          const PlannedLoad& load);

// The formulas, each by itself. Seconds of reading a prompt of T tokens, compression not counted.
double PrefillSeconds(const PlannedModel& model, const Gpu& gpu, size_t prompt_tokens);

// Seconds of compressing a prompt of T tokens with an observation window of W queries.
double CompressSeconds(const PlannedModel& model, const Gpu& gpu, size_t prompt_tokens,
                       size_t window_tokens);

// Seconds of one decode step of `sessions` requests, each of which reads `kv_bytes` of cache.
double StepSeconds(const PlannedModel& model, const Gpu& gpu, size_t sessions, double kv_bytes);

// Of a transfer that takes `transfer_seconds` by itself, what is left when prefill ends: layers are
// shipped while those after them are computed.
double ExposedSeconds(size_t num_layers, double prefill_seconds, double transfer_seconds);

}  // namespace kvship
