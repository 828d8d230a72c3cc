// CheckedLoad sends CheckedRequests to decode servers from several clients at a time, over and
// over. Prompts are short and long, a few deadlines are too short, and where the servers have one
// of their own, some requests have none.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "client/generation_client.h"
#include "tests/e2e/checked_requests.h"

namespace kvship {

// Whether a client reaches its server, for clients that try nothing twice: on a busy machine gRPC
// 1.51 now and then takes for a connection's failure what another call left in errno ("No such file
// or directory"; grpc/grpc#35064).
bool Connects(GenerationClient& client);

class CheckedLoad {
 public:
  struct Options {
    // "host:port" of each decode server; half of the clients prefer the first, half the next.
    std::vector<std::string> servers;
    size_t num_clients = 6;
    size_t retries = 0;  // of each client, as GenerationClient makes them
    std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr;  // as GenerationClient's
    uint64_t seed = 1;
    absl::Duration server_deadline = absl::InfiniteDuration();  // the servers' --default_deadline
    std::vector<std::string> compressions = CheckedRequests::Mix().compressions;
  };

  // Asks for every answer once, undisturbed; a failure is in faults().
  explicit CheckedLoad(const Options& options);
  ~CheckedLoad() { Stop(); }

  // Sends requests until Stop, which waits for the answers of those under way.
  void Start();
  void Stop();

  // As CheckedRequests'.
  std::map<std::string, size_t> outcomes() const { return requests_.outcomes(); }
  std::map<std::string, size_t> undated_outcomes() const { return requests_.undated_outcomes(); }
  // What must not be, each one described: a wrong token, an end after the deadline, or a status
  // that tells nobody what to do.
  std::vector<std::string> faults() const;

 private:
  void Run(size_t client);
  absl::Status Ask(size_t client, uint64_t random);
  void NoteFault(const absl::Status& end);

  const Options options_;
  CheckedRequests requests_;
  std::vector<std::unique_ptr<GenerationClient>> clients_;
  std::vector<std::unique_ptr<GenerationClient>> clients_without_retries_;
  std::atomic<uint64_t> num_asked_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
  mutable std::mutex mutex_;
  std::vector<std::string> faults_;
};

}  // namespace kvship
