#include "service/api_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "service/port_security.h"
#include "tests/service/no_descriptor_left.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

// Of "test".
constexpr char kDigest[] = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

TEST(ParseApiTokens, LinesAreClientsAndDigests) {
  const auto tokens = ParseApiTokens(
      absl::StrCat("# a comment\n\n  batch.jobs-1:", kDigest, "\r\nbatch.jobs-1:", kDigest));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_EQ(tokens->size(), 2u);
  EXPECT_EQ((*tokens)[0].client, "batch.jobs-1");
  EXPECT_EQ(HexString((*tokens)[0].digest), kDigest);
}

TEST(ParseApiTokens, AWrongLineIsNamedAndNotQuoted) {
  const std::string digest = kDigest;
  for (const std::string& line :
       {std::string("secret"), std::string("secret:abc"), ":" + digest, "se cret:" + digest,
        "secret:" + digest + "00", "secret:" + digest.substr(1) + "g",
        std::string(65, 'x') + ":" + digest}) {
    const absl::Status status = ParseApiTokens("# first\n" + line).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(status.message()), HasSubstr("line 2 is no token"));
    EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("secret")));
  }
}

TEST(ApiTokens, AMissingFileIsNamed) {
  const absl::Status status = ApiTokens::Load("/no/such/tokens").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/tokens"));
}

TEST(ApiTokens, AFileWithoutATokenIsRefused) {
  const TempFolder folder;
  const absl::Status status = ApiTokens::Load(folder.Write("tokens", "# nobody yet\n")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has no token"));
}

TEST(ApiTokens, AFileThatIsEmptiedChangesNothing) {
  const TempFolder folder;
  const std::string path = folder.Write("tokens", absl::StrCat("before:", kDigest, "\n"));
  const auto tokens = *ApiTokens::Load(path);
  EXPECT_TRUE(tokens->AreCurrent());
  for (const char* text : {"", "# nobody\n", "half a line"}) {
    folder.Write("tokens", text);
    EXPECT_FALSE(tokens->AreCurrent()) << text;
    EXPECT_EQ(tokens->ClientOf("test").value_or(""), "before") << text;
  }
  std::filesystem::remove(path);
  EXPECT_FALSE(tokens->AreCurrent());
  folder.Write("tokens", absl::StrCat("after:", kDigest, "\n"));
  EXPECT_TRUE(tokens->AreCurrent());
  EXPECT_EQ(tokens->ClientOf("test").value_or(""), "after");
}

TEST(ApiTokens, ADirectoryIsNoFileOfTokens) { EXPECT_FALSE(ApiTokens::Load("/").ok()); }

TEST(ApiTokens, WhatCouldNotBeReadForLackOfDescriptorsIsReadLater) {
  const TempFolder folder;
  const std::string before = absl::StrCat("before:", std::string(64, '0'), "\n");
  const auto tokens = *ApiTokens::Load(folder.Write("tokens", before));
  folder.Write("tokens", absl::StrCat("later:", kDigest, "\n"));
  {
    const NoDescriptorLeft none;
    EXPECT_FALSE(tokens->ClientOf("test").ok());
  }
  EXPECT_EQ(tokens->ClientOf("test").value_or(""), "later");
}

TEST(PortSecurity, LoopbackNeedsNothing) {
  for (const char* address : {"127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1"}) {
    EXPECT_TRUE(PortSecurity().CheckListen("listen", address, "--x", false).ok()) << address;
  }
  for (const char* address :
       {":1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "128.0.0.1:1", "host:1", "127.0.0.1.host:1"}) {
    EXPECT_EQ(PortSecurity().CheckListen("listen", address, "--x", false).code(),
              absl::StatusCode::kFailedPrecondition)
        << address;
  }
}

TEST(PortSecurity, OtherAddressesNeedTlsAndKnownCallersOrTheFlag) {
  const PortSecurity tls = {.tls = {.certificate = "c", .key = "k"}};
  EXPECT_TRUE(tls.CheckListen("listen", ":1", "--x", true).ok());
  EXPECT_THAT(std::string(tls.CheckListen("listen", ":1", "--x", false).message()),
              HasSubstr("wanted --x"));
  EXPECT_THAT(std::string(PortSecurity().CheckListen("listen", ":1", "--x", true).message()),
              HasSubstr("wanted --tls_cert"));
  EXPECT_TRUE(PortSecurity{.insecure = true}.CheckListen("listen", ":1", "--x", false).ok());
}

}  // namespace
}  // namespace kvship
