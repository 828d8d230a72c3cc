// Servers on a machine that has no disk left, and servers whose standard streams are closed or
// stuck.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "client/generation_client.h"
#include "tests/e2e/at_rest.h"
#include "tests/e2e/checked_requests.h"
#include "tests/e2e/fault_shell.h"
#include "tests/temp_folder.h"

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

// gRPC drops its port at the first connection that it has no descriptor for.
TEST(FaultResourcesTest, AServerThatLostItsPortToALackOfDescriptorsEndsToBeStartedAnew) {
  const TempFolder folder;
  const std::string log = folder.path() + "/log";
  ShellServer server("ulimit -n 80;", "kvship-prefill", kModel, {"--threads=1"}, "2>" + log);
  ASSERT_TRUE(server.WaitUntilReady());
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(server.port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::vector<int> sockets;
  for (int i = 0; i < 100; ++i) {
    sockets.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    connect(sockets.back(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  }
  EXPECT_EQ(server.Wait(), 1);
  for (const int each : sockets) close(each);
  EXPECT_THAT(ReadBytes(log), testing::HasSubstr("gRPC takes no connections any more"));
  server.Restart();
  EXPECT_TRUE(server.WaitUntilReady());
}

TEST(FaultResourcesTest, ServersTakeAllDescriptorsThatTheyMay) {
  ShellServer server("ulimit -Sn 80;", "kvship-prefill", kModel, {"--threads=1"});
  ASSERT_TRUE(server.WaitUntilReady());
  rlimit limit = {};
  ASSERT_EQ(prlimit(server.pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
  EXPECT_EQ(limit.rlim_cur, limit.rlim_max);
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
