// FaultProxy stands between two processes and does to the bytes of their TCP connections what
// broken networks, and boxes in between, do: it cuts, delays, corrupts, loses, repeats or reorders
// some. One thread moves the bytes of all connections; the methods are thread safe.
#pragma once

#include <array>
#include <atomic>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace kvship {

class FaultProxy {
 public:
  enum class Kind { kCut, kTruncate, kDelay, kCorrupt, kLose, kRepeat, kSwap, kSwallow, kStall };
  static constexpr size_t kKinds = 9;
  static const char* NameOf(Kind kind);

  // Happens once, to the connection whose byte comes next after `after_bytes` of either direction.
  // kCut ends the connection as who pulls a cable; kTruncate passes on what came before, and then
  // closes it. kSwallow takes all bytes that follow in that direction, and keeps it open.
  struct Fault {
    Kind kind = Kind::kCut;
    size_t after_bytes = 0;
    bool from_target = true;                       // which direction's bytes count and suffer
    size_t num_bytes = 1;                          // lost, repeated, or put behind the next as many
    absl::Duration time = absl::Milliseconds(20);  // of a delay
  };

  // Passes everything on to 127.0.0.1:`target_port` until told otherwise.
  explicit FaultProxy(int target_port);
  ~FaultProxy();
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // Replaces a fault that has not happened yet.
  void Arm(const Fault& fault);
  bool armed() const;
  size_t count(Kind kind) const { return counts_[static_cast<size_t>(kind)]; }

  // While it is stalled no byte moves, of whatever connection; kStall begins it.
  void SetStalled(bool stalled) { stalled_ = stalled; }

 private:
  struct Way {
    std::string waiting;  // bytes that were read and not written yet
    absl::Time held_until = absl::InfinitePast();
    bool swallows = false;
    bool closes = false;  // once nothing waits
    bool has_ended = false;
  };
  // Ends and ways: 0 from the client, 1 from the target.
  struct Connection {
    std::array<int, 2> ends;
    std::array<Way, 2> ways;
    bool broken = false;
  };

  void Run();
  void Accept();
  void Read(Connection& connection, size_t from);
  void Write(Connection& connection, size_t from);
  void MeetFault(Connection& connection, size_t from, std::string& bytes);
  void Apply(const Fault& fault, size_t at, Connection& connection, size_t from,
             std::string& bytes);
  static void Close(Connection& connection);

  const int target_port_;
  int listener_ = -1;
  int port_ = 0;
  std::list<Connection> connections_;  // the thread's
  std::atomic<bool> stalled_{false};
  std::atomic<bool> stop_{false};
  std::array<std::atomic<size_t>, kKinds> counts_ = {};
  mutable std::mutex mutex_;
  std::optional<Fault> armed_;
  std::thread thread_;
};

}  // namespace kvship
