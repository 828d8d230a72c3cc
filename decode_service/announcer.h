// Announcer tells readers of new output on a thread of its own: their writes to the network would
// hold up the next decode step, for longer than a step of a small batch takes. Thread safe.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "decode_service/response_buffer.h"

namespace kvship {

class Announcer {
 public:
  Announcer();
  // Announces what has been added.
  ~Announcer();

  // The reader of `responses` is told soon, once for all that comes meanwhile.
  void Add(const std::shared_ptr<ResponseBuffer>& responses);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::shared_ptr<ResponseBuffer>> due_;  // each once, as WantsAnnouncement says
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace kvship
