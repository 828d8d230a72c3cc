// What all programs do alike with their command lines, beside Abseil.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace kvship {

// Flags with dashes, --max-tokens, mean the same as those with underscores, which is how Abseil
// names them: replaces dashes in the names of flags, in place. Values, and what follows "--", stay.
inline void AcceptDashesInFlags(int argc, char** argv) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    if (std::strncmp(argv[i], "--", 2) != 0) continue;
    char* end = argv[i] + 2;
    while (*end != '\0' && *end != '=') ++end;
    std::replace(argv[i] + 2, end, '-', '_');
  }
}

// Sets the flags, and returns the program's name and what are none. --help tells `usage` and the
// flags of the program's main file, --version the version. At most once in a program.
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
  return absl::ParseCommandLine(argc, argv);
}

// Whether what the program has printed is written, which a full disk prevents; says so if it is
// not. For the end of a program.
inline bool OutputIsWritten(const char* program) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return true;
  std::fprintf(stderr, "%s: standard output cannot be written\n", program);
  return false;
}

}  // namespace kvship
