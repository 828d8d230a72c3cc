#include "engine/chat_template_source.h"

#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "engine/gguf.h"
#include "engine/hf_tokenizer.h"
#include "engine/json_file.h"

namespace kvship {
namespace {

using nlohmann::json;

absl::Status None(const std::string& model_path) {
  return absl::NotFoundError(
      absl::StrCat(model_path, " has no chat template; the model takes plain prompts only"));
}

// The name of the token whose id a metadata key holds; empty if the key is absent.
absl::StatusOr<std::string> TokenName(const GgufFile& file, absl::string_view key,
                                      const std::vector<absl::string_view>& tokens) {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> id, file.Count(key));
  if (!id.has_value()) return std::string();
  if (*id < tokens.size()) return std::string(tokens[*id]);
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": metadata ", key, " is ", *id,
                                                 "; wanted less than ", tokens.size()));
}

absl::StatusOr<ChatTemplateSource> ReadGguf(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  ASSIGN_OR_RETURN(const auto program, file.Text("tokenizer.chat_template"));
  if (!program.has_value() || program->empty()) return None(path);
  ASSIGN_OR_RETURN(const auto tokens, file.Texts("tokenizer.ggml.tokens"));
  ASSIGN_OR_RETURN(const auto types, file.Integers("tokenizer.ggml.token_type"));
  ChatTemplateSource source;
  source.where = absl::StrCat(path, ": metadata tokenizer.chat_template");
  source.program = std::string(*program);
  if (!tokens.has_value()) return source;
  ASSIGN_OR_RETURN(source.begin_token, TokenName(file, "tokenizer.ggml.bos_token_id", *tokens));
  ASSIGN_OR_RETURN(source.end_token, TokenName(file, "tokenizer.ggml.eos_token_id", *tokens));
  for (size_t id = 0; types.has_value() && id < types->size() && id < tokens->size(); ++id) {
    constexpr int64_t kUnknown = 2;
    constexpr int64_t kControl = 3;
    const int64_t type = (*types)[id];
    if ((type == kUnknown || type == kControl) && !(*tokens)[id].empty()) {
      source.special_tokens.emplace_back((*tokens)[id]);
    }
  }
  return source;
}

// chat_template: the program, or a list of named ones, of which "default" is meant.
absl::StatusOr<std::string> Program(const JsonObject& config) {
  const json* value = config.Find("chat_template");
  if (value == nullptr) return std::string();
  if (value->is_string()) return value->get<std::string>();
  if (value->is_array()) {
    for (const json& item : *value) {
      if (item.is_object() && item.value("name", json()) == "default") {
        return JsonObject(absl::StrCat(config.where(), ": chat_template"), item)
            .RequiredText("template");
      }
    }
  }
  return config.Bad("chat_template", "is neither a program nor a list with one named default");
}

// The names of the special tokens among the added_tokens of tokenizer.json.
absl::Status AddSpecialTokens(const std::string& path, std::vector<std::string>& names) {
  const auto mapped = MappedFile::Open(path);
  if (absl::IsNotFound(mapped.status())) return absl::OkStatus();
  RETURN_IF_ERROR(mapped.status());
  const absl::string_view text(reinterpret_cast<const char*>(mapped->bytes().data()),
                               mapped->bytes().size());
  ASSIGN_OR_RETURN(const JsonFile file, ParseJson(path, text, [](const std::string& key) {
                     return key == "added_tokens";
                   }));
  const JsonObject root(file);
  const json* tokens = root.Find("added_tokens");
  if (tokens == nullptr) return absl::OkStatus();
  if (!tokens->is_array()) return root.Bad("added_tokens", "is not a list");
  for (const json& item : *tokens) {
    const JsonObject token(absl::StrCat(path, ": added_tokens"), item);
    if (!item.is_object()) return root.Bad("added_tokens", "has an item that is not an object");
    ASSIGN_OR_RETURN(const std::optional<bool> special, token.Flag("special"));
    ASSIGN_OR_RETURN(std::string name, token.RequiredText("content"));
    if (special.value_or(false) && !name.empty()) names.push_back(std::move(name));
  }
  return absl::OkStatus();
}

absl::StatusOr<ChatTemplateSource> ReadDirectory(const std::string& directory) {
  ChatTemplateSource source;
  source.where = absl::StrCat(directory, "/tokenizer_config.json");
  const auto config = ReadJsonFile(source.where);
  if (!config.ok() && !absl::IsNotFound(config.status())) return config.status();
  if (config.ok()) {
    ASSIGN_OR_RETURN(source.program, Program(JsonObject(*config)));
    ASSIGN_OR_RETURN(source.begin_token, TokenName(JsonObject(*config), "bos_token"));
    ASSIGN_OR_RETURN(source.end_token, TokenName(JsonObject(*config), "eos_token"));
  }
  // A file of its own, where there is one, comes before the field.
  const std::string own_file = absl::StrCat(directory, "/chat_template.jinja");
  const auto own = MappedFile::Open(own_file);
  if (!own.ok() && !absl::IsNotFound(own.status())) return own.status();
  if (own.ok()) {
    source.where = own_file;
    source.program.assign(reinterpret_cast<const char*>(own->bytes().data()), own->bytes().size());
  }
  if (source.program.empty()) return None(directory);
  RETURN_IF_ERROR(
      AddSpecialTokens(absl::StrCat(directory, "/tokenizer.json"), source.special_tokens));
  return source;
}

}  // namespace

absl::StatusOr<ChatTemplateSource> ReadChatTemplateSource(const std::string& model_path) {
  std::error_code ignored;
  return std::filesystem::is_directory(model_path, ignored) ? ReadDirectory(model_path)
                                                            : ReadGguf(model_path);
}

}  // namespace kvship
