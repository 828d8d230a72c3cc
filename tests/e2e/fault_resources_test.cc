// Servers on a machine that has no disk left, and servers without standard streams.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "client/generation_client.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/fault_shell.h"

namespace kvship {
namespace {

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

TEST(FaultResourcesTest, AFullDiskStopsTheLogAndNothingElse) {
  // What servers write is their log.
  const std::string full = ">/dev/full 2>&1";
  ShellServer prefill("", "kvship-prefill", kModel, {"--threads=1"}, full);
  ShellServer decode("", "kvship-decode", kModel,
                     {"--threads=1", "--http=", absl::StrCat("--prefill=", prefill.address())},
                     full);
  ASSERT_TRUE(prefill.WaitUntilReady());
  ASSERT_TRUE(decode.WaitUntilReady());
  GenerationClient client(decode.address());
  CheckedRequests requests;
  EXPECT_EQ(requests.Learn(client), absl::OkStatus());
  const AtRest rests[] = {AtRest(prefill), AtRest(decode)};
  for (size_t i = 0; i < requests.num_requests(); ++i) {
    EXPECT_EQ(requests.Send(client, i, absl::Minutes(1)), absl::OkStatus());
  }
  for (const AtRest& rest : rests) EXPECT_EQ(rest.LeftOver(), "");
  for (ShellServer* server : {&decode, &prefill}) {
    server->Signal(SIGTERM);
    EXPECT_EQ(server->Wait(), 0);
  }
}

// Else the log would go to the client whose connection got the number of standard error.
TEST(FaultResourcesTest, ClosedStandardStreamsAreNoClientsConnection) {
  const std::string closed = "<&- >&- 2>&-";
  ShellServer prefill("", "kvship-prefill", kModel, {"--threads=1"}, closed);
  ShellServer decode("", "kvship-decode", kModel,
                     {"--threads=1", "--http=", absl::StrCat("--prefill=", prefill.address())},
                     closed);
  ASSERT_TRUE(prefill.WaitUntilReady());
  ASSERT_TRUE(decode.WaitUntilReady());
  for (const ShellServer* server : {&prefill, &decode}) {
    for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
      const std::string link = absl::StrCat("/proc/", server->pid(), "/fd/", stream);
      EXPECT_EQ(std::filesystem::read_symlink(link), "/dev/null") << link;
    }
  }
}

}  // namespace
}  // namespace kvship
