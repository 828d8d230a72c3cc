// CheckedLoad sends requests to decode servers from several clients at a time, over and over, and
// holds everything that comes back to what the same requests gave when nothing disturbed them.
// Prompts are short and long, kept whole and compressed, answers greedy and sampled, and a few
// deadlines are too short.
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

namespace kvship {

class CheckedLoad {
 public:
  struct Options {
    // "host:port" of each decode server; half of the clients prefer the first, half the next.
    std::vector<std::string> servers;
    size_t num_clients = 6;
    size_t retries = 0;  // of each client, as GenerationClient makes them
    uint64_t seed = 1;
    // Compression of the requests, each with short and long prompts, greedy and sampled.
    std::vector<std::string> compressions = {
        "scorer=keep_all,encoder=f16", "budget_tokens=48,window=16,kernel=7,encoder=f16",
        "budget_ratio=0.2,allocator=ada,window=8,kernel=5,encoder=bf16"};
  };

  // Asks for every answer once, undisturbed; failures are in Faults().
  explicit CheckedLoad(const Options& options);
  ~CheckedLoad() { Stop(); }

  // Sends requests until Stop, which waits for the answers of those under way.
  void Start();
  void Stop();

  // How many requests ended with each status code ("OK", "UNAVAILABLE", or "UNAVAILABLE in the
  // middle", after some output), deadlines that were too short left out.
  std::map<std::string, size_t> outcomes() const;
  // What must not be, each one described: a wrong token, an end after the deadline, or a status
  // that tells nobody what to do.
  std::vector<std::string> faults() const;

 private:
  struct Case {
    std::string name;
    v1::GenerateRequest request;
    std::vector<uint32_t> answer;
  };

  void MakeCases();
  void Ask(GenerationClient& client, const Case& wanted, absl::Duration timeout);
  void Run(size_t client);
  void AddFault(const std::string& fault);

  const Options options_;
  std::vector<Case> cases_;
  std::vector<std::unique_ptr<GenerationClient>> clients_;
  std::atomic<uint64_t> num_asked_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
  mutable std::mutex mutex_;
  std::map<std::string, size_t> outcomes_;
  std::vector<std::string> faults_;
};

}  // namespace kvship
