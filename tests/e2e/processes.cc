#include "tests/e2e/processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <httplib.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

extern char** environ;

namespace kvship {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

std::string TemporaryPath() {
  static std::atomic<int> count{0};
  return std::filesystem::temp_directory_path() /
         absl::StrCat("kvship_e2e_", getpid(), "_", count++);
}

// `flags` behind those that every server gets: of two the last one counts.
std::vector<std::string> WithPorts(const std::string& program, const std::string& model, int port,
                                   int admin_port, const std::vector<std::string>& flags) {
  std::vector<std::string> all = {absl::StrCat("--model=", model),
                                  absl::StrCat("--listen=127.0.0.1:", port),
                                  absl::StrCat("--admin=127.0.0.1:", admin_port)};
  if (program == "kvship-decode") all.push_back("--http=");  // tests/http has its tests
  all.insert(all.end(), flags.begin(), flags.end());
  return all;
}

// Whether this process is the first of those that run to ask for the port.
bool Claim(int port) {
  // Abstract: it goes with the process. demo/kvship_processes.py has the same.
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  const int length =
      absl::SNPrintF(name.sun_path + 1, sizeof(name.sun_path) - 1, "kvship_port_%d", port);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const size_t size = offsetof(sockaddr_un, sun_path) + 1 + length;
  if (bind(fd, reinterpret_cast<sockaddr*>(&name), size) == 0) return true;
  close(fd);
  return false;
}

}  // namespace

void SendSignal(int pid, int number) {
  kill(pid, number);
  // On a busy machine its threads run on until one of them has seen the signal.
  if (number == SIGSTOP) waitpid(pid, nullptr, WUNTRACED);
}

Process::Process(const std::string& program, const std::vector<std::string>& arguments)
    : path_(absl::StrCat(KVSHIP_BIN "/", program)),
      arguments_(arguments),
      out_path_(TemporaryPath()),
      err_path_(TemporaryPath()) {
  Start();
}

void Process::Start() {
  std::vector<char*> argv = {path_.data()};
  for (std::string& argument : arguments_) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const int flags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out_path_.c_str(), flags, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err_path_.c_str(), flags, 0600);
  ended_ = posix_spawn(&pid_, path_.c_str(), &actions, nullptr, argv.data(), environ) != 0;
  exit_ = -1000;
  posix_spawn_file_actions_destroy(&actions);
}

void Process::Restart() {
  Wait();
  Start();
}

Process::~Process() {
  if (!ended_) {
    Signal(SIGKILL);
    Wait();
  }
  std::filesystem::remove(out_path_);
  std::filesystem::remove(err_path_);
}

void Process::Signal(int number) const {
  if (!ended_) SendSignal(pid_, number);
}

int Process::Wait(absl::Duration timeout) {
  const auto has_ended = [this] {
    int status = 0;
    if (ended_) return true;
    if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
    ended_ = true;
    exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return true;
  };
  return Eventually(has_ended, timeout) ? exit_ : -1000;
}

std::string Process::Output() const { return ReadAll(out_path_); }
std::string Process::Errors() const { return ReadAll(err_path_); }

int FreePort() {
  // Below those that the system gives to whoever asks for any: it may give one of them away between
  // this look and the process that is to have it.
  constexpr int kFirst = 10000, kLast = 32767;
  static std::mt19937 random(std::random_device{}());
  for (;;) {
    const int port = std::uniform_int_distribution<int>(kFirst, kLast)(random);
    if (!Claim(port)) continue;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    const bool is_free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (is_free) return port;
  }
}

std::string HttpGet(int port, const std::string& path) {
  httplib::Client client("127.0.0.1", port);
  const httplib::Result result = client.Get(path.c_str());
  return result && result->status == 200 ? result->body : "";
}

double MetricIn(const std::string& metrics, const std::string& name) {
  for (absl::string_view line : absl::StrSplit(metrics, '\n')) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    double value = 0;
    if (parts.first == name && absl::SimpleAtod(parts.second, &value)) return value;
  }
  return -1;
}

double Metric(int admin_port, const std::string& name) {
  return MetricIn(HttpGet(admin_port, "/metrics"), name);
}

Server::Server(const std::string& program, const std::string& model,
               const std::vector<std::string>& flags)
    : process(program, WithPorts(program, model, port, admin_port, flags)) {}

bool Server::WaitUntilReady() {
  return Eventually([this] { return !HttpGet(admin_port, "/readyz").empty(); });
}

}  // namespace kvship
