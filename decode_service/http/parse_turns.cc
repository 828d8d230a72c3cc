#include "decode_service/http/parse_turns.h"

namespace kvship {

ParseTurns::Turn::Turn(ParseTurns& turns, size_t body_bytes)
    : turns_(turns), body_bytes_(body_bytes) {
  std::unique_lock lock(turns_.mutex_);
  turns_.ended_.wait(lock, [this] { return turns_.bytes_ + body_bytes_ <= turns_.most_bytes_; });
  turns_.bytes_ += body_bytes_;
}

ParseTurns::Turn::~Turn() {
  std::lock_guard lock(turns_.mutex_);
  turns_.bytes_ -= body_bytes_;
  turns_.ended_.notify_all();
}

}  // namespace kvship
