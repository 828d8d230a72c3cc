// ParseTurns bounds the bodies that are JSON trees at a time, for a tree takes up to 22 times the
// bytes of its body (of empty strings). Thread safe; must outlive its turns.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kvship {

class ParseTurns {
 public:
  // Of bodies with `most_bytes` together; none has more.
  explicit ParseTurns(size_t most_bytes) : most_bytes_(most_bytes) {}

  // A body's; the next ones begin when it is destroyed.
  using Turn = std::shared_ptr<void>;

  // Waits for the turn of a body. Turns come in the order of these calls, for else a large body
  // would wait for as long as small ones come. `has_gone` is asked now and then meanwhile, whether
  // somebody still waits. Errors: Cancelled if it says so, DeadlinePassed (`deadline` is
  // monotonic), or as EndAll was told.
  absl::StatusOr<Turn> Wait(size_t body_bytes, absl::Time deadline,
                            const std::function<bool()>& has_gone);

  // Ends all waits, and later ones, with `why`. Turns go on.
  void EndAll(const absl::Status& why);

 private:
  const size_t most_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t bytes_ = 0;           // of those that have their turn
  std::list<size_t> waiting_;  // bytes of those that wait, the next one first
  absl::Status why_ended_;     // set by EndAll
};

}  // namespace kvship
