// PrefillNodes is the set of prefill nodes that a decode node may send prompts to, and chooses
// among them. It polls each for model and load. Thread safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/sha256.h"
#include "decode_service/decode_metrics.h"
#include "decode_service/prefill_addresses.h"
#include "decode_service/prefill_node.h"
#include "decode_service/prefill_targets.h"
#include "decode_service/prefix_places.h"
#include "transport/grpc_client.h"

namespace kvship {

class PrefillNodes {
 public:
  struct Options {
    std::vector<std::string> targets;
    Sha256Digest model_identity = {};
    // Polling interval. A node that shuts down accepts prompts for longer than this.
    absl::Duration check_interval = absl::Milliseconds(500);
    // A node that takes longer to answer counts as silent.
    absl::Duration check_timeout = absl::Seconds(2);
    absl::Duration look_up_interval = absl::Seconds(2);
    PrefillConnection::Options connection = {};
    PrefillAddresses::LookUp look_up = AddressesOf;
  };

  // One prompt sent to one node.
  struct Visit {
    std::shared_ptr<PrefillNode> node;  // shared: it may have left the list
    size_t unread_tokens = 0;           // of the prompt, without what the node may have cached
    absl::Time begun;                   // monotonic
  };

  // Borrows the metrics.
  PrefillNodes(Options options, DecodeMetrics& metrics);
  ~PrefillNodes();

  // Chooses a node for a prompt among those of the best standing. The candidates are two random
  // nodes (if the prompt's beginning is unknown here, its hash picks the first, alike on all decode
  // nodes) and the prefix-caching node that was last given the longest known beginning. Chooses the
  // one with the fewest tokens to read, without those of the prompt that it may have cached, of
  // which the prompt's compression allows to reuse `most_reused` (kv/layer_needs.h). Excludes nodes
  // in `tried` and those of a standing below `worst`. Unavailable, naming each node's problem, if
  // none is left.
  absl::StatusOr<Visit> Choose(std::span<const int32_t> prompt, absl::string_view cache_salt,
                               const std::set<std::string>& tried,
                               PrefillNode::Standing worst = PrefillNode::Standing::kSilent,
                               size_t most_reused = SIZE_MAX);

  // Reports the outcome of a visit; call once for each that Choose returned.
  void Ended(const Visit& visit, const absl::Status& outcome);

  // Returns OK if new prompts have a chance: a compatible node that is not shutting down answered
  // its last check. Else Unavailable, naming each node's problem.
  absl::Status CheckAnyAnswers() const;

  // The current state of each node, ordered by address.
  std::vector<PrefillNodeState> Snapshot() const;

 private:
  struct Check;
  using Nodes = std::vector<std::shared_ptr<PrefillNode>>;

  // Replaces the set of nodes.
  void SetAddresses(const PrefillAddresses::ServerNames& names);
  void CheckAgainAndAgain();
  // Starts a check of every node that has none in progress.
  void StartChecks();
  // Cancels those that gRPC's deadline should have ended long ago.
  void EndOverdueChecks();
  void FinishAnswered(std::unique_lock<std::mutex>& lock);
  void NoteAnswer(const Check& check);
  // The problem of a node that did not answer in time.
  absl::Status NoAnswer(const Check& check) const;
  Nodes nodes() const;
  // A node for a prompt, and how much of the prompt it may have cached.
  struct Choice {
    std::shared_ptr<PrefillNode> node;  // shared: as in Visit
    size_t cached_tokens = 0;
  };
  // Chooses among `best`; needs choice_mutex_. `digests` are the prompt's; empty if no node caches
  // prefixes.
  Choice ChooseOf(const Nodes& best, std::span<const Sha256Digest> digests, size_t most_reused);
  absl::Status NoneCanServe(const Nodes& known, const std::set<std::string>& tried,
                            absl::Time now) const;
  void UpdateGauges();

  const Options options_;
  DecodeMetrics& metrics_;
  std::mutex choice_mutex_;  // serializes choices: each sees the ones before
  PrefixPlaces places_;      // guarded by choice_mutex_
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<PrefillNode>> nodes_;  // by address
  std::condition_variable wake_;
  bool stop_ = false;
  bool any_answered_ = false;
  absl::Time next_round_ = absl::InfinitePast();  // the next round of checks
  std::list<Check> checks_;                       // in progress; of the check thread
  std::thread check_thread_;
  const PrefillAddresses addresses_;  // destroyed first: it calls SetAddresses
};

}  // namespace kvship
