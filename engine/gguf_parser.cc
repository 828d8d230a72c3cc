#include "engine/gguf_parser.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDimensions = 4;
constexpr size_t kMaxNameBytes = 1024;  // names go into messages; real ones stay under 100

// The least a metadata value (key length, type, one byte) and a tensor's entry (name length, number
// of dimensions, format, offset) take: what a count in the header can promise at most.
constexpr uint64_t kMinValueBytes = 8 + 4 + 1;
constexpr uint64_t kMinEntryBytes = 8 + 4 + 4 + 8;

// Bytes of one value of a fixed size; 0 for strings, arrays, and types that do not exist.
uint64_t FixedBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool: return 1;
    case GgufType::kUint16:
    case GgufType::kInt16: return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32: return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64: return 8;
    case GgufType::kString:
    case GgufType::kArray: break;
  }
  return 0;
}

// Tensor formats by their number in the file (enum ggml_type of ggml-org/ggml); a null name is a
// number that was never given or was taken back.
struct TensorFormat {
  const char* name = nullptr;
  std::optional<WeightFormat> format;
};
constexpr std::array<TensorFormat, 41> kTensorFormats = {{
    {"F32", WeightFormat::kF32},
    {"F16", WeightFormat::kF16},
    {"Q4_0", WeightFormat::kQ4_0},
    {"Q4_1", WeightFormat::kQ4_1},
    {nullptr, {}},
    {nullptr, {}},
    {"Q5_0", WeightFormat::kQ5_0},
    {"Q5_1", WeightFormat::kQ5_1},
    {"Q8_0", WeightFormat::kQ8_0},
    {"Q8_1", {}},
    {"Q2_K", WeightFormat::kQ2_K},
    {"Q3_K", WeightFormat::kQ3_K},
    {"Q4_K", WeightFormat::kQ4_K},
    {"Q5_K", WeightFormat::kQ5_K},
    {"Q6_K", WeightFormat::kQ6_K},
    {"Q8_K", {}},
    {"IQ2_XXS", {}},
    {"IQ2_XS", {}},
    {"IQ3_XXS", {}},
    {"IQ1_S", {}},
    {"IQ4_NL", WeightFormat::kIQ4_NL},
    {"IQ3_S", {}},
    {"IQ2_S", {}},
    {"IQ4_XS", WeightFormat::kIQ4_XS},
    {"I8", {}},
    {"I16", {}},
    {"I32", {}},
    {"I64", {}},
    {"F64", {}},
    {"IQ1_M", {}},
    {"BF16", WeightFormat::kBf16},
    {nullptr, {}},
    {nullptr, {}},
    {nullptr, {}},
    {"TQ1_0", {}},
    {"TQ2_0", {}},
    {nullptr, {}},
    {nullptr, {}},
    {nullptr, {}},
    {"MXFP4", {}},
    {"NVFP4", {}},
}};

std::vector<const char*> NamesOfFormats() {
  std::vector<const char*> names;
  for (const TensorFormat& format : kTensorFormats) {
    if (format.format.has_value()) names.push_back(format.name);
  }
  return names;
}

}  // namespace

absl::Status GgufParser::Bad(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(out_.path(), ": ", what));
}

absl::StatusOr<std::span<const std::byte>> GgufParser::Take(uint64_t num_bytes,
                                                            absl::string_view what) {
  if (num_bytes > BytesLeft()) {
    return Bad(absl::StrCat(what, " takes ", num_bytes, " bytes at offset ", position_,
                            ", but the file has ", BytesLeft(),
                            " left; it is truncated or corrupt"));
  }
  const auto taken = bytes_.subspan(position_, num_bytes);
  position_ += num_bytes;
  return taken;
}

template <class T>
absl::StatusOr<T> GgufParser::Read(absl::string_view what) {
  ASSIGN_OR_RETURN(const auto taken, Take(sizeof(T), what));
  T value;
  std::memcpy(&value, taken.data(), sizeof(T));
  return value;
}

absl::StatusOr<absl::string_view> GgufParser::ReadText(absl::string_view what) {
  ASSIGN_OR_RETURN(const uint64_t num_bytes, Read<uint64_t>(what));
  ASSIGN_OR_RETURN(const auto taken, Take(num_bytes, what));
  return absl::string_view(reinterpret_cast<const char*>(taken.data()), taken.size());
}

absl::StatusOr<std::string> GgufParser::ReadName(absl::string_view what) {
  ASSIGN_OR_RETURN(const absl::string_view name, ReadText(what));
  const bool printable = std::all_of(name.begin(), name.end(), absl::ascii_isgraph);
  if (name.empty() || name.size() > kMaxNameBytes || !printable) {
    return Bad(absl::StrCat(what, " is not a name of 1 to ", kMaxNameBytes,
                            " printable ASCII characters; the file is corrupt"));
  }
  return std::string(name);
}

absl::Status GgufParser::Parse() {
  const auto magic = Read<uint32_t>("magic");
  if (!magic.ok() || *magic != kMagic) return Bad("not a GGUF file: it does not begin with GGUF");
  ASSIGN_OR_RETURN(const uint32_t version, Read<uint32_t>("version"));
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(absl::StrCat(out_.path(), ": GGUF version ", version,
                                                 version << 16 != 0 ? "" : " (a big-endian file)",
                                                 "; wanted 2 or 3"));
  }
  ASSIGN_OR_RETURN(const uint64_t num_tensors, Read<uint64_t>("number of tensors"));
  ASSIGN_OR_RETURN(const uint64_t num_values, Read<uint64_t>("number of metadata values"));
  if (num_values > BytesLeft() / kMinValueBytes) {
    return Bad(absl::StrCat("number of metadata values ", num_values, " is more than the file's ",
                            bytes_.size(), " bytes can hold"));
  }
  RETURN_IF_ERROR(ReadMetadata(num_values));
  if (num_tensors > BytesLeft() / kMinEntryBytes) {
    return Bad(absl::StrCat("number of tensors ", num_tensors, " is more than the file's ",
                            bytes_.size(), " bytes can hold"));
  }
  return ReadTensors(num_tensors);
}

absl::Status GgufParser::ReadMetadata(uint64_t num_values) {
  for (uint64_t i = 0; i < num_values; ++i) {
    ASSIGN_OR_RETURN(const std::string key, ReadName(absl::StrCat("metadata key ", i)));
    ASSIGN_OR_RETURN(GgufFile::Value value, ReadValue(key));
    if (!out_.metadata_.emplace(key, value).second) {
      return Bad(absl::StrCat("metadata ", key, " is there twice"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufFile::Value> GgufParser::ReadValue(absl::string_view key) {
  const std::string what = absl::StrCat("metadata ", key);
  ASSIGN_OR_RETURN(const uint32_t number, Read<uint32_t>(what));
  GgufFile::Value value;
  value.type = GgufType{number};
  if (value.type == GgufType::kArray) return ReadArray(key);
  if (value.type == GgufType::kString) {
    ASSIGN_OR_RETURN(const absl::string_view text, ReadText(what));
    value.bytes = std::as_bytes(std::span(text.data(), text.size()));
    return value;
  }
  const uint64_t num_bytes = FixedBytes(value.type);
  if (num_bytes == 0) return Bad(absl::StrCat(what, " has type ", number, "; wanted 0 to 12"));
  ASSIGN_OR_RETURN(value.bytes, Take(num_bytes, what));
  return value;
}

absl::StatusOr<GgufFile::Value> GgufParser::ReadArray(absl::string_view key) {
  const std::string what = absl::StrCat("metadata ", key);
  ASSIGN_OR_RETURN(const uint32_t number, Read<uint32_t>(what));
  GgufFile::Value value;
  value.is_array = true;
  value.type = GgufType{number};
  ASSIGN_OR_RETURN(value.num_items, Read<uint64_t>(what));
  const bool is_text = value.type == GgufType::kString;
  const uint64_t item_bytes = is_text ? sizeof(uint64_t) : FixedBytes(value.type);
  if (item_bytes == 0) {
    return Bad(absl::StrCat(what, " is an array of type ", number,
                            "; wanted an array of numbers, truth values or strings"));
  }
  if (value.num_items > BytesLeft() / item_bytes) {
    return Bad(absl::StrCat(what, " has ", value.num_items, " items, but the file has ",
                            BytesLeft(), " bytes left; it is truncated or corrupt"));
  }
  if (!is_text) {
    ASSIGN_OR_RETURN(value.bytes, Take(value.num_items * item_bytes, what));
    return value;
  }
  const size_t begin = position_;
  for (uint64_t i = 0; i < value.num_items; ++i) {
    const absl::StatusOr<absl::string_view> text = ReadText(what);
    if (!text.ok()) return text.status();
  }
  value.bytes = bytes_.subspan(begin, position_ - begin);
  return value;
}

absl::StatusOr<GgufParser::Entry> GgufParser::ReadEntry(uint64_t index) {
  Entry entry;
  FileTensor& tensor = entry.tensor;
  ASSIGN_OR_RETURN(tensor.name, ReadName(absl::StrCat("name of tensor ", index)));
  tensor.file = out_.path();
  const std::string what = absl::StrCat("tensor ", tensor.name);
  ASSIGN_OR_RETURN(const uint32_t num_dimensions, Read<uint32_t>(what));
  if (num_dimensions < 1 || num_dimensions > kMaxDimensions) {
    return Bad(absl::StrCat(what, " has ", num_dimensions, " dimensions; wanted 1 to 4"));
  }
  uint64_t num_weights = 1;
  for (uint32_t i = 0; i < num_dimensions; ++i) {
    ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>(what));
    // No format packs more than 8 weights into a byte, so a product past this cannot be in the
    // file.
    if (size == 0 || __builtin_mul_overflow(num_weights, size, &num_weights) ||
        num_weights / 8 > bytes_.size()) {
      return Bad(absl::StrCat(what, ": dimension ", i, " is ", size,
                              "; wanted at least 1, and no more weights than the file can hold"));
    }
    tensor.shape.push_back(size);
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());  // the file puts the contiguous one first
  ASSIGN_OR_RETURN(const uint32_t number, Read<uint32_t>(what));
  const TensorFormat format =
      number < kTensorFormats.size() ? kTensorFormats[number] : TensorFormat{};
  if (format.name == nullptr) {
    return Bad(absl::StrCat(what, " has format ", number, ", which GGUF does not define"));
  }
  if (!format.format.has_value()) {
    return absl::UnimplementedError(absl::StrCat(out_.path(), ": ", what, " has format ",
                                                 format.name, "; wanted one of ",
                                                 absl::StrJoin(NamesOfFormats(), ", ")));
  }
  tensor.format = *format.format;
  ASSIGN_OR_RETURN(entry.offset, Read<uint64_t>(what));
  return entry;
}

absl::Status GgufParser::ReadTensors(uint64_t num_tensors) {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> stated, out_.Count("general.alignment"));
  const uint64_t alignment = stated.value_or(kDefaultAlignment);
  if (!std::has_single_bit(alignment) || alignment < 8 || alignment > bytes_.size()) {
    return Bad(absl::StrCat("metadata general.alignment is ", alignment,
                            "; wanted a power of two of at least 8, within the file"));
  }
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < num_tensors; ++i) {
    ASSIGN_OR_RETURN(Entry entry, ReadEntry(i));
    entries.push_back(std::move(entry));
  }
  const uint64_t padding = (alignment - position_ % alignment) % alignment;
  if (!entries.empty() && padding > BytesLeft()) {
    return Bad("the file ends before its tensor data; it is truncated");
  }
  const auto data =
      entries.empty() ? std::span<const std::byte>{} : bytes_.subspan(position_ + padding);
  for (Entry& entry : entries) {
    FileTensor& tensor = entry.tensor;
    const WeightBlock block = BlockOf(tensor.format);
    const size_t cols = tensor.shape.back();
    if (cols % block.num_weights != 0) {
      return Bad(absl::StrCat("tensor ", tensor.name, " has rows of ", cols,
                              " weights; wanted a multiple of ", block.num_weights,
                              ", the block of ", WeightFormatName(tensor.format)));
    }
    uint64_t num_blocks = 1;
    for (const size_t size : tensor.shape) num_blocks *= size;
    num_blocks /= block.num_weights;
    if (entry.offset % alignment != 0) {
      return Bad(absl::StrCat("tensor ", tensor.name, " lies at offset ", entry.offset,
                              "; wanted a multiple of ", alignment));
    }
    if (entry.offset > data.size() || num_blocks > (data.size() - entry.offset) / block.num_bytes) {
      return Bad(absl::StrCat("tensor ", tensor.name, " needs ", num_blocks, " blocks of ",
                              block.num_bytes, " bytes at offset ", entry.offset,
                              " of the tensor data, which has ", data.size(),
                              " bytes; the file is truncated or corrupt"));
    }
    tensor.bytes = data.subspan(entry.offset, num_blocks * block.num_bytes);
    std::string name = tensor.name;
    if (!out_.tensors_.emplace(name, std::move(tensor)).second) {
      return Bad(absl::StrCat("tensor ", name, " is there twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace kvship
