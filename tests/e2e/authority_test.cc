// A whole certificate authority replaced under load, step by step and with no process restarted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/generation_client.h"
#include "rpc/compression.h"
#include "tests/e2e/certificates.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/fault_proxy.h"
#include "tests/e2e/processes.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr char kPrefillNames[] = "DNS:prefill.test,IP:127.0.0.1";
constexpr char kDecodeNames[] = "DNS:decode.test,IP:127.0.0.1";
constexpr char kClientNames[] = "DNS:client.test";
// Files are looked at about once a second.
constexpr absl::Duration kUntilNoticed = absl::Seconds(3);

// Two prefill nodes, each behind a proxy that can cut its connections, and a decode node.
class AuthorityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Trust({&old_});
    prefill_files_ = IssueByOld(kPrefillNames);
    decode_files_ = IssueByOld(kDecodeNames);
    client_files_ = IssueByOld(kClientNames);
    std::vector<std::string> targets;
    for (int i = 0; i < 2; ++i) {
      prefill_.push_back(std::make_unique<Server>(
          "kvship-prefill", kModel, WithTls(prefill_files_, {"--allowed_peers=decode.test"})));
      proxies_.push_back(std::make_unique<FaultProxy>(prefill_.back()->port));
      targets.push_back("dns:///" + proxies_.back()->address());
    }
    decode_ = std::make_unique<Server>(
        "kvship-decode", kModel,
        WithTls(decode_files_, {"--allowed_peers=client.test", "--prefill_tls_ca=" + bundle_,
                                "--prefill=" + absl::StrJoin(targets, ",")}));
    for (const auto& node : prefill_) ASSERT_TRUE(node->WaitUntilReady()) << node->process.Errors();
    ASSERT_TRUE(decode_->WaitUntilReady()) << decode_->process.Errors();
  }

  static std::vector<std::string> WithTls(const TlsFiles& files,
                                          const std::vector<std::string>& more) {
    std::vector<std::string> flags = {"--threads=1", "--tls_cert=" + files.certificate,
                                      "--tls_key=" + files.key, "--tls_client_ca=" + files.ca};
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }

  // All processes and clients trust the bundle.
  TlsFiles IssueByOld(const std::string& names) {
    TlsFiles files = old_.Issue(names);
    files.ca = bundle_;
    return files;
  }
  void Trust(const std::vector<const Authority*>& authorities) const {
    std::string certificates;
    for (const Authority* authority : authorities) {
      certificates += ReadBytes(authority->certificate());
    }
    std::filesystem::rename(folder_.Write("next.pem", certificates), bundle_);
  }

  // One call over a connection of its own.
  absl::Status AskAnew(const TlsFiles& files) const {
    v1::GenerateRequest request;
    request.mutable_tokens()->mutable_ids()->Resize(20, 1);
    *request.mutable_compression() = *CompressionFromText("scorer=keep_all");
    request.set_max_tokens(5);
    GenerationClient client(decode_->address(), {.retries = 0, .credentials = *ChannelTls(files)});
    return client.Generate(request, absl::Seconds(30), [](const v1::GenerateResponse&) {}).status();
  }

  // Cuts the connection to each prefill node, one after the other, when it has moved a byte, and
  // waits until the node serves again over a new one.
  void RenewConnections() {
    for (size_t i = 0; i < proxies_.size(); ++i) {
      const size_t num_cuts = proxies_[i]->count(FaultProxy::Kind::kCut);
      proxies_[i]->Arm({.kind = FaultProxy::Kind::kCut});
      EXPECT_TRUE(
          Eventually([&] { return proxies_[i]->count(FaultProxy::Kind::kCut) > num_cuts; }));
      const double num_read = NumRead(i);
      EXPECT_TRUE(Eventually([&] { return NumRead(i) > num_read + 5; }, absl::Minutes(1)))
          << decode_->process.Errors();
    }
  }
  double NumRead(size_t node) const {
    return prefill_[node]->metric("kvship_prefill_requests_total{code=\"OK\"}");
  }

  const TempFolder folder_;
  const std::string bundle_ = folder_.path() + "/bundle.pem";
  Authority old_;
  Authority new_;
  TlsFiles prefill_files_, decode_files_, client_files_;
  std::vector<std::unique_ptr<Server>> prefill_;
  std::vector<std::unique_ptr<FaultProxy>> proxies_;
  std::unique_ptr<Server> decode_;
};

TEST_F(AuthorityTest, ANewOneTakesThePlaceOfTheOldUnderLoadAndNoRequestFails) {
  const TlsFiles left_behind = IssueByOld(kClientNames);
  CheckedLoad load(
      {.servers = {decode_->address()}, .retries = 0, .credentials = *ChannelTls(client_files_)});
  load.Start();
  // Both are trusted before anybody has a certificate of the new one, and until nobody has one of
  // the old.
  Trust({&old_, &new_});
  absl::SleepFor(kUntilNoticed);
  RenewConnections();
  Replace(prefill_files_, new_.Issue(kPrefillNames));
  Replace(decode_files_, new_.Issue(kDecodeNames));
  Replace(client_files_, new_.Issue(kClientNames));
  absl::SleepFor(kUntilNoticed);
  RenewConnections();
  EXPECT_EQ(AskAnew(client_files_), absl::OkStatus());
  EXPECT_EQ(AskAnew(left_behind), absl::OkStatus());
  Trust({&new_});
  absl::SleepFor(kUntilNoticed);
  RenewConnections();
  EXPECT_EQ(AskAnew(client_files_), absl::OkStatus());
  EXPECT_EQ(AskAnew(left_behind).code(), absl::StatusCode::kUnavailable);
  load.Stop();
  std::cout << proxies_[0]->count(FaultProxy::Kind::kCut) +
                   proxies_[1]->count(FaultProxy::Kind::kCut)
            << " connections renewed, requests: "
            << absl::StrJoin(load.outcomes(), ", ", absl::PairFormatter(" ")) << std::endl;
  EXPECT_THAT(load.faults(), IsEmpty());
  EXPECT_THAT(load.outcomes(), ElementsAre(Pair("OK", Gt(0))));
}

}  // namespace
}  // namespace kvship
