#include "engine/added_tokens.h"

#include <cassert>

namespace kvship {

void AddedTokens::Add(absl::string_view name, int32_t token) {
  assert(!name.empty());
  begins_name_[static_cast<unsigned char>(name.front())] = true;
  int32_t node = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    Step& step = steps_[StepKey(node, name[i])];
    if (step.node < 0) step.node = num_nodes_++;
    node = step.node;
    if (i + 1 == name.size()) step.token = token;
  }
}

AddedTokens::Match AddedTokens::Find(absl::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_name_[static_cast<unsigned char>(text[begin])]) continue;
    Match match;
    int32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      const auto step = steps_.find(StepKey(node, text[i]));
      if (step == steps_.end()) break;
      node = step->second.node;
      if (step->second.token >= 0) match = {begin, i + 1 - begin, step->second.token};
    }
    if (match.token >= 0) return match;
  }
  return {};
}

}  // namespace kvship
