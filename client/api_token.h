// Where the command line's API token comes from.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace kvship {

// In the file, or, without a path, in the environment's KVSHIP_API_TOKEN; empty where it is not
// set. NotFound if the file has none; InvalidArgument as CheckApiToken
// (client/generation_client.h).
absl::StatusOr<std::string> ReadApiToken(const std::string& path);

}  // namespace kvship
