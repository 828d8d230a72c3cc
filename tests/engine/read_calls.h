// What a ToolCallReader finds in an answer, for tests, however it is cut.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/tool_call_reader.h"

namespace kvship {

struct Answer {
  std::string text;
  std::vector<std::string> calls;  // "name(arguments)"

  bool operator==(const Answer&) const = default;
};

inline void AddFound(const ToolCallReader::Found& found, Answer& answer) {
  answer.text += found.text;
  for (const ToolCall& call : found.calls) {
    answer.calls.push_back(absl::StrCat(call.name, "(", call.arguments, ")"));
  }
}

// `cuts` are where the text is cut.
inline Answer ReadCut(ToolCallReader reader, absl::string_view text,
                      const std::vector<size_t>& cuts) {
  Answer answer;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    AddFound(reader.Add(text.substr(begin, cut - begin)), answer);
    begin = cut;
  }
  AddFound(reader.Add(text.substr(begin)), answer);
  AddFound(reader.Finish(), answer);
  return answer;
}

// Cut nowhere, at each place by itself, and at all of them: each way says the same.
inline Answer ReadEveryWay(const ToolCallReader& reader, absl::string_view text) {
  const Answer whole = ReadCut(reader, text, {});
  std::vector<size_t> all;
  for (size_t cut = 1; cut < text.size(); ++cut) {
    EXPECT_EQ(ReadCut(reader, text, {cut}), whole) << text << "\ncut at " << cut;
    all.push_back(cut);
  }
  EXPECT_EQ(ReadCut(reader, text, all), whole) << text;
  return whole;
}

}  // namespace kvship
