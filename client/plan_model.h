// Reads the models that `kvship plan` plans for: files, or well-known shapes by name.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/capacity_plan.h"

namespace kvship {

// Reads the model from a GGUF file or a Hugging Face model directory (config.json; the sizes of the
// files that its weights are in if present, else 16 bits per weight). If the path does not exist,
// it names one of the shapes "llama-2-7b", "llama-3.1-8b", "llama-3.1-70b", "mistral-7b",
// "qwen2.5-7b", "qwen3-8b", "qwen3-32b", "smollm2-135m", "mixtral-8x7b" and "qwen3-30b-a3b", with
// 16 bits per weight. Reads no weights. Errors: NotFound naming --model; those of the files'
// readers.
absl::StatusOr<PlannedModel> ReadPlannedModel(const std::string& path_or_name);

}  // namespace kvship
