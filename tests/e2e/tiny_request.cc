#include "tests/e2e/tiny_request.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/random.h"
#include "rpc/compression.h"

namespace kvship {
namespace {

constexpr size_t kVocabTokens = 320;

}  // namespace

v1::GenerateRequest TinyRequest(size_t prompt_tokens, uint32_t max_tokens) {
  v1::GenerateRequest request;
  for (size_t i = 0; i < prompt_tokens; ++i) {
    request.mutable_tokens()->add_ids(
        static_cast<uint32_t>(RandomBits(prompt_tokens, i) % kVocabTokens));
  }
  *request.mutable_compression() = *CompressionFromText("scorer=keep_all,encoder=f16");
  request.set_max_tokens(max_tokens);
  request.set_ignore_end_tokens(true);
  return request;
}

std::string TinyHttpBody(size_t prompt_tokens, uint32_t max_tokens, bool stream,
                         const std::string& model) {
  const v1::GenerateRequest request = TinyRequest(prompt_tokens, max_tokens);
  return absl::StrCat(R"({"ignore_eos":true,"temperature":0,"model":")", model, "\",",
                      R"("kvship":{"compression":"scorer=keep_all,encoder=f16"},)",
                      "\"stream\":", stream ? "true" : "false", ",\"max_tokens\":", max_tokens,
                      ",\"prompt\":[", absl::StrJoin(request.tokens().ids(), ","), "]}");
}

}  // namespace kvship
