#include "prefill_service/prefill_metrics.h"

#include <gtest/gtest.h>

namespace kvship {
namespace {

TEST(PrefillMetrics, AMassThatIsNoNumberDoesNotSpoilTheOthers) {
  prometheus::Registry registry;
  PrefillMetrics metrics(registry);
  for (double mass : {0.25, std::nan(""), 0.5}) metrics.ObserveRetainedMass({}, mass);
  for (const prometheus::MetricFamily& family : registry.Collect()) {
    if (family.name != "kvship_prefill_retained_mass_ratio") continue;
    ASSERT_EQ(family.metric.size(), 1u);
    EXPECT_EQ(family.metric[0].histogram.sample_count, 2u);
    EXPECT_EQ(family.metric[0].histogram.sample_sum, 0.75);
    return;
  }
  FAIL() << "no such metric";
}

}  // namespace
}  // namespace kvship
