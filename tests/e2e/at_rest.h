// AtRest remembers what a server process holds while nobody asks it for anything, and says later
// whether it has come back to that: its pools and queues to 0, its threads and descriptors to as
// many as there were.
#pragma once

#include <cstddef>
#include <string>

namespace kvship {

class AtRest {
 public:
  // When it has served before, so that it has all threads and connections that it needs. The admin
  // port is 127.0.0.1's, of this thread's network namespace.
  AtRest(int pid, int admin_port) : pid_(pid), admin_port_(admin_port), first_(Now()) {}
  template <class Server>
  explicit AtRest(const Server& server) : AtRest(server.pid(), server.admin_port) {}

  // What it holds too much of though it had time to give it back, in words; empty if nothing.
  std::string LeftOver() const;
  // "12 threads, 34 descriptors", at first and now.
  std::string Text() const;

 private:
  struct Use {
    size_t threads = 0;
    size_t descriptors = 0;
  };
  Use Now() const;

  int pid_;
  int admin_port_;
  Use first_;
};

}  // namespace kvship
