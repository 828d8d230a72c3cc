// CompressionOptions says which prompt tokens' keys and values are kept, and in what form. Plain
// data, shared by the client, the decode and the prefill side; what to keep is decided in
// compress/. The options have one text form, "scorer=snapkv, budget_tokens=512,kernel=31", with the
// names used in flags, JSON and kvship.v1.CompressionOptions alike.
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

// What the probabilities of a window query are normalised over: all tokens it sees, or those before
// the window (TensorRT-LLM's RocketKV).
enum class SoftmaxOver { kAll, kPrefix };

// Whether the query heads of a KV head are reduced to one score before or after pooling; matters
// for max pooling only.
enum class GroupOrder { kAfterPooling, kBeforePooling };

enum class WindowReduce { kMean, kSum };

inline constexpr size_t kMostPoolingKernel = 1023;

struct CompressionOptions {
  // The four parts by their names in text: kv/policies.h lists what there is and what goes
  // together.
  std::string scorer = "snapkv";  // or "keep_all"
  std::string allocator = "uniform";
  std::string selector = "tokens";
  PageFormat encoder = PageFormat::kF16;
  // Full precision for the window's tokens where `encoder` quantizes; unset: as all others.
  std::optional<PageFormat> window_encoder;

  // Tokens kept per KV head, always-kept ones included: of uniform exactly, of pyramid and ada on
  // average, of mass at most. A ratio above 0 counts instead: ratio * T.
  size_t budget_tokens = 1024;
  double budget_ratio = 0;
  size_t min_tokens = 0;  // prompts up to this length are kept whole
  // Always kept, at the start and at the end; unset: what the scorer's paper keeps.
  std::optional<size_t> sinks;
  std::optional<size_t> recent_tokens;

  // The observation window: the last `window` tokens, or [observe_begin, observe_end) where set;
  // negative positions count from the prompt's end. Its queries vote in snapkv; for every scorer
  // it measures the retained mass.
  size_t window = 32;
  std::optional<int64_t> observe_begin;
  std::optional<int64_t> observe_end;

  // snapkv. Average pooling over 31 tokens: docs/design.md has the measurement behind it. At most
  // kMostPoolingKernel, as each score is pooled in as many steps.
  size_t kernel = 31;
  Pooling pool = Pooling::kAverage;
  GroupReduce group_reduce = GroupReduce::kMean;
  GroupOrder group_order = GroupOrder::kAfterPooling;
  WindowReduce window_reduce = WindowReduce::kMean;
  SoftmaxOver softmax = SoftmaxOver::kAll;

  bool normalised = false;     // h2o: divides by the number of queries that see the key
  size_t future_tokens = 512;  // expected_attention: positions after the prompt that are averaged
  uint32_t seed = 0;           // random

  double beta = 20;            // pyramid: the last layer keeps 1 / beta of the mean budget
  double alpha = 0.2;          // ada: the share of each head's budget that no other head gets
  double mass_target = 0.95;   // mass: the share of the window's attention to keep
  size_t mass_min_tokens = 0;  // mass: what a head keeps at least
  size_t chunk_tokens = 20;    // chunks

  bool keeps_all() const { return scorer == "keep_all"; }

  // InvalidArgument naming field, value and what was wanted. Says nothing about a prompt's length:
  // MakePlan does.
  absl::Status Validate() const;
};

// What a server gives a request that says nothing: the cheapest setting that found as many needles
// as the full cache on the demo model (docs/design.md has the measurement). About 16 times fewer
// bytes than the full cache in f16, for head sizes that int4 suits; else the same tokens in f16.
CompressionOptions DefaultCompression(size_t head_dim);

// Sets one field from its text form. InvalidArgument for an unknown name or a value that cannot be
// read.
absl::Status SetCompressionOption(absl::string_view name, absl::string_view value,
                                  CompressionOptions* options);

// The names and values of comma-separated name=value pairs, in order, without the spaces around
// them.
std::vector<std::pair<std::string, std::string>> SplitCompression(absl::string_view text);

// Overlays `defaults` with comma-separated name=value pairs; a name given twice is an error. The
// result is validated.
absl::StatusOr<CompressionOptions> ParseCompression(absl::string_view text,
                                                    CompressionOptions defaults = {});

// Every field that has a value, in the text form's names; the budget as the one that counts.
std::vector<std::pair<std::string, std::string>> CompressionFields(
    const CompressionOptions& options);

// The text form of CompressionFields.
std::string FormatCompression(const CompressionOptions& options);

}  // namespace kvship
