// The configuration of a Hugging Face model directory: config.json, and generation_config.json
// where there is one. Reads the spellings of transformers 4 and 5.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model_config.h"

namespace kvship {

struct HfConfig {
  ModelConfig model;
  bool tied_embeddings = false;  // the output matrix is the embedding
};

// Errors name the file and the field. NotFound: no config.json. InvalidArgument: a field that is
// missing, of the wrong type, or cannot be. Unimplemented: an architecture or an option that kvship
// does not run.
absl::StatusOr<HfConfig> ReadHfConfig(const std::string& directory);

}  // namespace kvship
