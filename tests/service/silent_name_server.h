// SilentNameServer stands for a name server that answers nothing: as long as it lives, look-ups of
// kName by this process wait, if for ten seconds at most. Then they fail, and it waits until their
// threads have ended.
#pragma once

namespace kvship {

class SilentNameServer {
 public:
  static constexpr char kName[] = "collector.invalid";

  SilentNameServer();
  ~SilentNameServer();
  SilentNameServer(const SilentNameServer&) = delete;
  SilentNameServer& operator=(const SilentNameServer&) = delete;

  // Threads that have looked the name up and live.
  int num_asking() const;
};

}  // namespace kvship
