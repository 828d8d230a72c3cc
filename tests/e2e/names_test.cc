// A decode node that is given its prefill nodes by one host name, while addresses come and go.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_load.h"
#include "tests/e2e/fault_shell.h"
#include "tests/e2e/processes.h"
#include "tests/sanitized.h"
#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";
constexpr char kHost[] = "prefill.test";
const std::vector<std::string> kAddresses = {"127.0.0.2", "127.0.0.3"};

// Two prefill nodes with addresses of their own and one port, as a headless service has them.
class NamesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "sanitizers want to be loaded first";
    SetAddresses({kAddresses[0]});
    for (const std::string& address : kAddresses) {
      // The last --listen counts.
      prefill_.push_back(std::make_unique<Server>(
          "kvship-prefill", kModel,
          std::vector<std::string>{"--threads=1", absl::StrCat("--listen=", address, ":", port_)}));
      ASSERT_TRUE(prefill_.back()->WaitUntilReady()) << prefill_.back()->process.Errors();
    }
    decode_ = std::make_unique<ShellServer>(
        absl::StrCat("LD_PRELOAD=" KVSHIP_BIN "/libkvship_fault_names.so KVSHIP_ADDRESSES=",
                     addresses_path_, "; export LD_PRELOAD KVSHIP_ADDRESSES;"),
        "kvship-decode", kModel,
        std::vector<std::string>{"--threads=1", "--http=", "--insecure",
                                 absl::StrCat("--prefill=dns:///", kHost, ":", port_)});
    ASSERT_TRUE(decode_->WaitUntilReady());
  }

  // What the name stands for from now on.
  void SetAddresses(const std::vector<std::string>& addresses) const {
    const std::string next =
        folder_.Write("next", absl::StrCat(absl::StrJoin(addresses, "\n"), "\n"));
    std::filesystem::rename(next, addresses_path_);
  }
  // Prompts that a node has read.
  size_t NumRead(size_t node) const {
    return static_cast<size_t>(
        std::max(0.0, prefill_[node]->metric("kvship_prefill_requests_total{code=\"OK\"}")));
  }
  std::string Counts() const { return absl::StrCat(NumRead(0), " and ", NumRead(1)); }

  const TempFolder folder_;
  const std::string addresses_path_ = folder_.path() + "/" + kHost;
  const int port_ = FreePort();
  std::vector<std::unique_ptr<Server>> prefill_;
  std::unique_ptr<ShellServer> decode_;
};

TEST_F(NamesTest, ANewAddressGetsPromptsAndOneThatIsGoneGetsNone) {
  CheckedLoad load({.servers = {decode_->address()}, .retries = 0});
  load.Start();
  EXPECT_TRUE(Eventually([this] { return NumRead(0) >= 20; }));
  EXPECT_EQ(NumRead(1), 0u);
  std::cout << "with the first address: " << Counts() << " prompts" << std::endl;

  SetAddresses(kAddresses);
  EXPECT_TRUE(Eventually([this] { return NumRead(1) >= 20; }));
  std::cout << "with both: " << Counts() << std::endl;

  SetAddresses({kAddresses[1]});
  EXPECT_TRUE(Eventually([this] {
    return Metric(decode_->admin_port, "kvship_decode_prefill_nodes{standing=\"serving\"}") == 1 &&
           prefill_[0]->metric("kvship_prefill_active_requests") == 0;
  }));
  const size_t first_at_its_end = NumRead(0), second_then = NumRead(1);
  EXPECT_TRUE(Eventually([&] { return NumRead(1) >= second_then + 20; }));
  EXPECT_EQ(NumRead(0), first_at_its_end);
  load.Stop();
  std::cout << "with the second alone: " << Counts()
            << "; requests: " << absl::StrJoin(load.outcomes(), ", ", absl::PairFormatter(" "))
            << std::endl;
  EXPECT_THAT(load.faults(), IsEmpty());
  EXPECT_THAT(load.outcomes(), ElementsAre(Pair("OK", Gt(0))));
  EXPECT_EQ(AtRest(*decode_).LeftOver(), "");
}

}  // namespace
}  // namespace kvship
