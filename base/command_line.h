// Makes flags with dashes, --max-tokens, mean the same as those with underscores, which is how
// Abseil names them.
#pragma once

#include <algorithm>
#include <cstring>

namespace kvship {

// Replaces dashes in the names of flags, in place. Values, and what follows "--", stay.
inline void AcceptDashesInFlags(int argc, char** argv) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    if (std::strncmp(argv[i], "--", 2) != 0) continue;
    char* end = argv[i] + 2;
    while (*end != '\0' && *end != '=') ++end;
    std::replace(argv[i] + 2, end, '-', '_');
  }
}

}  // namespace kvship
