// The body of a request of OpenAI's API: a byte for the endpoint, then JSON.
#include <nlohmann/json.hpp>

#include "decode_service/http/openai_error.h"
#include "decode_service/http/openai_request.h"
#include "tests/fuzz/checked_request.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  if (num_bytes == 0) return 0;
  const OpenAiApi api = data[0] % 2 == 0 ? OpenAiApi::kChat : OpenAiApi::kCompletions;
  const absl::string_view body(reinterpret_cast<const char*>(data + 1), num_bytes - 1);
  const auto request = ReadOpenAiRequest(api, body, /*context_tokens=*/0, /*drawn_seed=*/1);
  if (request.ok()) {
    CheckGenerateRequest(request->Choice(request->num_choices() - 1));
  } else {
    const OpenAiError error = OpenAiErrorOf(request.status());
    Require(error.http_status == 400, "a wrong body is the client's fault");
    Require(nlohmann::json::accept(error.Json()), "errors are JSON");
  }
  return 0;
}
