// PrefillNodes are the prefill nodes a decode node may send prompts to. Each is asked again and
// again for its model and its load. Names of the form dns:///host:port stand for all addresses the
// host has, looked up again and again too. Thread safe.
#pragma once

#include <condition_variable>
#include <functional>
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
    // How old a node's word may be, about. A node that shuts down takes prompts for longer.
    absl::Duration check_interval = absl::Milliseconds(500);
    // A node that takes longer to answer counts as silent.
    absl::Duration check_timeout = absl::Seconds(2);
    absl::Duration look_up_interval = absl::Seconds(2);
    PrefillConnection::Options connection = {};
    // The addresses that a target stands for; none: not known now.
    std::function<std::set<std::string>(const std::string& target)> look_up = AddressesOf;
  };

  // A prompt at a node.
  struct Visit {
    std::shared_ptr<PrefillNode> node;  // shared: it may have left the list
    size_t prompt_tokens = 0;
    absl::Time begun;  // monotonic
  };

  // Borrows the metrics.
  PrefillNodes(Options options, DecodeMetrics& metrics);
  ~PrefillNodes();

  // A node for a prompt, of the best standing that there is: of two random ones, the first
  // of which all decode nodes draw alike for a beginning that they do not know, and the one that
  // was last given its longest beginning and keeps such, the one that has the least to read, the
  // prompt counted without what it may have of it. Nodes whose addresses are in `tried`, and those
  // of a standing below `worst`, are left out. Unavailable, saying what is wrong with each, if none
  // is left.
  absl::StatusOr<Visit> Choose(std::span<const int32_t> prompt, const std::set<std::string>& tried,
                               PrefillNode::Standing worst = PrefillNode::Standing::kSilent);

  // What the visit came to; once for each that Choose gave.
  void Ended(const Visit& visit, const absl::Status& outcome);

  // Whether prompts that come now have a chance: OK if a node that fits and does not shut down
  // answered its last check, Unavailable, saying what is wrong with each, if none did.
  absl::Status CheckAnyAnswers() const;

  // What is known of each node now, by address.
  std::vector<PrefillNodeState> Snapshot() const;

 private:
  struct Check;
  struct Names;
  using Nodes = std::vector<std::shared_ptr<PrefillNode>>;

  // One of the names; until the nodes are gone.
  static void LookUpAgainAndAgain(Names& names, const std::string& target, const Options& options);
  // `names` of the servers by address: from now on these are the nodes.
  void SetAddresses(const std::map<std::string, std::string>& names);
  void CheckAgainAndAgain();
  // Asks all nodes that are not being asked.
  void StartChecks();
  void FinishAnswered(std::unique_lock<std::mutex>& lock);
  void NoteAnswer(const Check& check);
  // What is wrong with a node that gave none in time.
  absl::Status NoAnswer(const Check& check) const;
  Nodes nodes() const;
  // Of those of the best standing, with choice_mutex_; `digests` of the prompt, or none where no
  // node keeps prefixes.
  std::shared_ptr<PrefillNode> ChooseOf(const Nodes& best, std::span<const Sha256Digest> digests);
  absl::Status NoneCanServe(const Nodes& known, const std::set<std::string>& tried,
                            absl::Time now) const;
  void UpdateGauges();

  const Options options_;
  DecodeMetrics& metrics_;
  std::mutex choice_mutex_;  // of prompts that come at once each sees where the others went
  PrefixPlaces places_;      // guarded by it
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<PrefillNode>> nodes_;  // by address
  std::condition_variable wake_;
  bool stop_ = false;
  bool any_answered_ = false;
  absl::Time next_round_ = absl::InfinitePast();  // of checks
  std::list<Check> checks_;                       // under way; of the check thread
  const std::shared_ptr<Names> names_;            // shared with the threads that look up
  std::thread check_thread_;
};

}  // namespace kvship
