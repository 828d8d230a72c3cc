// Real kvship processes for tests: started on free ports, watched, and ended with the test.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/eventually.h"

namespace kvship {

// Sends a child of this process a signal; after SIGSTOP it stands still when this returns.
void SendSignal(int pid, int number);

// A running program; killed, if it still runs, by the destructor. Its output goes to a file.
class Process {
 public:
  // `program` is a name in the build's bin folder.
  Process(const std::string& program, const std::vector<std::string>& arguments);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Starts the program anew, with the same arguments, after it has ended.
  void Restart();

  void Signal(int number) const;
  int pid() const { return pid_; }
  // The exit code, or minus the signal's number; -1000 if it still runs after `timeout`.
  int Wait(absl::Duration timeout = absl::Seconds(30));
  // Standard output and standard error so far.
  std::string Output() const;
  std::string Errors() const;

 private:
  void Start();

  std::string path_;
  std::vector<std::string> arguments_;
  std::string out_path_;
  std::string err_path_;
  int pid_ = 0;
  bool ended_ = false;
  int exit_ = 0;
};

// One that nobody listens on and no other test that runs has got.
int FreePort();

// The body of http://127.0.0.1:port/path; empty unless the answer is 200.
std::string HttpGet(int port, const std::string& path);

// The value of a metric without labels in what /metrics gives; -1 if there is none.
double MetricIn(const std::string& metrics, const std::string& name);
// Of the program with that admin port.
double Metric(int admin_port, const std::string& name);

// A server program with its two ports, gRPC's and the admin port; no HTTP but where `flags` say so.
struct Server {
  Server(const std::string& program, const std::string& model,
         const std::vector<std::string>& flags = {});

  std::string address() const { return "127.0.0.1:" + std::to_string(port); }
  int pid() const { return process.pid(); }
  bool WaitUntilReady();
  double metric(const std::string& name) const { return Metric(admin_port, name); }
  // Of a decode server: prefill nodes that serve; -1 if it does not say.
  double num_serving_nodes() const {
    return metric("kvship_decode_prefill_nodes{standing=\"serving\"}");
  }

  int port = FreePort();
  int admin_port = FreePort();
  Process process;
};

}  // namespace kvship
