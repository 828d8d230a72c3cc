// Parses a request of OpenAI's API into the GenerateRequests that it stands for. Pure functions;
// any input bytes are safe. docs/openai.md lists the fields. ReadRequest checks what needs the
// model (lengths, token ids, combinations of options).
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
  // Each has only a prompt.
  std::vector<v1::GenerateRequest> prompts;
  uint32_t choices_per_prompt = 1;
  v1::GenerateRequest generate;  // everything else, which they share
  bool stream = false;
  bool include_usage = false;
  // Set if logprobs are wanted: how many of the likeliest tokens to show at each place.
  std::optional<uint32_t> num_top_logprobs;
  bool report = false;    // report how the KV cache was compressed
  bool progress = false;  // comments in the stream
  // Time limit, from its arrival.
  absl::Duration timeout = absl::InfiniteDuration();

  size_t num_choices() const { return prompts.size() * choices_per_prompt; }
  // Returns what to generate for the i-th choice of the response. Choices of a prompt are adjacent;
  // the j-th uses the request's seed plus j.
  v1::GenerateRequest Choice(size_t i) const;
};

inline constexpr size_t kMostChoices = 128;  // OpenAI's limit of `n`

// A request without a seed gets `drawn_seed`. Errors: InvalidArgument with a BadRequest detail that
// names field, value and what was wanted, also for far more values than fit the context.
absl::StatusOr<OpenAiRequest> ReadOpenAiRequest(OpenAiApi api, absl::string_view body,
                                                size_t context_tokens, uint64_t drawn_seed);

}  // namespace kvship
