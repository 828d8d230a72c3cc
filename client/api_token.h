// Reads the API token for the command line.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace kvship {

// Reads the token from the file or, if `path` is empty, from the environment's KVSHIP_API_TOKEN;
// empty if unset. NotFound if the file has none; InvalidArgument as CheckApiToken
// (client/generation_client.h).
absl::StatusOr<std::string> ReadApiToken(const std::string& path);

}  // namespace kvship
