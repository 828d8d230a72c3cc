// Reads tensors of safetensors files, borrowed from their mappings: one file, or the shards that an
// index names.
//
// Source: the format's description, README.md of huggingface/safetensors.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mapped_file.h"
#include "engine/file_tensor.h"

namespace kvship {

struct SafetensorsFiles {
  std::vector<MappedFile> files;
  FileTensors tensors;
};

// NotFound: no such file. InvalidArgument: truncated or corrupt. Unimplemented: a dtype other than
// F32, F16 and BF16. All name the file and the tensor.
absl::StatusOr<SafetensorsFiles> ReadSafetensors(const std::string& path);

// The files that a directory's weights are in: its model.safetensors or, if it is missing, the
// shards that its model.safetensors.index.json names, whether they are there or not. A folder may
// have the same weights once more in other files, as Mistral's in consolidated.safetensors.
// NotFound: neither is there. InvalidArgument: the index is corrupt.
absl::StatusOr<std::vector<std::string>> SafetensorsPaths(const std::string& directory);

// Reads the files of SafetensorsPaths. InvalidArgument also if a shard has not the tensors that the
// index gives to it.
absl::StatusOr<SafetensorsFiles> ReadSafetensorsDirectory(const std::string& directory);

}  // namespace kvship
