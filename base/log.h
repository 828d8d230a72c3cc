// The process's log: spdlog behind three functions, so that no other header is pulled in
// everywhere. Messages carry what a person needs to act; never prompt text. Thread safe.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

enum class LogFormat { kText, kJson };

// Called once, by main. `program` names the process in every line.
void StartLog(const std::string& program, LogFormat format);

void LogInfo(absl::string_view message);
void LogWarning(absl::string_view message);
void LogError(absl::string_view message);

}  // namespace kvship
