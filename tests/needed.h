// What tests need and a machine may lack. A test that lacks it is skipped; where KVSHIP_REQUIRE_ALL
// is 1, as in ./dev test, which has installed it, the test fails.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

namespace kvship {

// Whether the file, which ./dev setup installs, is missing; the caller skips then.
inline bool IsMissing(const std::string& path) {
  if (std::filesystem::exists(path)) return false;
  const char* const required = std::getenv("KVSHIP_REQUIRE_ALL");
  if (required != nullptr && std::string_view(required) == "1") {
    ADD_FAILURE() << "KVSHIP_REQUIRE_ALL is 1, and there is no " << path;
  }
  return true;
}

}  // namespace kvship
