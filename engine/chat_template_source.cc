#include "engine/chat_template_source.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "engine/gguf.h"
#include "engine/json_file.h"

namespace kvship {
namespace {

using nlohmann::json;

absl::StatusOr<ChatTemplateSource> ReadGguf(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  ASSIGN_OR_RETURN(const auto program, file.Text("tokenizer.chat_template"));
  return ChatTemplateSource{.where = absl::StrCat(path, ": metadata tokenizer.chat_template"),
                            .program = std::string(program.value_or(""))};
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

absl::StatusOr<ChatTemplateSource> ReadDirectory(const std::string& directory) {
  // A file of its own, where there is one, comes before the field.
  const std::string own_file = absl::StrCat(directory, "/chat_template.jinja");
  const auto own = MappedFile::Open(own_file);
  if (!own.ok() && !absl::IsNotFound(own.status())) return own.status();
  if (own.ok()) return ChatTemplateSource{.where = own_file, .program = std::string(own->text())};
  ChatTemplateSource source = {.where = absl::StrCat(directory, "/tokenizer_config.json")};
  const auto config = ReadJsonFile(source.where);
  if (absl::IsNotFound(config.status())) return source;
  RETURN_IF_ERROR(config.status());
  ASSIGN_OR_RETURN(source.program, Program(JsonObject(*config)));
  return source;
}

}  // namespace

absl::StatusOr<ChatTemplateSource> ReadChatTemplateSource(const std::string& model_path,
                                                          const Tokenizer& tokenizer) {
  std::error_code ignored;
  const bool is_directory = std::filesystem::is_directory(model_path, ignored);
  ASSIGN_OR_RETURN(ChatTemplateSource source,
                   is_directory ? ReadDirectory(model_path) : ReadGguf(model_path));
  if (source.program.empty()) {
    return absl::NotFoundError(
        absl::StrCat(model_path, " has no chat template; the model takes plain prompts only"));
  }
  source.begin_token = std::string(tokenizer.begin_name());
  source.end_token = std::string(tokenizer.end_name());
  for (size_t id = 0; id < tokenizer.vocab_tokens(); ++id) {
    const auto token = static_cast<int32_t>(id);
    if (tokenizer.IsSpecial(token)) source.special_tokens.emplace_back(tokenizer.TokenBytes(token));
  }
  return source;
}

}  // namespace kvship
