// PrefillNode is one prefill node as a decode node sees it: the connection, what it has to do, and
// how well it has done of late. Thread safe.
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

// What is known of a prefill node, for people to read.
struct PrefillNodeState {
  std::string address;
  bool serving = false;      // prompts are sent to it
  std::string health;        // "serving", or what is wrong with it
  uint64_t load_tokens = 0;  // prompt tokens that it has to read, by its last word and what we sent
  absl::Duration ejected_for = absl::ZeroDuration();  // from now on; zero: it is not ejected
};

class PrefillNode {
 public:
  // How much speaks for a node, the best first: prompts go to those with the best standing.
  enum class Standing {
    kServing,   // answered its last check, and its last prompt
    kDraining,  // answered that it shuts down
    kEjected,   // answered, but failed its last prompt; for some time it gets none, then one
    kSilent,    // did not answer its last check, or was not asked yet
    kUnfit,     // answered that it cannot serve; gets no prompt
  };
  static absl::string_view NameOf(Standing standing);

  PrefillNode(const std::string& address, const PrefillConnection::Options& options)
      : address_(address), connection_(address, options) {}

  const std::string& address() const { return address_; }
  PrefillConnection& connection() { return connection_; }

  // Notes what a check came to. `own_tokens` is what outstanding_tokens() was when it was asked.
  // An error that has a reason (rpc/errors.h), or that gRPC does not make of a broken connection,
  // is the node's own word, and it does not fit. True if that is news: what is wrong with the node,
  // or that nothing is, has changed since this or NoteEnd last returned true.
  bool NoteCheck(const absl::Status& status, const v1::PrefillLoad& load, uint64_t own_tokens,
                 absl::Time now);

  // A prompt is sent to it.
  void NoteBegin(size_t prompt_tokens);
  // The prompt that was sent at `begun` has come to `outcome`. True if that ejects the node: the
  // first failure after a success for up to 1 s, each further one in a row for twice as long, up to
  // 30 s, and all less a random part. Prompts that were on their way when it was ejected are one
  // failure together, and what fails at a node that does not fit is none.
  bool NoteEnd(size_t prompt_tokens, absl::Time begun, const absl::Status& outcome, absl::Time now);

  // An attempt is under way there, from Enter to Leave.
  void Enter(const std::shared_ptr<PrefillAttempt>& attempt);
  void Leave(const std::shared_ptr<PrefillAttempt>& attempt);
  // Ends those with `why`, soon.
  void EndAttempts(const absl::Status& why);

  Standing standing(absl::Time now) const;
  // Prompt tokens that we wait for, and of others by the node's last word.
  uint64_t load_tokens() const;
  // Those that we wait for.
  uint64_t outstanding_tokens() const;
  // Whether it keeps beginnings of prompts, by its last word.
  bool keeps_prefixes() const;
  // What is wrong with it: OK if it is serving, FailedPrecondition if it runs another model.
  absl::Status health(absl::Time now) const;
  PrefillNodeState state(absl::Time now) const;

 private:
  Standing StandingLocked(absl::Time now) const;
  absl::Status HealthLocked(absl::Time now) const;

  const std::string address_;
  PrefillConnection connection_;

  mutable std::mutex mutex_;
  absl::Status check_ = absl::UnavailableError("it has not answered yet");
  // What the last news was; none at first, and after an ejection. Not the message, in which time
  // may be told.
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
