// Command-line handling that all programs share, on top of Abseil's. For main functions.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace kvship {

// Replaces dashes in the names of flags with underscores, in place, so that --max-tokens means
// Abseil's --max_tokens. Values, and what follows "--", stay as they are.
inline void AcceptDashesInFlags(int argc, char** argv) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    if (std::strncmp(argv[i], "--", 2) != 0) continue;
    char* end = argv[i] + 2;
    while (*end != '\0' && *end != '=') ++end;
    std::replace(argv[i] + 2, end, '-', '_');
  }
}

// Whether all output of the program has been written, which a full disk prevents; prints an error
// if not. Call it at the end of a program.
inline bool OutputIsWritten(const char* program) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return true;
  std::fprintf(stderr, "%s: standard output cannot be written\n", program);
  return false;
}

// Prints the flags that `arguments` ask for (the program's name, then --help and its variants) and
// exits with code 0. Abseil exits with 1, which scripts take for an error.
[[noreturn]] inline void TellFlags(std::vector<char*> arguments) {
  static const char* const program = arguments[0];
  std::atexit([] { _exit(OutputIsWritten(program) ? 0 : 1); });
  absl::ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
  std::exit(0);
}

// Sets the flags and returns the program's name and its other arguments. --help prints `usage` and
// the flags of the program's main file, --version the version. Call it at most once.
inline std::vector<char*> ParseCommandLine(absl::string_view usage, int argc, char** argv) {
  absl::SetProgramUsageMessage(usage);
  absl::FlagsUsageConfig config;
  config.contains_help_flags = [](absl::string_view file) {
    return absl::EndsWith(file, "main.cc");
  };
  config.normalize_filename = [](absl::string_view file) {
    while (absl::ConsumePrefix(&file, "../")) {
    }
    return std::string(file);
  };
  config.version_string = [] { return std::string("kvship " KVSHIP_VERSION "\n"); };
  absl::SetFlagsUsageConfig(config);
  AcceptDashesInFlags(argc, argv);
  std::vector<char*> arguments(argv, argv + argc);
  const auto flags_end = std::find_if(arguments.begin(), arguments.end(), [](const char* argument) {
    return argument == absl::string_view("--");
  });
  const auto help = std::stable_partition(
      arguments.begin() + 1, flags_end,
      [](const char* argument) { return !absl::StartsWith(argument, "--help"); });
  std::vector<char*> help_arguments(help, flags_end);
  arguments.erase(help, flags_end);
  // Errors in the other flags come first.
  std::vector<char*> rest =
      absl::ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
  if (help_arguments.empty()) return rest;
  help_arguments.insert(help_arguments.begin(), argv[0]);
  TellFlags(std::move(help_arguments));
}

}  // namespace kvship
