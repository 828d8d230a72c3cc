// A request of OpenAI's API, from the bytes of its body to the GenerateRequest that stands for it.
// Pure functions; any bytes are fine. docs/openai.md lists the fields. What only the model can tell
// (lengths, token ids, whether options go together) is left to ReadRequest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

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
  v1::GenerateRequest generate;
  bool stream = false;
  bool include_usage = false;
  // Set if logprobs are wanted: how many of the likeliest tokens to show at each place.
  std::optional<uint32_t> num_top_logprobs;
  bool report = false;    // what became of the KV cache
  bool progress = false;  // comments in the stream
  // How long it may take, from its arrival.
  absl::Duration timeout = absl::InfiniteDuration();
};

// A request without a seed gets `drawn_seed`. Errors: InvalidArgument with a BadRequest detail
// naming field, value and what was wanted.
absl::StatusOr<OpenAiRequest> ReadOpenAiRequest(OpenAiApi api, absl::string_view body,
                                                uint64_t drawn_seed);

}  // namespace kvship
