// Reads the configuration of a Hugging Face model directory: config.json and, if present,
// generation_config.json, as transformers 4 and 5 spell them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model_config.h"

namespace kvship {

struct HfConfig {
  ModelConfig model;
  bool tied_embeddings = false;  // the output matrix is the embedding
};

// Errors name the file and the field. NotFound: no config.json. InvalidArgument: a field is
// missing, of the wrong type, or invalid. Unimplemented: an architecture or an option that kvship
// does not run.
absl::StatusOr<HfConfig> ReadHfConfig(const std::string& directory);

}  // namespace kvship
