// GgufFile is an open GGUF file (versions 2 and 3, little-endian): its metadata and its tensors,
// borrowed from the mapping that it owns. Open checks every length, count and offset against the
// file before use, so the accessors cannot read outside it. Immutable after Open.
//
// Source: the GGUF specification, docs/gguf.md of ggml-org/ggml.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mapped_file.h"
#include "engine/file_tensor.h"

namespace kvship {

// The types of metadata values, numbered as in the file.
enum class GgufType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

class GgufFile {
 public:
  // NotFound: no such file. InvalidArgument: not GGUF, truncated, or corrupt. Unimplemented: a
  // version, byte order or tensor format that kvship does not read. All name the path and the
  // field.
  static absl::StatusOr<GgufFile> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const FileTensors& tensors() const { return tensors_; }
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }

  // A metadata value: nullopt if the key is absent, InvalidArgument naming the key if the value is
  // of another type or, for Count, negative. Views live as long as the file is open.
  absl::StatusOr<std::optional<uint64_t>> Count(absl::string_view key) const;
  absl::StatusOr<std::optional<double>> Number(absl::string_view key) const;
  absl::StatusOr<std::optional<bool>> Flag(absl::string_view key) const;
  absl::StatusOr<std::optional<absl::string_view>> Text(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<absl::string_view>>> Texts(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<int64_t>>> Integers(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<float>>> Floats(absl::string_view key) const;

  // As above for required keys: InvalidArgument if the key is absent.
  absl::StatusOr<uint64_t> RequiredCount(absl::string_view key) const;
  absl::StatusOr<absl::string_view> RequiredText(absl::string_view key) const;

  // Hands over the mapping; views into it stay valid as long as the caller keeps it.
  MappedFile TakeFile() && { return std::move(file_); }

 private:
  friend class GgufParser;

  struct Value {
    GgufType type = GgufType::kUint8;  // of the value, or of the items of an array
    bool is_array = false;
    uint64_t num_items = 1;
    std::span<const std::byte> bytes;  // of a string without its length, else as in the file
  };

  explicit GgufFile(MappedFile file) : file_(std::move(file)) {}
  const Value* Find(absl::string_view key) const;
  absl::Status WrongType(absl::string_view key, absl::string_view wanted) const;

  MappedFile file_;
  std::map<std::string, Value, std::less<>> metadata_;
  FileTensors tensors_;
};

}  // namespace kvship
