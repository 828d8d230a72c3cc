// WeightSource hands a checkpoint's tensors to the transformer under construction. It checks each
// against the shape that the configuration requires, and keeps what the transformer must own
// besides the mapped files. It lives for one LoadTransformer.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "base/sha256.h"
#include "engine/file_tensor.h"
#include "engine/model_config.h"
#include "kernels/weight_format.h"

namespace kvship {

class WeightSource {
 public:
  // `where` names the checkpoint in messages; `tensors` must outlive the source.
  WeightSource(std::string where, const FileTensors& tensors)
      : where_(std::move(where)), tensors_(tensors) {}

  // The matrix [rows, cols], in place if its alignment allows, else copied. InvalidArgument if it
  // is missing or of another shape.
  absl::StatusOr<WeightView> Matrix(const std::string& name, size_t rows, size_t cols);

  // As Matrix, for a tensor of `count` such matrices, one after the other: [count, rows, cols].
  absl::StatusOr<std::vector<WeightView>> Matrices(const std::string& name, size_t count,
                                                   size_t rows, size_t cols);

  // The vector [num_items] as floats. InvalidArgument if it is missing, of another shape or not
  // finite; Unimplemented if it is quantized.
  absl::StatusOr<std::vector<float>> Vector(const std::string& name, size_t num_items);

  bool Has(const std::string& name) const { return tensors_.contains(name); }

  // Marks a tensor as rightly unused.
  void Ignore(const std::string& name) { ignored_.insert(name); }

  // Marks a tensor that repeats `original`, which there is, as rightly unused, if it is there.
  // Unimplemented if it differs: then programs disagree on which of the two counts.
  absl::Status IgnoreCopy(const std::string& name, const std::string& original);

  // Unimplemented, naming the tensor, if one was neither read nor ignored: the model then has a
  // part that kvship does not compute.
  absl::Status CheckAllUsed() const;

  // SHA-256 over lines of text: the configuration, then each tensor read, in the order of names,
  // with its format, shape and the CRC32C of its bytes. One checksum per tensor, rather than
  // SHA-256 over all bytes, identifies the largest models in one pass at memory speed. It tells
  // checkpoints apart, but does not resist deliberate collisions.
  Sha256Digest Identity(const ModelConfig& config) const;

  std::vector<Buffer> TakeConverted() { return std::move(converted_); }

 private:
  absl::StatusOr<const FileTensor*> Find(const std::string& name, const std::vector<size_t>& shape);
  const std::byte* Aligned(const FileTensor& tensor);

  std::string where_;
  const FileTensors& tensors_;
  std::set<std::string> used_;
  std::set<std::string> ignored_;
  std::vector<Buffer> converted_;
};

}  // namespace kvship
