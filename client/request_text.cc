#include "client/request_text.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace kvship {
namespace {

absl::StatusOr<std::string> FileOf(absl::string_view flag, const std::string& path) {
  std::string content = ReadFile(path).value_or("");
  if (!content.empty()) return content;
  return absl::NotFoundError(
      absl::StrCat("--", flag, " is '", path, "', which cannot be read or is empty"));
}

absl::Status SetTokens(const std::string& path, v1::TokenIds* tokens) {
  ASSIGN_OR_RETURN(const std::string text, FileOf("tokens-file", path));
  const nlohmann::json ids = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!ids.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tokens-file is '", path, "'; wanted a JSON list of token ids"));
  }
  for (const nlohmann::json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tokens-file '", path, "' holds ", id.dump(), "; wanted token ids"));
    }
    tokens->add_ids(id.get<uint32_t>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckUtf8(absl::string_view source, absl::string_view text) {
  const size_t valid_bytes = ValidUtf8Bytes(text);
  if (valid_bytes == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is not UTF-8 at byte %d (0x%02X, counted from 0); wanted text in UTF-8",
                      source, valid_bytes, static_cast<unsigned char>(text[valid_bytes])));
}

absl::Status SetInput(const PromptSource& source, v1::GenerateRequest* request) {
  const int given = !source.text.empty() + !source.text_file.empty() + !source.tokens_file.empty();
  if (given != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        given, " of --prompt, --prompt-file and --tokens-file are given; wanted exactly one"));
  }
  if (!source.tokens_file.empty()) {
    if (source.chat) {
      return absl::InvalidArgumentError(
          "--chat is given with --tokens-file; wanted it with --prompt or --prompt-file");
    }
    return SetTokens(source.tokens_file, request->mutable_tokens());
  }
  std::string text = source.text;
  std::string from = "--prompt";
  if (!source.text_file.empty()) {
    ASSIGN_OR_RETURN(text, FileOf("prompt-file", source.text_file));
    from = absl::StrCat("--prompt-file '", source.text_file, "'");
  }
  RETURN_IF_ERROR(CheckUtf8(from, text));
  RETURN_IF_ERROR(CheckUtf8("--system", source.system));
  if (!source.chat) {
    if (!source.system.empty()) {
      return absl::InvalidArgumentError("--system is given without --chat; wanted both");
    }
    request->set_prompt(text);
    return absl::OkStatus();
  }
  if (!source.system.empty()) {
    v1::ChatMessage& system = *request->mutable_chat()->add_messages();
    system.set_role("system");
    system.set_content(source.system);
  }
  v1::ChatMessage& user = *request->mutable_chat()->add_messages();
  user.set_role("user");
  user.set_content(text);
  return absl::OkStatus();
}

}  // namespace kvship
