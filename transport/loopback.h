// LoopbackNetwork connects channels inside one process and injects faults into their frames, for
// tests of code that uses channels. The same seed and the same sends give the same faults. Thread
// safe; one thread of its own delivers all events of all channels, in the order they were sent.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "transport/channel.h"

namespace kvship {

class LoopbackNetwork {
 public:
  // Probabilities are per frame; messages always arrive, in order.
  struct Faults {
    uint64_t seed = 0;
    double drop = 0;       // the frame never arrives
    double corrupt = 0;    // one bit of its payload is flipped
    double truncate = 0;   // its payload is cut short
    double duplicate = 0;  // it arrives twice
    double reorder = 0;    // it arrives after the next event
    double delay = 0;      // it and everything behind it arrive `delay_time` late
    absl::Duration delay_time = absl::Milliseconds(1);
    // Closes both ends with Unavailable instead of delivering this frame; SIZE_MAX: never.
    size_t cut_before_frame = SIZE_MAX;
  };

  // Faults injected so far, by kind.
  struct FaultCounts {
    size_t dropped = 0;
    size_t corrupted = 0;
    size_t truncated = 0;
    size_t duplicated = 0;
    size_t reordered = 0;
    size_t cut = 0;

    size_t total() const { return dropped + corrupted + truncated + duplicated + reordered + cut; }
  };

  using Accept =
      std::function<std::shared_ptr<FrameChannelEvents>(const std::shared_ptr<FrameChannel>&)>;

  explicit LoopbackNetwork(const Faults& faults);
  // Closes open channels with Unavailable. Channels may outlive the network, closed.
  ~LoopbackNetwork();

  // Connects two new channels and returns the client's. `accept` is called with the server's and
  // returns its events. Events are kept until OnClosed has returned.
  std::shared_ptr<Channel> Open(std::shared_ptr<ChannelEvents> client, const Accept& accept);

  FaultCounts fault_counts() const;

  // While paused, delivers nothing; what is sent counts as unsent.
  void Pause(bool paused);

 private:
  class End;
  struct Delivery {
    std::shared_ptr<End> to;
    bool is_fault_exempt = false;  // its faults were injected; it no longer counts as unsent
    bool is_frame = false;
    std::string message;
    FrameHeader header;
    SharedBytes payload;
    bool closes = false;
    absl::Status status;
  };

  void Deliver();
  void Post(Delivery delivery);
  // Injects faults. Returns whether to deliver the frame now; may change it or queue others.
  bool MeetFaults(Delivery& frame);
  void CutLocked(const std::shared_ptr<End>& end);

  const Faults faults_;
  const std::shared_ptr<std::mutex> mutex_ = std::make_shared<std::mutex>();
  std::condition_variable wake_;
  std::deque<Delivery> queue_;
  std::vector<std::shared_ptr<End>> open_;  // shared: with whoever sends
  size_t num_frames_ = 0;
  FaultCounts fault_counts_;
  bool paused_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace kvship
