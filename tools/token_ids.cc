#include "tools/token_ids.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace kvship {

absl::StatusOr<std::vector<int32_t>> TokenIds(absl::string_view field, const nlohmann::json& ids) {
  if (!ids.is_array() || ids.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " is not a JSON list of at least one token id"));
  }
  std::vector<int32_t> tokens;
  for (const nlohmann::json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, " holds ", id.dump(), "; wanted token ids"));
    }
    tokens.push_back(id.get<int32_t>());
  }
  return tokens;
}

}  // namespace kvship
