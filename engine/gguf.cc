#include "engine/gguf.h"

#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/gguf_parser.h"

namespace kvship {
namespace {

template <class T>
T ReadAt(std::span<const std::byte> bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

std::optional<int64_t> IntegerAt(GgufType type, std::span<const std::byte> bytes, size_t index) {
  switch (type) {
    case GgufType::kUint8: return ReadAt<uint8_t>(bytes, index);
    case GgufType::kInt8: return ReadAt<int8_t>(bytes, index);
    case GgufType::kUint16: return ReadAt<uint16_t>(bytes, index);
    case GgufType::kInt16: return ReadAt<int16_t>(bytes, index);
    case GgufType::kUint32: return ReadAt<uint32_t>(bytes, index);
    case GgufType::kInt32: return ReadAt<int32_t>(bytes, index);
    case GgufType::kInt64: return ReadAt<int64_t>(bytes, index);
    case GgufType::kUint64: {
      const uint64_t value = ReadAt<uint64_t>(bytes, index);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default: return std::nullopt;
  }
}

absl::string_view TextOf(std::span<const std::byte> bytes) {
  return absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  static_assert(std::endian::native == std::endian::little, "GGUF values are read in place");
  ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  GgufFile file(std::move(mapped));
  RETURN_IF_ERROR(GgufParser(file).Parse());
  return file;
}

const GgufFile::Value* GgufFile::Find(absl::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

absl::Status GgufFile::WrongType(absl::string_view key, absl::string_view wanted) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path(), ": metadata ", key, " has another type; wanted ", wanted));
}

absl::StatusOr<std::optional<uint64_t>> GgufFile::Count(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number =
      value->is_array ? std::nullopt : IntegerAt(value->type, value->bytes, 0);
  if (!number.has_value()) return WrongType(key, "an integer of 0 or more");
  if (*number < 0) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": metadata ", key, " is ", *number,
                                                   "; wanted an integer of 0 or more"));
  }
  return static_cast<uint64_t>(*number);
}

absl::StatusOr<std::optional<double>> GgufFile::Number(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array) {
    if (value->type == GgufType::kFloat32) return ReadAt<float>(value->bytes, 0);
    if (value->type == GgufType::kFloat64) return ReadAt<double>(value->bytes, 0);
    if (const auto integer = IntegerAt(value->type, value->bytes, 0)) {
      return static_cast<double>(*integer);
    }
  }
  return WrongType(key, "a number");
}

absl::StatusOr<std::optional<bool>> GgufFile::Flag(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != GgufType::kBool) return WrongType(key, "a truth value");
  return value->bytes[0] != std::byte{0};
}

absl::StatusOr<std::optional<absl::string_view>> GgufFile::Text(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != GgufType::kString) return WrongType(key, "a string");
  return TextOf(value->bytes);
}

absl::StatusOr<std::optional<std::vector<absl::string_view>>> GgufFile::Texts(
    absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array || value->type != GgufType::kString) {
    return WrongType(key, "an array of strings");
  }
  std::vector<absl::string_view> texts;
  texts.reserve(value->num_items);
  std::span<const std::byte> rest = value->bytes;
  for (uint64_t i = 0; i < value->num_items; ++i) {
    const auto num_bytes = ReadAt<uint64_t>(rest, 0);
    texts.push_back(TextOf(rest.subspan(sizeof(uint64_t), num_bytes)));
    rest = rest.subspan(sizeof(uint64_t) + num_bytes);
  }
  return texts;
}

absl::StatusOr<std::optional<std::vector<int64_t>>> GgufFile::Integers(
    absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array) return WrongType(key, "an array of integers");
  std::vector<int64_t> integers(value->num_items);
  for (size_t i = 0; i < integers.size(); ++i) {
    const std::optional<int64_t> integer = IntegerAt(value->type, value->bytes, i);
    if (!integer.has_value()) return WrongType(key, "an array of integers");
    integers[i] = *integer;
  }
  return integers;
}

absl::StatusOr<std::optional<std::vector<float>>> GgufFile::Floats(absl::string_view key) const {
  const Value* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array || value->type != GgufType::kFloat32) {
    return WrongType(key, "an array of float32");
  }
  std::vector<float> floats(value->num_items);
  for (size_t i = 0; i < floats.size(); ++i) floats[i] = ReadAt<float>(value->bytes, i);
  return floats;
}

absl::StatusOr<uint64_t> GgufFile::RequiredCount(absl::string_view key) const {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> count, Count(key));
  if (!count.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": metadata ", key, " is missing; wanted an integer"));
  }
  return *count;
}

absl::StatusOr<absl::string_view> GgufFile::RequiredText(absl::string_view key) const {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> text, Text(key));
  if (!text.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": metadata ", key, " is missing; wanted a string"));
  }
  return *text;
}

}  // namespace kvship
