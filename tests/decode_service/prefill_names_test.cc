// Names of prefill nodes whose name server does not answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <set>
#include <string>

#include "base/clock.h"
#include "decode_service/prefill_nodes.h"
#include "tests/eventually.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;

std::set<std::string> KnownAddresses(const PrefillNodes& nodes) {
  std::set<std::string> addresses;
  for (const PrefillNodeState& state : nodes.Snapshot()) addresses.insert(state.address);
  return addresses;
}

TEST(PrefillNames, ASilentNameServerHoldsUpNeitherOtherNodesNorTheEnd) {
  std::promise<void> end_of_silence;
  PrefillNodes::Options options;
  options.targets = {"dns:///silent:1", "dns:///other:1", "127.0.0.1:2"};
  options.look_up = [silence = end_of_silence.get_future().share()](const std::string& target) {
    if (target == "dns:///other:1") return std::set<std::string>{"127.0.0.1:1"};
    if (!IsName(target)) return std::set<std::string>{target};
    silence.wait();
    return std::set<std::string>();
  };
  prometheus::Registry registry;
  DecodeMetrics metrics(registry);
  auto nodes = std::make_unique<PrefillNodes>(options, metrics);
  EXPECT_TRUE(Eventually([&] { return KnownAddresses(*nodes).size() == 2; }, absl::Seconds(10)));
  EXPECT_THAT(KnownAddresses(*nodes), ElementsAre("127.0.0.1:1", "127.0.0.1:2"));
  const absl::Time before_end = MonotonicNow();
  nodes.reset();
  EXPECT_LT(MonotonicNow() - before_end, absl::Seconds(10));
}

}  // namespace
}  // namespace kvship
