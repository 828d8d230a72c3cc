#include "service/node_metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

// Signs itself; good from 2026-11-26 07:58:54 to 2027-02-24 07:58:54 UTC.
constexpr char kCertificate[] = R"(-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUH1us4egvDo2QenLdIapno7puSsIwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAeFw0yNjExMjYwNzU4NTRaFw0yNzAyMjQwNzU4NTRa
MA8xDTALBgNVBAMMBHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQBqGkv
9U0Coc3LlvCHPGcvZCfQTlWA8CaLIloOY76Hxy2qrQAWLUzXgXE5fyY0Hi/xgP2U
rbWQ1tU2i+c+yttYo1MwUTAdBgNVHQ4EFgQUfQ4K3rQA4EfmogU3R0orCibSf34w
HwYDVR0jBBgwFoAUfQ4K3rQA4EfmogU3R0orCibSf34wDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiEAms/HOqaKN0wZiLr3BaEz3fDTy8ux+9tlNleH
quhGSCQCID3Ds0cs4CE8CAK2T4+dxMm1sY8AKsMcFYDns2iR7VBT
-----END CERTIFICATE-----
)";
constexpr double kBegin = 1795679934, kEnd = 1803455934;

std::map<std::string, double> Values(const NodeMetrics& metrics) {
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : metrics.Collect()) {
    values[family.name] = family.metric.at(0).gauge.value;
  }
  return values;
}

TEST(NodeMetrics, ReadyFollowsReadiness) {
  Readiness readiness;
  const NodeMetrics metrics("kvship-test", readiness, "");
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 0);
  readiness.StartServing([] { return absl::OkStatus(); });
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 1);
  readiness.StartDraining();
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 0);
}

TEST(NodeMetrics, ANodeThatDrainsIsToldFromOneThatIsStuck) {
  Readiness readiness;
  const NodeMetrics metrics("kvship-test", readiness, "");
  readiness.StartServing([] { return absl::UnavailableError("stuck"); });
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 0);
  EXPECT_EQ(Values(metrics).at("kvship_test_draining"), 0);
  readiness.StartDraining();
  EXPECT_EQ(Values(metrics)["kvship_test_draining"], 1);
}

TEST(NodeMetrics, WithoutACertificateNothingIsToldOfOne) {
  const Readiness readiness;
  for (const auto& [name, value] : Values(NodeMetrics("kvship-test", readiness, ""))) {
    EXPECT_EQ(name.find("certificate"), std::string::npos) << name;
  }
}

TEST(NodeMetrics, ACertificateThatCannotBeReadIsSeen) {
  const Readiness readiness;
  const auto values = Values(NodeMetrics("kvship-test", readiness, "/no/such/file.pem"));
  EXPECT_EQ(values.at("kvship_test_certificate_readable"), 0);
  EXPECT_EQ(values.count("kvship_test_certificate_not_after_timestamp_seconds"), 0u);
}

TEST(NodeMetrics, TheCertificateIsReadAnewEachTime) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / absl::StrCat("kvship_certificate_", getpid());
  const Readiness readiness;
  const NodeMetrics metrics("kvship-test", readiness, path);
  std::ofstream(path) << kCertificate;
  EXPECT_EQ(Values(metrics)["kvship_test_certificate_not_before_timestamp_seconds"], kBegin);
  EXPECT_EQ(Values(metrics)["kvship_test_certificate_not_after_timestamp_seconds"], kEnd);
  EXPECT_EQ(Values(metrics)["kvship_test_certificate_readable"], 1);
  std::filesystem::remove(path);
  EXPECT_EQ(Values(metrics)["kvship_test_certificate_readable"], 0);
}

}  // namespace
}  // namespace kvship
