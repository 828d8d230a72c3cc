// Prefill nodes as a decode node knows them, over fakes that a test makes.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "decode_service/prefill_nodes.h"
#include "tests/decode_service/fake_node.h"
#include "tests/eventually.h"

namespace kvship {

inline const std::vector<int32_t> kPrompt(10, 1);
inline constexpr absl::Duration kCheckInterval = absl::Milliseconds(20);

class PrefillNodesTest : public ::testing::Test {
 protected:
  void Start(const std::vector<std::string>& targets,
             absl::Duration check_interval = kCheckInterval) {
    PrefillNodes::Options options;
    options.targets = targets;
    options.model_identity.fill(std::byte{1});
    options.check_interval = check_interval;
    options.look_up_interval = kCheckInterval;
    options.look_up = [this](const std::string& target) {
      std::lock_guard lock(mutex_);
      return names_.contains(target) ? names_[target] : std::set<std::string>{target};
    };
    nodes_ = std::make_unique<PrefillNodes>(options, metrics_);
  }
  void SetName(const std::string& name, const std::set<std::string>& addresses) {
    std::lock_guard lock(mutex_);
    names_[name] = addresses;
  }

  bool HasServing(size_t count) {
    return Eventually([&] {
      size_t serving = 0;
      for (const auto& state : nodes_->Snapshot()) serving += state.serving;
      return serving == count;
    });
  }

  // Where a prompt of 10 tokens goes; it ends at once, well.
  std::string Chosen(const std::set<std::string>& tried = {},
                     PrefillNode::Standing worst = PrefillNode::Standing::kSilent) {
    const auto visit = nodes_->Choose(kPrompt, "", tried, worst);
    if (!visit.ok()) return visit.status().ToString();
    nodes_->Ended(*visit, absl::OkStatus());
    return visit->node->address();
  }
  // How often the first is chosen of `rounds`.
  int TimesChosen(const FakeNode& node, int rounds) {
    int times = 0;
    for (int i = 0; i < rounds; ++i) times += Chosen() == node.address();
    return times;
  }
  PrefillNodeState StateOf(const FakeNode& node) {
    for (const auto& state : nodes_->Snapshot()) {
      if (state.address == node.address()) return state;
    }
    return {};
  }

  prometheus::Registry registry_;
  DecodeMetrics metrics_{registry_};
  std::mutex mutex_;
  std::map<std::string, std::set<std::string>> names_;
  std::unique_ptr<PrefillNodes> nodes_;
};

}  // namespace kvship
