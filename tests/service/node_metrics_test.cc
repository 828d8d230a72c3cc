#include "service/node_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "rpc/tls.h"
#include "tests/eventually.h"
#include "tests/service/no_descriptor_left.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::AnyOf;
using ::testing::EndsWith;

std::map<std::string, double> Values(const NodeMetrics& metrics) {
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : metrics.Collect()) {
    values[family.name] = family.metric.at(0).gauge.value;
  }
  return values;
}

TEST(NodeMetrics, ReadyFollowsReadiness) {
  Readiness readiness;
  const NodeMetrics metrics("kvship-test", readiness, nullptr);
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 0);
  readiness.StartServing([] { return absl::OkStatus(); });
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 1);
  readiness.StartDraining();
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 0);
}

TEST(NodeMetrics, ANodeThatDrainsIsToldFromOneThatIsStuck) {
  Readiness readiness;
  const NodeMetrics metrics("kvship-test", readiness, nullptr);
  readiness.StartServing([] { return absl::UnavailableError("stuck"); });
  EXPECT_EQ(Values(metrics)["kvship_test_ready"], 0);
  EXPECT_EQ(Values(metrics).at("kvship_test_draining"), 0);
  readiness.StartDraining();
  EXPECT_EQ(Values(metrics)["kvship_test_draining"], 1);
}

TEST(NodeMetrics, WithoutTlsAndTokensNothingIsToldOfThem) {
  const Readiness readiness;
  for (const auto& [name, value] : Values(NodeMetrics("kvship-test", readiness, nullptr))) {
    EXPECT_THAT(name, AnyOf(EndsWith("_ready"), EndsWith("_draining")));
  }
}

class NodeMetricsFilesTest : public ::testing::Test {
 protected:
  // One folder for all tests: the process looks at its TLS files to its end.
  static void SetUpTestSuite() { folder_.emplace(); }
  static void TearDownTestSuite() { folder_.reset(); }

  // A new certificate at the first place, and its key at the second.
  static void Make(const std::string& certificate, const std::string& key, int days) {
    const std::string command = absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days ", days,
        " -subj /CN=test -out ", certificate, " -keyout ", key, " 2>/dev/null");
    ASSERT_EQ(std::system(command.c_str()), 0);
  }
  double Value(const std::string& name) const { return Values(metrics_)["kvship_test_" + name]; }
  bool Becomes(const std::string& name, double value) const {
    return Eventually([&] { return Value(name) == value; }, absl::Seconds(10));
  }

  static inline std::optional<TempFolder> folder_;
  const TlsFiles files_ = {.certificate = folder_->path() + "/cert.pem",
                           .key = folder_->path() + "/key.pem"};
  Readiness readiness_;
  NodeMetrics metrics_{"kvship-test", readiness_, nullptr};
};

TEST_F(NodeMetricsFilesTest, ACertificateWhoseKeyDoesNotFitIsNotTheOneInUse) {
  Make(files_.certificate, files_.key, 1);
  ASSERT_TRUE(ServerTls(files_).ok());
  const TlsContexts http = *ServerTlsContexts(files_);
  const std::shared_ptr<SSL_CTX> old = http();
  EXPECT_EQ(Value("tls_files_current"), 1);
  const double begin = Value("certificate_not_before_timestamp_seconds");
  const double end = Value("certificate_not_after_timestamp_seconds");
  EXPECT_EQ(end - begin, 24 * 3600);
  Make(files_.certificate, folder_->path() + "/its.key", 9);
  EXPECT_TRUE(Becomes("tls_files_current", 0));
  EXPECT_EQ(Value("certificate_not_after_timestamp_seconds"), end);
  EXPECT_EQ(http(), old);
  std::filesystem::rename(folder_->path() + "/its.key", files_.key);
  EXPECT_TRUE(Becomes("tls_files_current", 1));
  EXPECT_GT(Value("certificate_not_after_timestamp_seconds"), end);
  EXPECT_NE(http(), old);
}

TEST_F(NodeMetricsFilesTest, ACertificateThatNoDescriptorWasLeftForIsReadLater) {
  Make(files_.certificate, files_.key, 1);
  const TlsContexts http = *ServerTlsContexts(files_);
  const std::shared_ptr<SSL_CTX> old = http();
  Make(folder_->path() + "/next.pem", folder_->path() + "/next.key", 9);
  {
    const NoDescriptorLeft none;
    std::filesystem::rename(folder_->path() + "/next.key", files_.key);
    std::filesystem::rename(folder_->path() + "/next.pem", files_.certificate);
    EXPECT_TRUE(Becomes("tls_files_current", 0));
    EXPECT_EQ(http(), old);
  }
  EXPECT_TRUE(Becomes("tls_files_current", 1));
  EXPECT_NE(http(), old);
}

TEST_F(NodeMetricsFilesTest, TokensThatCannotBeReadAreSeen) {
  const std::string line = absl::StrCat("a:", std::string(64, '0'), "\n");
  const auto tokens = *ApiTokens::Load(folder_->Write("tokens", line));
  const NodeMetrics metrics("kvship-test", readiness_, tokens.get());
  EXPECT_EQ(Values(metrics).at("kvship_test_api_tokens_current"), 1);
  folder_->Write("tokens", "half a li");
  EXPECT_EQ(Values(metrics).at("kvship_test_api_tokens_current"), 0);
}

}  // namespace
}  // namespace kvship
