// A request of OpenAI's API, from the bytes of its body to the GenerateRequests that stand for it.
// Pure functions; any bytes are fine. docs/openai.md lists the fields. What only the model can tell
// (lengths, token ids, whether options go together) is left to ReadRequest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// The two endpoints: /v1/completions and /v1/chat/completions.
enum class OpenAiApi { kCompletions, kChat };

struct OpenAiRequest {
  OpenAiApi api = OpenAiApi::kCompletions;
  std::string model;
  // Each has a prompt and nothing else.
  std::vector<v1::GenerateRequest> prompts;
  uint32_t choices_per_prompt = 1;
  v1::GenerateRequest generate;  // the rest of them, which they have in common
  bool stream = false;
  bool include_usage = false;
  // Set if logprobs are wanted: how many of the likeliest tokens to show at each place.
  std::optional<uint32_t> num_top_logprobs;
  bool parallel_tool_calls = true;  // else at most one in each choice
  bool report = false;              // what became of the KV cache
  bool progress = false;            // comments in the stream
  // How long it may take, from its arrival.
  absl::Duration timeout = absl::InfiniteDuration();

  size_t num_choices() const { return prompts.size() * choices_per_prompt; }
  // What to generate for the i-th choice of the answer. Those of a prompt stand together, the j-th
  // with the request's seed plus j.
  v1::GenerateRequest Choice(size_t i) const;
};

inline constexpr size_t kMostChoices = 128;  // OpenAI's bound of `n`

// A request without a seed gets `drawn_seed`. Errors: InvalidArgument with a BadRequest detail
// naming field, value and what was wanted.
absl::StatusOr<OpenAiRequest> ReadOpenAiRequest(OpenAiApi api, absl::string_view body,
                                                uint64_t drawn_seed);

}  // namespace kvship
