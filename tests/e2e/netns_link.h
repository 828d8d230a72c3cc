// NetnsLink is two network namespaces and the only link between them, whose packets pass through
// the test: it delays them, loses some, or cuts the link. The link is a pair of TUN devices, so
// that it needs nothing of the kernel but those. Thread safe.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kvship {

class NetnsLink {
 public:
  // FailedPrecondition, saying what is not permitted, where namespaces or devices cannot be made.
  static absl::StatusOr<std::unique_ptr<NetnsLink>> Create();
  ~NetnsLink();

  // The address of an end (0 or 1), reachable from both.
  static std::string AddressOf(size_t end);
  // Runs `work` inside the end's namespace, on a thread of its own, and waits for it. Processes
  // that it starts stay in there.
  void In(size_t end, const std::function<void()>& work) const;

  void SetCut(bool cut) { cut_ = cut; }
  // The share of packets that is lost, and how late the others come, each way.
  void SetLoss(double share) { loss_ = share; }
  void SetDelay(absl::Duration delay) { delay_ms_ = absl::ToInt64Milliseconds(delay); }
  size_t num_lost_packets() const { return num_lost_packets_; }

 private:
  struct Packet {
    absl::Time due;
    std::string bytes;
  };
  // One namespace, its device, and the packets that are on their way out of it.
  struct End {
    int netns = -1;
    int device = -1;
    std::deque<Packet> packets;
  };

  NetnsLink() = default;
  absl::Status MakeEnd(size_t end);
  void Run();
  void Read(size_t from);
  void Write(size_t from);

  std::array<End, 2> ends_;
  std::atomic<bool> cut_{false};
  std::atomic<double> loss_{0};
  std::atomic<int64_t> delay_ms_{0};
  std::atomic<size_t> num_lost_packets_{0};
  std::atomic<bool> stop_{false};
  uint64_t num_draws_ = 0;  // the thread's
  std::thread thread_;
};

}  // namespace kvship
