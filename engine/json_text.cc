#include "engine/json_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace kvship {
namespace {

using nlohmann::json;

constexpr size_t kMostDepth = 64;

// The bytes of the string literal at the beginning of `text`, quotes included; all of them if it
// does not end.
size_t StringBytes(absl::string_view text) {
  size_t i = 1;
  while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
  return std::min(i + 1, text.size());
}

// Takes the first token off valid JSON, with the white space before it; empty: there is none.
absl::string_view TakeToken(absl::string_view& text) {
  text = absl::StripLeadingAsciiWhitespace(text);
  size_t bytes = std::min<size_t>(text.size(), 1);
  if (absl::StartsWith(text, "\"")) {
    bytes = StringBytes(text);
  } else if (!text.empty() && !absl::StrContains("{}[],:", text[0])) {
    bytes = std::min(text.find_first_of("{}[],: \t\r\n"), text.size());
  }
  const absl::string_view token = text.substr(0, bytes);
  text.remove_prefix(bytes);
  return token;
}

std::string StringOf(absl::string_view literal) {
  return json::parse(literal.begin(), literal.end()).get<std::string>();
}

// Writes valid JSON anew, token by token.
class Printer {
 public:
  // False: too deep.
  bool Add(absl::string_view token) {
    if (token == "}" || token == "]") --depth_;
    if (token[0] == '"') {
      out_.append(json(StringOf(token)).dump());
    } else {
      absl::StrAppend(&out_, token);
    }
    if (token == ":" || token == ",") out_.push_back(' ');
    if (token == "{" || token == "[") ++depth_;
    return depth_ <= kMostDepth;
  }
  std::string Take() { return std::move(out_); }

 private:
  size_t depth_ = 0;
  std::string out_;
};

}  // namespace

bool IsJsonObject(absl::string_view text) {
  return absl::StartsWith(absl::StripLeadingAsciiWhitespace(text), "{") &&
         !absl::StrContains(text, '\0') &&  // for which it would end there
         json::accept(text.begin(), text.end());
}

absl::StatusOr<std::string> PythonJson(absl::string_view object) {
  if (!IsJsonObject(object)) return absl::InvalidArgumentError("is no JSON object; wanted one");
  Printer printer;
  for (absl::string_view token = TakeToken(object); !token.empty(); token = TakeToken(object)) {
    if (printer.Add(token)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("is nested deeper than ", kMostDepth, "; wanted at most that"));
  }
  return printer.Take();
}

std::optional<absl::string_view> JsonMember(absl::string_view object, absl::string_view name) {
  if (!IsJsonObject(object)) return std::nullopt;
  TakeToken(object);
  while (true) {
    const absl::string_view member = TakeToken(object);
    if (member == "}") return std::nullopt;  // of an empty object
    TakeToken(object);                       // the colon
    object = absl::StripLeadingAsciiWhitespace(object);
    absl::string_view rest = object;
    const absl::string_view first = TakeToken(rest);
    const bool nests = first == "{" || first == "[";
    const absl::string_view value = object.substr(0, nests ? JsonBytes(object) : first.size());
    if (StringOf(member) == name) return value;
    object.remove_prefix(value.size());
    if (TakeToken(object) == "}") return std::nullopt;
  }
}

std::string JsonString(absl::string_view text) {
  return json(std::string(text)).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string ShortJson(const nlohmann::ordered_json& value) {
  constexpr size_t kMostBytes = 80;
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= kMostBytes) return text;
  return absl::StrCat(CutUtf8(text, kMostBytes), "...");
}

size_t JsonEnd::Find(absl::string_view text) {
  if (at_ > 0 && depth_ == 0) return at_;
  for (; at_ < text.size(); ++at_) {
    const char c = text[at_];
    if (is_in_string_) {
      if (c == '\\') ++at_;  // and what it escapes
      if (c == '"') is_in_string_ = false;
      if (static_cast<unsigned char>(c) < 0x20) has_control_ = true;
    } else if (c == '"') {
      is_in_string_ = true;
      has_control_ = false;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if ((c == '}' || c == ']') && --depth_ == 0) {
      return ++at_;
    }
  }
  return 0;
}

}  // namespace kvship
