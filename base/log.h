// The process's log: spdlog behind three functions, so that no other header is pulled in
// everywhere. Messages carry what a person needs to act; never prompt text. Thread safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

enum class LogFormat { kText, kJson };

// "text" or "json"; InvalidArgument naming --log_format for anything else.
absl::StatusOr<LogFormat> ParseLogFormat(const std::string& text);

// Called once, by main. `program` names the process in every line.
void StartLog(const std::string& program, LogFormat format);

// Creates the logger now, so that it outlives static objects that are constructed later.
void PrepareLog();

// A named value in a line: a member of the line's JSON object, or name=value after the text.
struct LogField {
  absl::string_view name;
  std::variant<absl::string_view, uint64_t, double> value;
};

void LogInfo(absl::string_view message, std::initializer_list<LogField> fields = {});
void LogWarning(absl::string_view message, std::initializer_list<LogField> fields = {});
void LogError(absl::string_view message);

}  // namespace kvship
