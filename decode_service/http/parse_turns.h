// ParseTurns bounds the bodies that are JSON trees at a time, for a tree takes up to 22 times the
// bytes of its body (of empty strings). Thread safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>

namespace kvship {

class ParseTurns {
 public:
  // Of bodies with `most_bytes` together; none has more.
  explicit ParseTurns(size_t most_bytes) : most_bytes_(most_bytes) {}

  // One body's, while it lives.
  class Turn {
   public:
    // Waits for it.
    Turn(ParseTurns& turns, size_t body_bytes);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    ParseTurns& turns_;
    const size_t body_bytes_;
  };

 private:
  const size_t most_bytes_;
  std::mutex mutex_;
  std::condition_variable ended_;
  size_t bytes_ = 0;  // of those that have their turn
};

}  // namespace kvship
