#include "service/metric_values.h"

#include <gtest/gtest.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include "service/status_json.h"

namespace kvship {
namespace {

TEST(MetricValues, AreOfCountersAndGaugesByNameAndLabel) {
  prometheus::Registry registry;
  auto& requests = prometheus::BuildCounter().Name("requests").Register(registry);
  requests.Add({{"code", "OK"}, {"port", "a"}}).Increment(2);
  requests.Add({{"code", "OK"}, {"port", "b"}}).Increment(3);
  requests.Add({{"code", "CANCELLED"}}).Increment();
  prometheus::BuildGauge().Name("sessions").Register(registry).Add({}).Set(7);
  auto& seconds = prometheus::BuildHistogram().Name("seconds").Register(registry);
  for (const char* port : {"a", "b"}) {
    seconds.Add({{"port", port}}, prometheus::Histogram::BucketBoundaries{1}).Observe(2);
  }
  const MetricValues values(registry);
  EXPECT_EQ(values.Sum("requests"), 6);
  EXPECT_EQ(values.Sum("sessions"), 7);
  EXPECT_EQ(values.Sum("unknown"), 0);
  EXPECT_EQ(values.Observations("seconds"), 2u);
  EXPECT_EQ(values.Observations("unknown"), 0u);
  EXPECT_EQ(values.By("requests", "code"),
            (std::map<std::string, double>{{"CANCELLED", 1}, {"OK", 5}}));
  EXPECT_EQ(RequestsByCode(values, "requests").dump(), R"({"CANCELLED":1,"OK":5})");
}

TEST(CompressionStatus, HasNoRatioBeforeAnythingWasShipped) {
  EXPECT_TRUE(CompressionStatus(0, 0)["ratio"].is_null());
  EXPECT_EQ(CompressionStatus(1000, 250)["ratio"], 4);
  EXPECT_EQ(CompressionStatus(1000, 250)["saved_bytes"], 750);
  // Positions can make a cache larger than what keeping all would have shipped.
  EXPECT_EQ(CompressionStatus(1000, 1010)["saved_bytes"], 0);
}

}  // namespace
}  // namespace kvship
