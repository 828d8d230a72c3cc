// PrefillNodes are the prefill nodes a decode node may send prompts to. Each is asked for its model
// now and then; healthy is one that answers and runs the same model. Names of the form
// dns:///host:port stand for all addresses the host has, looked up again each time. Thread safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/sha256.h"
#include "transport/grpc_client.h"

namespace kvship {

// One prefill node. Thread safe.
class PrefillNode {
 public:
  PrefillNode(const std::string& address, const PrefillConnection::Options& options)
      : address_(address), connection_(address, options) {}

  const std::string& address() const { return address_; }
  PrefillConnection& connection() { return connection_; }

  // Prompt tokens that this decode node waits for from it.
  size_t outstanding_tokens() const { return outstanding_tokens_; }
  void AddOutstanding(size_t tokens) { outstanding_tokens_ += tokens; }
  void RemoveOutstanding(size_t tokens) { outstanding_tokens_ -= tokens; }

 private:
  const std::string address_;
  PrefillConnection connection_;
  std::atomic<size_t> outstanding_tokens_{0};
};

// FailedPrecondition naming the first target that is not on this machine.
absl::Status CheckTargetsInPlainText(const std::vector<std::string>& targets);

class PrefillNodes {
 public:
  struct Options {
    std::vector<std::string> targets;
    Sha256Digest model_identity = {};
    absl::Duration check_interval = absl::Seconds(2);
    // While no node is healthy, such as when all start together.
    absl::Duration check_interval_while_none = absl::Milliseconds(200);
    PrefillConnection::Options connection = {};
  };

  explicit PrefillNodes(Options options);
  ~PrefillNodes();

  // A node for a prompt: of two random healthy ones the one with fewer tokens outstanding. Nodes
  // whose addresses are in `tried` are left out. Errors: Unavailable if none is left, or
  // FailedPrecondition if all that answer run another model; both say what is wrong with each.
  absl::StatusOr<std::shared_ptr<PrefillNode>> Choose(const std::set<std::string>& tried);

  // Notes that a node was lost: it is healthy again when it next answers.
  void Lost(const PrefillNode& node, const absl::Status& why);

  size_t num_healthy() const;

 private:
  struct Entry {
    // shared: a request may still use a node that has left the list
    std::shared_ptr<PrefillNode> node;
    absl::Status health;
  };

  void CheckAgainAndAgain();
  void LookUp();
  void CheckAll();
  absl::Status Check(PrefillNode& node) const;

  const Options options_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;  // by address
  std::condition_variable stopping_;
  bool stop_ = false;
  std::thread checker_;
};

}  // namespace kvship
