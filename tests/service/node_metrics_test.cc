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

TEST(NodeMetrics, WithoutACertificateNothingIsToldOfOne) {
  const Readiness readiness;
  EXPECT_EQ(Values(NodeMetrics("kvship-test", readiness, "")).size(), 1u);
  EXPECT_EQ(Values(NodeMetrics("kvship-test", readiness, "/no/such/file.pem")).size(), 1u);
}

TEST(NodeMetrics, TheCertificateIsReadAnewEachTime) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / absl::StrCat("kvship_certificate_", getpid());
  const Readiness readiness;
  const NodeMetrics metrics("kvship-test", readiness, path);
  std::ofstream(path) << kCertificate;
  EXPECT_EQ(Values(metrics)["kvship_test_certificate_not_before_timestamp_seconds"], kBegin);
  EXPECT_EQ(Values(metrics)["kvship_test_certificate_not_after_timestamp_seconds"], kEnd);
  std::filesystem::remove(path);
  EXPECT_EQ(Values(metrics).size(), 1u);
}

}  // namespace
}  // namespace kvship
