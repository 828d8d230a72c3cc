// A channel that takes all that is sent, and keeps how it was closed.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "transport/channel.h"

namespace kvship {

class ClosedChannel final : public FrameChannel {
 public:
  void SendMessage(std::string) override {}
  void SendFrame(const FrameHeader&, SharedBytes) override {}
  size_t unsent_bytes() const override { return 0; }
  void Close(absl::Status status) override {
    std::lock_guard lock(mutex_);
    closed_ = std::move(status);
    changed_.notify_all();
  }
  bool is_closed() const {
    std::lock_guard lock(mutex_);
    return closed_.has_value();
  }
  absl::Status WaitUntilClosed() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closed_.has_value(); });
    return *closed_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<absl::Status> closed_;
};

}  // namespace kvship
