#include "client/api_token.h"

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "client/generation_client.h"

namespace kvship {

absl::StatusOr<std::string> ReadApiToken(const std::string& path) {
  std::string source = "the environment's KVSHIP_API_TOKEN";
  std::string token;
  if (!path.empty()) {
    source = absl::StrCat("--api_token_file '", path, "'");
    token = ReadFile(path).value_or("");
  } else if (const char* set = std::getenv("KVSHIP_API_TOKEN"); set != nullptr) {
    token = set;
  }
  absl::StripAsciiWhitespace(&token);
  if (token.empty() && !path.empty()) {
    return absl::NotFoundError(
        absl::StrCat("--api_token_file is '", path, "', in which there is no token"));
  }
  RETURN_IF_ERROR(CheckApiToken(source, token));
  return token;
}

}  // namespace kvship
