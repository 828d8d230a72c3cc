#include "decode_service/http/openai_logprobs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"
#include "decode_service/output_text.h"

namespace kvship {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no minus infinity; OpenAI's API uses this for impossible tokens.
constexpr double kLeastLogprob = -9999;

double Shown(float logprob) { return std::max<double>(logprob, kLeastLogprob); }

std::string WholeUtf8(const std::string& bytes) {
  Utf8Stream stream;
  std::string text = stream.Add(bytes);
  return text + stream.Finish();
}

bool ContinuesCharacter(char byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

bool OpenAiLogprobs::IsShown(uint32_t id) const {
  return tokenizer_ == nullptr || !tokenizer_->IsSpecial(static_cast<int32_t>(id));
}

std::string OpenAiLogprobs::BytesOf(uint32_t id) const {
  if (tokenizer_ == nullptr) return absl::StrCat("token_id:", id);
  return std::string(tokenizer_->TokenBytes(static_cast<int32_t>(id)));
}

Json OpenAiLogprobs::ChatEntry(uint32_t id, float logprob) const {
  const std::string bytes = BytesOf(id);
  Json numbers = Json::array();
  for (const char byte : bytes) numbers.push_back(static_cast<uint8_t>(byte));
  return {{"token", WholeUtf8(bytes)}, {"logprob", Shown(logprob)}, {"bytes", std::move(numbers)}};
}

std::string OpenAiLogprobs::CompletionToken(uint32_t id) const {
  std::string bytes = BytesOf(id);
  if (WholeUtf8(bytes) == bytes) return bytes;
  std::string text = "bytes:";
  for (const char byte : bytes) absl::StrAppendFormat(&text, "\\x%02x", static_cast<uint8_t>(byte));
  return text;
}

size_t OpenAiLogprobs::TakeOffset(absl::string_view bytes) {
  // What does not continue an unfinished character stands behind it, as U+FFFD.
  const bool continues = bytes.empty() || ContinuesCharacter(bytes[0]);
  const size_t offset = num_characters_ + (!unfinished_.empty() && !continues);
  for (absl::StrAppend(&unfinished_, bytes); !unfinished_.empty(); ++num_characters_) {
    const Utf8Prefix first = FirstCharacter(unfinished_);
    if (first.kind == Utf8Prefix::kUnfinished) break;
    unfinished_.erase(0, first.num_bytes);
  }
  return offset;
}

Json OpenAiLogprobs::Add(const Tokens& tokens) {
  Json content = Json::array();
  Json names = Json::array();
  Json logprobs = Json::array();
  Json tops = Json::array();
  Json offsets = Json::array();
  for (const v1::OutputToken& token : tokens) {
    if (!IsShown(token.token_id())) continue;
    const int num_top = std::min<int>(token.top_size(), static_cast<int>(num_top_));
    if (api_ == OpenAiApi::kChat) {
      Json entry = ChatEntry(token.token_id(), token.logprob());
      entry["top_logprobs"] = Json::array();
      for (int i = 0; i < num_top; ++i) {
        entry["top_logprobs"].push_back(ChatEntry(token.top(i).token_id(), token.top(i).logprob()));
      }
      content.push_back(std::move(entry));
      continue;
    }
    Json top = Json::object();
    for (int i = 0; i < num_top; ++i) {
      top[CompletionToken(token.top(i).token_id())] = Shown(token.top(i).logprob());
    }
    // The sampled token too, if not among these: there may be one more than requested.
    top.emplace(CompletionToken(token.token_id()), Shown(token.logprob()));
    const std::string bytes = BytesOf(token.token_id());
    names.push_back(CompletionToken(token.token_id()));
    logprobs.push_back(Shown(token.logprob()));
    tops.push_back(std::move(top));
    offsets.push_back(TakeOffset(bytes));
  }
  if (api_ == OpenAiApi::kChat) return {{"content", std::move(content)}, {"refusal", nullptr}};
  return {{"tokens", std::move(names)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

}  // namespace kvship
