// GgufParser fills a GgufFile from its mapping, checking every bound before use. It lives for one
// Parse; gguf.cc alone uses it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/gguf.h"

namespace kvship {

class GgufParser {
 public:
  // `out` must outlive the parser.
  explicit GgufParser(GgufFile& out) : out_(out), bytes_(out.file_.bytes()) {}

  // InvalidArgument or Unimplemented, naming the path and the field; `out` is then unusable.
  absl::Status Parse();

 private:
  // A tensor's entry in the header, before the offset of the data section is known.
  struct Entry {
    FileTensor tensor;
    uint64_t offset = 0;
  };

  absl::Status Bad(absl::string_view what) const;
  template <class T>
  absl::StatusOr<T> Read(absl::string_view what);
  absl::StatusOr<absl::string_view> ReadText(absl::string_view what);
  absl::StatusOr<std::string> ReadName(absl::string_view what);
  absl::StatusOr<std::span<const std::byte>> Take(uint64_t num_bytes, absl::string_view what);
  absl::Status ReadMetadata(uint64_t num_values);
  absl::StatusOr<GgufFile::Value> ReadValue(absl::string_view key);
  absl::StatusOr<GgufFile::Value> ReadArray(absl::string_view key);
  absl::StatusOr<Entry> ReadEntry(uint64_t index);
  absl::Status ReadTensors(uint64_t num_tensors);
  uint64_t BytesLeft() const { return bytes_.size() - position_; }

  GgufFile& out_;
  std::span<const std::byte> bytes_;
  size_t position_ = 0;
};

}  // namespace kvship
