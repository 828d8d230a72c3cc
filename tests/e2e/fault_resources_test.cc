// Servers on a machine that has no disk left, and servers whose standard streams are closed or
// stuck.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "client/generation_client.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/fault_shell.h"
#include "tests/engine/model_files.h"

namespace kvship {
namespace {

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

// One server of each pool, whose standard streams go where the shell is told.
struct RedirectedPair {
  explicit RedirectedPair(const std::string& redirection)
      : prefill("", "kvship-prefill", kModel, {"--threads=1"}, redirection),
        decode("", "kvship-decode", kModel,
               {"--threads=1", "--http=", absl::StrCat("--prefill=", prefill.address())},
               redirection) {}
  bool WaitUntilReady() { return prefill.WaitUntilReady() && decode.WaitUntilReady(); }

  ShellServer prefill;
  ShellServer decode;
};

TEST(FaultResourcesTest, AFullDiskStopsTheLogAndNothingElse) {
  // What servers write is their log.
  RedirectedPair pair(">/dev/full 2>&1");
  auto& [prefill, decode] = pair;
  ASSERT_TRUE(pair.WaitUntilReady());
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
  RedirectedPair pair("<&- >&- 2>&-");
  ASSERT_TRUE(pair.WaitUntilReady());
  for (const ShellServer* server : {&pair.prefill, &pair.decode}) {
    for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
      const std::string link = absl::StrCat("/proc/", server->pid(), "/fd/", stream);
      EXPECT_EQ(std::filesystem::read_symlink(link), "/dev/null") << link;
    }
  }
}

bool BlocksSigterm(int pid) {
  const std::string status = ReadBytes(absl::StrCat("/proc/", pid, "/status"));
  const size_t mask = status.find("SigBlk:\t");
  if (mask == std::string::npos) return false;
  return std::stoull(status.substr(mask + 8, 16), nullptr, 16) >> (SIGTERM - 1) & 1;
}

TEST(FaultResourcesTest, ALogThatNobodyReadsHoldsUpNoStop) {
  const TempFolder folder;
  const std::string path = folder.path() + "/log";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const int pipe = open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  while (write(pipe, "x", 1) == 1) {
  }
  for (const char* program : {"kvship-prefill", "kvship-decode"}) {
    ShellServer server("", program, kModel, {"--threads=1"}, "2>" + path);
    EXPECT_TRUE(Eventually([&] { return BlocksSigterm(server.pid()); }));
    server.Signal(SIGTERM);
    EXPECT_EQ(server.Wait(absl::Seconds(10)), 0) << program;
  }
  close(pipe);
}

TEST(FaultResourcesTest, ALogThatNobodyReadsHoldsUpNoRequest) {
  const TempFolder folder;
  const std::string path = folder.path() + "/log";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const int pipe = open(path.c_str(), O_RDWR | O_CLOEXEC);
  RedirectedPair pair("2>" + path);
  ASSERT_TRUE(pair.WaitUntilReady());
  GenerationClient client(pair.decode.address());
  CheckedRequests requests;
  EXPECT_EQ(requests.Learn(client), absl::OkStatus());
  // A request is a line of some 400 bytes on both nodes, and the pipe holds 64 KiB.
  for (size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(requests.Send(client, i % requests.num_requests(), absl::Minutes(1)),
              absl::OkStatus());
  }
  close(pipe);
}

}  // namespace
}  // namespace kvship
