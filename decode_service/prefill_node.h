// PrefillNode is a decode node's view of one prefill node: its connection, its load and its health.
// Thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvship/v1/prefill.pb.h"
#include "transport/grpc_client.h"

namespace kvship {

class PrefillAttempt;

// The state of a prefill node, for display.
struct PrefillNodeState {
  std::string address;
  bool serving = false;      // it is sent prompts
  std::string health;        // "serving", or the problem
  uint64_t load_tokens = 0;  // tokens it has to read, by its last report and what we sent
  absl::Duration ejected_for = absl::ZeroDuration();  // time left; zero: not ejected
};

class PrefillNode {
 public:
  // A node's health, best first: prompts go to the nodes of the best standing.
  enum class Standing {
    kServing,   // its last check and its last prompt succeeded
    kDraining,  // said that it is shutting down
    kEjected,   // answers, but failed its last prompt: gets none for a while, then one
    kSilent,    // did not answer its last check, or was not checked yet
    kUnfit,     // said that it cannot serve; gets no prompts
  };
  static absl::string_view NameOf(Standing standing);

  PrefillNode(const std::string& address, const PrefillConnection::Options& options)
      : address_(address), connection_(address, options) {}

  const std::string& address() const { return address_; }
  PrefillConnection& connection() { return connection_; }

  // Records the result of a check. `own_tokens` is outstanding_tokens() when the check was sent. An
  // error with a reason (rpc/errors.h), or one that gRPC does not also return for a broken
  // connection, is the node's own refusal: kUnfit. Returns true on news: the problem, or that there
  // is none, has changed since this or NoteEnd last returned true.
  bool NoteCheck(const absl::Status& status, const v1::PrefillLoad& load, uint64_t own_tokens,
                 absl::Time now);

  // Records that a prompt is sent to the node, of which it has `unread_tokens` to read.
  void NoteBegin(size_t unread_tokens);
  // Records the outcome of a prompt that was sent at `begun`. Returns true if that ejects the node:
  // for up to 1 s after its first failure since a success, doubled for each further one up to 30 s,
  // less a random part. Prompts in flight when the node was ejected do not count again, and
  // failures at an unfit node do not count.
  bool NoteEnd(size_t unread_tokens, absl::Time begun, const absl::Status& outcome, absl::Time now);

  // An attempt is in progress at the node from Enter to Leave.
  void Enter(const std::shared_ptr<PrefillAttempt>& attempt);
  void Leave(const std::shared_ptr<PrefillAttempt>& attempt);
  // Ends all attempts in progress with `why`. Asynchronous.
  void EndAttempts(const absl::Status& why);

  Standing standing(absl::Time now) const;
  // Tokens that the node has to read: of our outstanding prompts, as they were sent, plus those of
  // others by its last report.
  uint64_t load_tokens() const;
  // Those of our own outstanding prompts.
  uint64_t outstanding_tokens() const;
  // Whether the node has a prefix cache, by its last report.
  bool keeps_prefixes() const;
  // The node's problem: OK if it is serving, FailedPrecondition if it runs another model.
  absl::Status health(absl::Time now) const;
  PrefillNodeState state(absl::Time now) const;

 private:
  Standing StandingLocked(absl::Time now) const;
  absl::Status HealthLocked(absl::Time now) const;

  const std::string address_;
  PrefillConnection connection_;

  mutable std::mutex mutex_;
  absl::Status check_ = absl::UnavailableError("it has not answered yet");
  // The last news; none at first and after an ejection. Excludes the message, which may contain
  // times.
  std::optional<std::tuple<Standing, absl::StatusCode, std::string>> told_;
  bool draining_ = false;
  bool keeps_prefixes_ = false;
  uint64_t others_tokens_ = 0;
  uint64_t outstanding_tokens_ = 0;
  size_t outstanding_prompts_ = 0;
  std::set<std::weak_ptr<PrefillAttempt>, std::owner_less<>> attempts_;
  size_t failures_ = 0;  // in a row
  absl::Status last_failure_;
  absl::Time ejected_at_ = absl::InfinitePast();
  absl::Time ejected_until_ = absl::InfinitePast();
};

}  // namespace kvship
