// Events of either end of a stream, recorded for a test to look at.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "transport/channel.h"

namespace kvship {

class RecordedEvents : public StagedFrameEvents, public FrameChannelEvents {
 public:
  struct Frame {
    FrameHeader header;
    std::string payload;
  };
  // Called with each message, on the transport's thread.
  explicit RecordedEvents(std::function<void(const std::string&)> on_message = nullptr)
      : on_message_(std::move(on_message)) {}

  void OnMessage(std::span<const std::byte> message) override {
    const std::string text(reinterpret_cast<const char*>(message.data()), message.size());
    if (on_message_) on_message_(text);
    Change([&] { messages_.push_back(text); });
  }
  void OnFrame(const FrameHeader& header, BytePieces pieces) override {
    Frame frame{header, ""};
    for (auto piece : pieces) {
      frame.payload.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    Change([&] { frames_.push_back(std::move(frame)); });
  }
  void OnStagedFrame(const FrameHeader& header, const FrameStaging::Block& payload) override {
    const auto bytes = payload.Download(header.num_bytes).value();
    Change([&] {
      frames_.push_back({header, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
    });
  }
  void OnSent() override {
    Change([&] { ++num_sent_; });
  }
  void OnClosed(const absl::Status& status) override {
    Change([&] { closed_.push_back(status); });
  }

  // The status of OnClosed, once it has come.
  absl::Status WaitUntilClosed() {
    return Wait([&] { return !closed_.empty(); }) ? closed_.front()
                                                  : absl::InternalError("the channel did not end");
  }
  bool WaitForMessages(size_t n) {
    return Wait([&] { return messages_.size() >= n; });
  }
  bool WaitForFrames(size_t n) {
    return Wait([&] { return frames_.size() >= n; });
  }

  std::vector<std::string> messages() { return Copy(messages_); }
  std::vector<Frame> frames() { return Copy(frames_); }
  std::vector<absl::Status> closed() { return Copy(closed_); }
  size_t num_sent() { return Copy(num_sent_); }

 private:
  template <class Act>
  void Change(const Act& act) {
    std::lock_guard lock(mutex_);
    act();
    changed_.notify_all();
  }
  template <class T>
  T Copy(const T& value) {
    std::lock_guard lock(mutex_);
    return value;
  }
  template <class Condition>
  bool Wait(const Condition& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), condition);
  }

  const std::function<void(const std::string&)> on_message_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> messages_;
  std::vector<Frame> frames_;
  std::vector<absl::Status> closed_;
  size_t num_sent_ = 0;
};

}  // namespace kvship
