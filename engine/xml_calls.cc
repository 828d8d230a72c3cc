#include "engine/xml_calls.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvship {
namespace {

constexpr absl::string_view kBegin = "<tool_call>", kEnd = "</tool_call>";
constexpr absl::string_view kFunction = "<function=", kFunctionEnd = "</function>";
constexpr absl::string_view kParameter = "<parameter=";

class XmlCall {
 public:
  XmlCall(absl::string_view text, const ToolParameters& parameters, CallReading& reading)
      : text_(text), parameters_(parameters), reading_(reading) {}

  CallState Read(bool is_whole) {
    CallState state = reading_.at > 0 ? CallState::kCalls : ReadHead();
    while (state == CallState::kCalls && reading_.calls.empty()) state = ReadNext(is_whole);
    if (state == CallState::kCalls || (state == CallState::kUnfinished && !is_whole)) return state;
    // What was cut off is none, to its end; of what is another thing, the mark alone.
    reading_.num_bytes = state == CallState::kUnfinished   ? text_.size()
                         : absl::StartsWith(text_, kBegin) ? kBegin.size()
                                                           : kFunction.size();
    return CallState::kNone;
  }

 private:
  // What was not understood yet, behind white space.
  absl::string_view Rest(size_t at) const {
    return absl::StripLeadingAsciiWhitespace(text_.substr(at));
  }
  size_t PlaceOf(absl::string_view rest) const { return text_.size() - rest.size(); }

  // Takes NAME> off the text.
  static CallState TakeName(absl::string_view& text, std::string& name) {
    const size_t end = text.find_first_of("<>\n");
    if (end == absl::string_view::npos) return CallState::kUnfinished;
    if (text[end] != '>' || end == 0) return CallState::kNone;
    name = std::string(text.substr(0, end));
    text.remove_prefix(end + 1);
    return CallState::kCalls;
  }

  CallState ReadHead() {
    absl::string_view rest = text_;
    absl::ConsumePrefix(&rest, kBegin);
    rest = absl::StripLeadingAsciiWhitespace(rest);
    if (MayBecome(rest, kFunction)) return CallState::kUnfinished;
    if (!absl::ConsumePrefix(&rest, kFunction)) return CallState::kNone;
    const CallState state = TakeName(rest, reading_.name);
    if (state != CallState::kCalls) return state;
    reading_.at = PlaceOf(rest);
    return state;
  }

  CallState ReadNext(bool is_whole) {
    absl::string_view rest = Rest(reading_.at);
    if (absl::StartsWith(rest, kParameter)) return ReadParameter(rest, is_whole);
    if (MayBecome(rest, kParameter) || MayBecome(rest, kFunctionEnd)) {
      return CallState::kUnfinished;
    }
    if (!absl::ConsumePrefix(&rest, kFunctionEnd)) return CallState::kNone;
    const absl::string_view behind = absl::StripLeadingAsciiWhitespace(rest);
    const bool is_cut_off = MayBecome(behind, kEnd);
    if (is_cut_off && !is_whole) return CallState::kUnfinished;
    reading_.num_bytes = is_cut_off                       ? text_.size()
                         : absl::StartsWith(behind, kEnd) ? PlaceOf(behind) + kEnd.size()
                                                          : PlaceOf(rest);
    reading_.calls.push_back({reading_.name, absl::StrCat("{", reading_.arguments, "}")});
    return CallState::kCalls;
  }

  CallState ReadParameter(absl::string_view rest, bool is_whole) {
    rest.remove_prefix(kParameter.size());
    std::string key;
    const CallState state = TakeName(rest, key);
    if (state != CallState::kCalls) return state;
    const JsonTypes& types = parameters_.TypesOf(reading_.name, key);
    const size_t begin = PlaceOf(rest);
    size_t end = 0;
    CallState ending = types.contains("string") ? CallState::kNone : FindJsonEnd(begin, end);
    if (ending == CallState::kUnfinished && !is_whole) return ending;
    if (ending != CallState::kCalls) ending = FindTextEnd(begin, is_whole, end);
    if (ending != CallState::kCalls) return ending;
    absl::string_view value = text_.substr(begin, end - begin);
    absl::ConsumePrefix(&value, "\n");
    absl::ConsumeSuffix(&value, "\n");
    absl::StrAppend(&reading_.arguments, reading_.arguments.empty() ? "" : ", ",
                    JsonOfText(key, {"string"}), ": ", JsonOfText(value, types));
    reading_.at = end + kXmlValueEnd.size();
    reading_.searched = 0;
    reading_.json = JsonEnd();
    return state;
  }

  // Where an argument that begins at `begin` ends, if it is an object or a list of JSON: a string
  // in it may have any mark.
  CallState FindJsonEnd(size_t begin, size_t& end) {
    const absl::string_view value = Rest(begin);
    if (value.empty()) return CallState::kUnfinished;
    if (value[0] != '{' && value[0] != '[') return CallState::kNone;
    const size_t bytes = reading_.json.Find(value);
    const absl::string_view behind = absl::StripLeadingAsciiWhitespace(value.substr(bytes));
    if (bytes == 0 || MayBecome(behind, kXmlValueEnd)) return CallState::kUnfinished;
    end = PlaceOf(behind);
    return absl::StartsWith(behind, kXmlValueEnd) ? CallState::kCalls : CallState::kNone;
  }

  // If it is any text: a file that a model writes may have all the marks, but hardly two in a row.
  CallState FindTextEnd(size_t begin, bool is_whole, size_t& end) {
    end = std::max(begin, reading_.searched);
    for (; (end = text_.find(kXmlValueEnd, end)) != absl::string_view::npos; ++end) {
      const absl::string_view behind = Rest(end + kXmlValueEnd.size());
      if (absl::StartsWith(behind, kParameter) || absl::StartsWith(behind, kFunctionEnd)) {
        return CallState::kCalls;
      }
      reading_.searched = end;
      const bool may_end = MayBecome(behind, kParameter) || MayBecome(behind, kFunctionEnd);
      if (may_end && !is_whole) return CallState::kUnfinished;
    }
    reading_.searched = text_.size() - std::min(text_.size(), kXmlValueEnd.size());
    return CallState::kUnfinished;
  }

  const absl::string_view text_;
  const ToolParameters& parameters_;
  CallReading& reading_;
};

}  // namespace

CallState ReadXmlCall(absl::string_view text, bool is_whole, const ToolParameters& parameters,
                      CallReading& reading) {
  return XmlCall(text, parameters, reading).Read(is_whole);
}

}  // namespace kvship
