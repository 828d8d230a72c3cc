#include "tests/e2e/pools.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvship {
Pools::Pools(const std::vector<std::string>& decode_flags) {
  std::vector<std::string> prefill_addresses;
  for (size_t i = 0; i < kNodes; ++i) {
    std::vector<std::string> flags = {"--threads=1"};
    // One keeps beginnings of prompts, four blocks of the tiny model's: fewer than tests send.
    if (i == 1) flags.push_back("--prefix_cache_bytes=524288");
    prefill_.push_back(std::make_unique<Server>("kvship-prefill", model_.path(), flags));
    prefill_addresses.push_back(prefill_[i]->address());
  }
  std::vector<std::string> flags = decode_flags;
  flags.push_back("--threads=1");
  flags.push_back(absl::StrCat("--prefill=", absl::StrJoin(prefill_addresses, ",")));
  for (size_t i = 0; i < kNodes; ++i) {
    decode_.push_back(std::make_unique<Server>("kvship-decode", model_.path(), flags));
  }
}

std::vector<const Server*> Pools::nodes() const {
  std::vector<const Server*> all;
  for (const auto& node : prefill_) all.push_back(node.get());
  for (const auto& node : decode_) all.push_back(node.get());
  return all;
}

std::vector<std::string> Pools::decode_addresses() const {
  std::vector<std::string> addresses;
  for (const auto& node : decode_) addresses.push_back(node->address());
  return addresses;
}

bool Pools::WaitUntilReady() {
  bool ready = true;
  for (const auto& node : prefill_) ready &= node->WaitUntilReady();
  for (const auto& node : decode_) {
    ready &= node->WaitUntilReady() &&
             Eventually([&node] { return node->num_serving_nodes() == kNodes; });
  }
  return ready;
}

}  // namespace kvship
