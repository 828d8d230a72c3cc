#include "tests/e2e/pools.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvship {
namespace {

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

const char* const kHeld[] = {
    "kvship_decode_pool_reserved_bytes",   "kvship_decode_sessions",
    "kvship_decode_waiting_prompt_tokens", "kvship_prefill_queue_requests",
    "kvship_prefill_queue_tokens",         "kvship_prefill_active_requests",
    "kvship_prefill_outbox_bytes",
};

}  // namespace

Pools::Pools(const std::vector<std::string>& decode_flags) {
  std::vector<std::string> prefill_addresses;
  for (size_t i = 0; i < kNodes; ++i) {
    prefill_.push_back(std::make_unique<Server>("kvship-prefill", kModel,
                                                std::vector<std::string>{"--threads=1"}));
    prefill_addresses.push_back(prefill_[i]->address());
  }
  std::vector<std::string> flags = decode_flags;
  flags.push_back("--threads=1");
  flags.push_back(absl::StrCat("--prefill=", absl::StrJoin(prefill_addresses, ",")));
  for (size_t i = 0; i < kNodes; ++i) {
    decode_.push_back(std::make_unique<Server>("kvship-decode", kModel, flags));
  }
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
    ready &= node->WaitUntilReady() && Eventually([&node] {
               return node->metric("kvship_decode_prefill_nodes{standing=\"serving\"}") == kNodes;
             });
  }
  return ready;
}

std::string Pools::LeftOver(const Server& node) const {
  const auto look = [&node] {
    std::string found;
    for (const char* name : kHeld) {
      const double value = node.metric(name);  // -1: another program's
      if (value > 0) absl::StrAppend(&found, name, " is ", value, "; ");
    }
    return found;
  };
  Eventually([&look] { return look().empty(); }, absl::Seconds(5));
  return look();
}

}  // namespace kvship
