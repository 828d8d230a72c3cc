// AddedTokens finds the names of added tokens ("<|im_end|>" and the like), which a tokenizer cuts
// out of a text before it does anything else. After the last Add, any number of threads may use it.
#pragma once

#include <array>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace kvship {

class AddedTokens {
 public:
  struct Match {
    size_t begin = absl::string_view::npos;  // npos: none
    size_t num_bytes = 0;
    int32_t token = -1;
  };

  // Names must not be empty.
  void Add(absl::string_view name, int32_t token);

  // The first match at or after `from`; the longest of several at the same place.
  Match Find(absl::string_view text, size_t from) const;

 private:
  // A tree of names, byte by byte; node 0 is the root.
  struct Step {
    int32_t node = -1;
    int32_t token = -1;  // of the name that ends here; -1: none
  };
  static uint64_t StepKey(int32_t node, char byte) {
    return uint64_t{static_cast<uint32_t>(node)} << 8 | static_cast<unsigned char>(byte);
  }

  std::array<bool, 256> begins_name_ = {};
  absl::flat_hash_map<uint64_t, Step> steps_;
  int32_t num_nodes_ = 1;
};

}  // namespace kvship
