#include "engine/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace kvship {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxDimensions = 8;

absl::Status Bad(absl::string_view path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

// The header's JSON text, and the tensor data behind it.
struct Sections {
  absl::string_view header;
  std::span<const std::byte> data;
};

absl::StatusOr<Sections> Split(const MappedFile& file) {
  const auto bytes = file.bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return Bad(file.path(),
               absl::StrCat("has ", bytes.size(),
                            " bytes, too few for a safetensors file; it is truncated"));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const uint64_t limit = std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - sizeof(header_bytes));
  if (header_bytes > limit) {
    return Bad(file.path(), absl::StrCat("header length is ", header_bytes, "; wanted at most ",
                                         limit, "; the file is truncated or corrupt"));
  }
  const char* header = reinterpret_cast<const char*>(bytes.data()) + sizeof(header_bytes);
  return Sections{absl::string_view(header, header_bytes),
                  bytes.subspan(sizeof(header_bytes) + header_bytes)};
}

absl::StatusOr<WeightFormat> ParseDtype(const JsonObject& entry) {
  ASSIGN_OR_RETURN(const std::string dtype, entry.RequiredText("dtype"));
  if (dtype == "F32") return WeightFormat::kF32;
  if (dtype == "F16") return WeightFormat::kF16;
  if (dtype == "BF16") return WeightFormat::kBf16;
  return entry.Unimplemented("dtype", absl::StrCat("is ", dtype, "; wanted F32, F16 or BF16"));
}

// An array of non-negative integers.
absl::StatusOr<std::vector<uint64_t>> ParseCounts(const JsonObject& entry, absl::string_view field,
                                                  size_t max_items) {
  const json* value = entry.Find(field);
  if (value == nullptr || !value->is_array() || value->size() > max_items ||
      !std::all_of(value->begin(), value->end(),
                   [](const json& item) { return item.is_number_unsigned(); })) {
    return entry.Bad(
        field, absl::StrCat("is not a list of at most ", max_items, " integers of 0 or more"));
  }
  return value->get<std::vector<uint64_t>>();
}

absl::StatusOr<FileTensor> ParseTensor(const MappedFile& file, const std::string& name,
                                       const json& value, std::span<const std::byte> data) {
  const JsonObject entry(absl::StrCat(file.path(), ": tensor ", name), value);
  if (!value.is_object()) return Bad(entry.where(), "wanted a JSON object");
  FileTensor tensor;
  tensor.name = name;
  tensor.file = file.path();
  ASSIGN_OR_RETURN(tensor.format, ParseDtype(entry));
  ASSIGN_OR_RETURN(const std::vector<uint64_t> shape, ParseCounts(entry, "shape", kMaxDimensions));
  uint64_t num_bytes = BlockOf(tensor.format).num_bytes;
  for (const uint64_t size : shape) {
    if (size == 0 || __builtin_mul_overflow(num_bytes, size, &num_bytes)) {
      return entry.Bad("shape", absl::StrCat("has a dimension of ", size,
                                             "; wanted at least 1, and a size that can exist"));
    }
    tensor.shape.push_back(size);
  }
  ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets, ParseCounts(entry, "data_offsets", 2));
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data.size()) {
    return entry.Bad("data_offsets",
                     absl::StrCat("is [", absl::StrJoin(offsets, ", "),
                                  "]; wanted [begin, end] within the file's ", data.size(),
                                  " bytes of data; the file is truncated or corrupt"));
  }
  if (offsets[1] - offsets[0] != num_bytes) {
    return entry.Bad("data_offsets", absl::StrCat("span ", offsets[1] - offsets[0],
                                                  " bytes, but dtype and shape take ", num_bytes));
  }
  tensor.bytes = data.subspan(offsets[0], num_bytes);
  return tensor;
}

// The format allows neither holes nor overlaps: what the tensors do not cover is a sign of damage.
absl::Status CheckCoverage(const MappedFile& file, const FileTensors& tensors,
                           std::span<const std::byte> data) {
  std::vector<std::span<const std::byte>> ranges;
  for (const auto& [name, tensor] : tensors) ranges.push_back(tensor.bytes);
  std::sort(ranges.begin(), ranges.end(),
            [](const auto& a, const auto& b) { return a.data() < b.data(); });
  const std::byte* end = data.data();
  for (const auto& range : ranges) {
    if (range.data() != end) {
      return Bad(file.path(), absl::StrCat("tensors overlap or leave a hole at data offset ",
                                           range.data() - data.data(), "; the file is corrupt"));
    }
    end = range.data() + range.size();
  }
  const size_t num_covered = end - data.data();
  if (num_covered == data.size()) return absl::OkStatus();
  return Bad(file.path(), absl::StrCat("has ", data.size(), " bytes of data, but its tensors take ",
                                       num_covered, "; the file is corrupt"));
}

absl::StatusOr<FileTensors> ParseFile(const MappedFile& file) {
  ASSIGN_OR_RETURN(const Sections sections, Split(file));
  std::set<std::string> names;
  std::string repeated;
  ASSIGN_OR_RETURN(const JsonFile header, ParseJson(absl::StrCat(file.path(), ": header"),
                                                    sections.header, [&](const std::string& name) {
                                                      if (!names.insert(name).second)
                                                        repeated = name;
                                                      return true;
                                                    }));
  if (!repeated.empty()) {
    return Bad(file.path(), absl::StrCat("tensor ", repeated, " is there twice"));
  }
  FileTensors tensors;
  for (const auto& [name, value] : header.content.items()) {
    if (name == "__metadata__") continue;
    ASSIGN_OR_RETURN(FileTensor tensor, ParseTensor(file, name, value, sections.data));
    tensors.emplace(name, std::move(tensor));
  }
  RETURN_IF_ERROR(CheckCoverage(file, tensors, sections.data));
  return tensors;
}

std::string SinglePath(const std::string& directory) {
  return absl::StrCat(directory, "/model.safetensors");
}

// What a directory's index says of its shards.
struct ShardIndex {
  std::string path;                             // for messages
  std::map<std::string, std::string> shard_of;  // by tensor
  std::set<std::string> shards;
};

absl::StatusOr<ShardIndex> ReadIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const JsonFile file, ReadJsonFile(path));
  ASSIGN_OR_RETURN(const std::optional<JsonObject> weight_map,
                   JsonObject(file).Object("weight_map"));
  if (!weight_map.has_value()) return Bad(path, "weight_map is missing; wanted an object");
  ShardIndex index = {.path = path, .shard_of = {}, .shards = {}};
  for (const auto& [tensor, shard] : weight_map->fields().items()) {
    // A plain file name: an index must not reach outside the model's directory.
    if (!shard.is_string() || shard.get_ref<const std::string&>().empty() ||
        shard.get_ref<const std::string&>().find('/') != std::string::npos) {
      return weight_map->Bad(tensor, "does not name a file of the directory");
    }
    index.shard_of.emplace(tensor, shard);
    index.shards.insert(shard);
  }
  return index;
}

// Nothing where one file has all weights.
absl::StatusOr<std::optional<ShardIndex>> FindIndex(const std::string& directory) {
  std::error_code ignored;
  if (std::filesystem::exists(SinglePath(directory), ignored)) return std::nullopt;
  absl::StatusOr<ShardIndex> index =
      ReadIndex(absl::StrCat(directory, "/model.safetensors.index.json"));
  if (absl::IsNotFound(index.status())) {
    return absl::NotFoundError(absl::StrCat(
        directory, " has no weights; wanted model.safetensors or model.safetensors.index.json"));
  }
  return index;
}

absl::StatusOr<SafetensorsFiles> ReadShards(const std::string& directory, const ShardIndex& index) {
  SafetensorsFiles all;
  for (const std::string& shard : index.shards) {
    ASSIGN_OR_RETURN(SafetensorsFiles one, ReadSafetensors(absl::StrCat(directory, "/", shard)));
    for (auto& [name, tensor] : one.tensors) {
      const auto place = index.shard_of.find(name);
      if (place == index.shard_of.end() || place->second != shard) {
        return Bad(index.path, absl::StrCat("weight_map does not give tensor ", name, " to ", shard,
                                            ", which has it"));
      }
      all.tensors.emplace(name, std::move(tensor));
    }
    all.files.push_back(std::move(one.files.front()));
  }
  for (const auto& [name, shard] : index.shard_of) {
    if (!all.tensors.contains(name)) {
      return Bad(index.path,
                 absl::StrCat("tensor ", name, " is not in ", shard, ", where weight_map puts it"));
    }
  }
  return all;
}

}  // namespace

absl::StatusOr<SafetensorsFiles> ReadSafetensors(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  SafetensorsFiles out;
  ASSIGN_OR_RETURN(out.tensors, ParseFile(file));
  out.files.push_back(std::move(file));
  return out;
}

absl::StatusOr<std::vector<std::string>> SafetensorsPaths(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::optional<ShardIndex> index, FindIndex(directory));
  if (!index.has_value()) return std::vector<std::string>{SinglePath(directory)};
  std::vector<std::string> paths;
  for (const std::string& shard : index->shards) {
    paths.push_back(absl::StrCat(directory, "/", shard));
  }
  return paths;
}

absl::StatusOr<SafetensorsFiles> ReadSafetensorsDirectory(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::optional<ShardIndex> index, FindIndex(directory));
  return index.has_value() ? ReadShards(directory, *index) : ReadSafetensors(SinglePath(directory));
}

}  // namespace kvship
