// A whole file in memory. A pure function but for the file.
#pragma once

#include <optional>
#include <string>

namespace kvship {

// All bytes of a file, or of a pipe up to its end; nothing if it cannot be read.
std::optional<std::string> ReadFile(const std::string& path);

}  // namespace kvship
