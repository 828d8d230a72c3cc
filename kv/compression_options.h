// CompressionOptions says which prompt tokens' keys and values are kept, and in what format. Plain
// data, shared by the client and by the decode and prefill nodes; compress/ implements the choice.
// The options have one text form, "scorer=snapkv, budget_tokens=512,kernel=31", whose names are the
// same in flags, JSON and kvship.v1.CompressionOptions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/page_layout.h"
#include "kernels/scores.h"

namespace kvship {

// The tokens over which a window query's softmax is normalised: all tokens the query sees, or only
// those before the window (TensorRT-LLM's RocketKV).
enum class SoftmaxOver { kAll, kPrefix };

// Whether the query heads of a KV head are reduced to one score before or after pooling. This
// matters only for max pooling.
enum class GroupOrder { kAfterPooling, kBeforePooling };

enum class WindowReduce { kMean, kSum };

inline constexpr size_t kMostPoolingKernel = 1023;

struct CompressionOptions {
  // The names of the four parts. kv/policies.h lists the valid names and combinations.
  std::string scorer = "snapkv";  // or "keep_all"
  std::string allocator = "uniform";
  std::string selector = "tokens";
  PageFormat encoder = PageFormat::kF16;
  // For the window's tokens: full precision where `encoder` quantizes. Unset: `encoder`.
  std::optional<PageFormat> window_encoder;

  // Tokens kept per KV head, always-kept ones included: exactly (uniform), on average (pyramid,
  // ada) or at most (mass). A budget_ratio above 0 overrides this number with ratio * T.
  size_t budget_tokens = 1024;
  double budget_ratio = 0;
  // The least that a budget_ratio comes to (ForPrompt). Prompts up to this are kept whole.
  size_t min_tokens = 0;
  // Tokens always kept at the start and at the end. Unset: by scorer (compress/README.md).
  std::optional<size_t> sinks;
  std::optional<size_t> recent_tokens;

  // The observation window: the last `window` tokens, or [observe_begin, observe_end) if set;
  // negative positions count from the prompt's end. The window's queries vote in snapkv; for every
  // scorer they measure the retained mass.
  size_t window = 32;
  std::optional<int64_t> observe_begin;
  std::optional<int64_t> observe_end;

  // snapkv. docs/design.md has the measurement behind average pooling over 31 tokens. `kernel` is
  // at most kMostPoolingKernel, because pooling one score takes `kernel` steps.
  size_t kernel = 31;
  Pooling pool = Pooling::kAverage;
  GroupReduce group_reduce = GroupReduce::kMean;
  GroupOrder group_order = GroupOrder::kAfterPooling;
  WindowReduce window_reduce = WindowReduce::kMean;
  SoftmaxOver softmax = SoftmaxOver::kAll;

  bool normalised = false;     // h2o: divides by the number of queries that see the key
  size_t future_tokens = 512;  // expected_attention: positions after the prompt to average over
  uint32_t seed = 0;           // random

  double beta = 20;            // pyramid: the last layer keeps 1 / beta of the mean budget
  double alpha = 0.2;          // ada: of a head's budget beside always-kept tokens, its own share
  double mass_target = 0.95;   // mass: the share of the window's attention to keep
  size_t mass_min_tokens = 0;  // mass: the minimum that a head keeps
  size_t chunk_tokens = 20;    // chunks

  bool keeps_all() const { return scorer == "keep_all"; }

  // InvalidArgument naming the field, its value and what was wanted. Does not check against a
  // prompt's length: MakePlan does.
  absl::Status Validate() const;
};

// What the options are for a prompt of that length: a budget_ratio of fewer than min_tokens tokens
// becomes budget_tokens = min_tokens, if the prompt is longer than that. Whoever takes a request
// calls this, once; plans and compressors take the options as they are.
CompressionOptions ForPrompt(CompressionOptions options, size_t prompt_tokens);

// The server's default: the setting that found most needles on the demo model at 32 times fewer
// bytes, with twice the tokens, and what short prompts need (docs/design.md): about 16 times fewer
// bytes than the full cache in f16. Head sizes that int4 does not suit keep the same tokens in f16.
CompressionOptions DefaultCompression(size_t head_dim);

// Sets one field from its text form. InvalidArgument for an unknown name or an unreadable value.
absl::Status SetCompressionOption(absl::string_view name, absl::string_view value,
                                  CompressionOptions* options);

// Splits comma-separated name=value pairs into names and values, in order, and strips the spaces
// around them.
std::vector<std::pair<std::string, std::string>> SplitCompression(absl::string_view text);

// Overlays `defaults` with comma-separated name=value pairs and validates the result.
// InvalidArgument if a name, or a budget, is given twice.
absl::StatusOr<CompressionOptions> ParseCompression(absl::string_view text,
                                                    CompressionOptions defaults = {});

// Every field that has a value, by name; of the two budgets, only the one that applies.
std::vector<std::pair<std::string, std::string>> CompressionFields(
    const CompressionOptions& options);

// The text form of CompressionFields.
std::string FormatCompression(const CompressionOptions& options);

}  // namespace kvship
