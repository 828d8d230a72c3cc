#include "service/nccl_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::HasSubstr;

TEST(NcclServiceTest, NcclIsForGpusThatAskForIt) {
  EXPECT_EQ(*WantsNccl("grpc", /*has_gpu=*/true), false);
  EXPECT_EQ(*WantsNccl("grpc", /*has_gpu=*/false), false);
  EXPECT_EQ(*WantsNccl("nccl", /*has_gpu=*/true), true);
  EXPECT_THAT(WantsNccl("nccl", /*has_gpu=*/false).status().message(), HasSubstr("--device"));
  EXPECT_THAT(WantsNccl("rdma", /*has_gpu=*/true).status().message(),
              HasSubstr("--transport is 'rdma'; wanted grpc or nccl"));
}

// Prometheus knows an increase only of what it has seen before.
TEST(NcclServiceTest, MetricsAreThereBeforeAnythingHappens) {
  NcclMetrics metrics("kvship-decode");
  metrics.CountDamaged();
  size_t num_reasons = 0;
  double damaged = 0;
  for (const prometheus::MetricFamily& family : metrics.Collect()) {
    EXPECT_THAT(family.name, HasSubstr("kvship_decode_nccl_"));
    EXPECT_FALSE(family.metric.empty()) << family.name;
    if (family.name != "kvship_decode_nccl_fallbacks_total") continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      ++num_reasons;
      if (metric.label.at(0).value == "damaged") damaged = metric.counter.value;
    }
  }
  EXPECT_EQ(num_reasons, 5);
  EXPECT_EQ(damaged, 1);
}

}  // namespace
}  // namespace kvship
