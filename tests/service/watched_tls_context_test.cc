#include "service/watched_tls_context.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/service/no_descriptor_left.h"

namespace kvship {
namespace {

class WatchedTlsContextTest : public ::testing::Test {
 protected:
  WatchedTlsContextTest() {
    std::string name = ::testing::TempDir() + "kvship_tls_XXXXXX";
    folder_ = mkdtemp(name.data());
    files_ = {.certificate = folder_ + "/cert.pem", .key = folder_ + "/key.pem"};
  }
  ~WatchedTlsContextTest() override { std::filesystem::remove_all(folder_); }

  // Puts a new certificate and its key in their places.
  void Renew() const {
    const std::string command = absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 ",
        "-subj /CN=test -out ", files_.certificate, " -keyout ", files_.key, " 2>/dev/null");
    ASSERT_EQ(std::system(command.c_str()), 0);
  }

  std::string folder_;
  TlsFiles files_;
};

TEST_F(WatchedTlsContextTest, WhatCouldNotBeReadForLackOfDescriptorsIsReadLater) {
  Renew();
  const auto watched = *WatchedTlsContext::Load(files_);
  const std::shared_ptr<SSL_CTX> old = watched->Get();
  Renew();
  {
    const NoDescriptorLeft none;
    EXPECT_EQ(watched->Get(), old);
  }
  EXPECT_NE(watched->Get(), old);
}

}  // namespace
}  // namespace kvship
