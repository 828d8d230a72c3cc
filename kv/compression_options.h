// CompressionOptions says which prompt tokens' keys and values are kept, and in what form. Plain
// data, shared by the client, the decode and the prefill side; what to keep is decided in
// compress/. The options have one text form, "scorer=snapkv, budget_tokens=512,kernel=31", with the
// names used in flags, JSON and kvship.v1.CompressionOptions alike.
#pragma once

#include <cstddef>
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

// What the probabilities of a window query are normalised over: all tokens it sees, or those before
// the window (TensorRT-LLM's RocketKV).
enum class SoftmaxOver { kAll, kPrefix };

// Whether the query heads of a KV head are reduced to one score before or after pooling; matters
// for max pooling only.
enum class GroupOrder { kAfterPooling, kBeforePooling };

enum class WindowReduce { kMean, kSum };

struct CompressionOptions {
  std::string scorer = "snapkv";  // or "keep_all"
  std::string allocator = "uniform";
  std::string selector = "tokens";
  PageFormat encoder = PageFormat::kF16;

  // Tokens kept per KV head, always-kept ones included. A ratio above 0 counts instead: floor(ratio
  // * T).
  size_t budget_tokens = 1024;
  double budget_ratio = 0;
  size_t min_tokens = 0;  // prompts up to this length are kept whole
  size_t sinks = 0;       // tokens at the start that are always kept
  std::optional<size_t>
      recent_tokens;  // tokens at the end that are always kept; unset: the scorer's default

  // SnapKV. Average pooling over 31 tokens: docs/design.md has the measurement behind it.
  size_t window = 32;
  size_t kernel = 31;
  Pooling pool = Pooling::kAverage;
  GroupReduce group_reduce = GroupReduce::kMean;
  GroupOrder group_order = GroupOrder::kAfterPooling;
  WindowReduce window_reduce = WindowReduce::kMean;
  SoftmaxOver softmax = SoftmaxOver::kAll;

  bool keeps_all() const { return scorer == "keep_all"; }
  // The always-kept tokens at the end: recent_tokens, or what the scorer's paper keeps.
  size_t effective_recent_tokens() const;

  // InvalidArgument naming field, value and what was wanted. Says nothing about a prompt's length:
  // MakePlan does.
  absl::Status Validate() const;
};

// Sets one field from its text form. InvalidArgument for an unknown name or a value that cannot be
// read.
absl::Status SetCompressionOption(absl::string_view name, absl::string_view value,
                                  CompressionOptions* options);

// Overlays `defaults` with comma-separated name=value pairs; a name given twice is an error. The
// result is validated.
absl::StatusOr<CompressionOptions> ParseCompression(absl::string_view text,
                                                    CompressionOptions defaults = {});

// Every field with its value, defaults filled in, in the text form's names; the budget as the one
// that counts.
std::vector<std::pair<std::string, std::string>> CompressionFields(
    const CompressionOptions& options);

// The text form of CompressionFields.
std::string FormatCompression(const CompressionOptions& options);

}  // namespace kvship
