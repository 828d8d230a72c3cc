#include "decode_service/announcer.h"

#include <pthread.h>

#include "absl/status/status.h"
#include "base/out_of_memory.h"
#include "base/start_thread.h"

namespace kvship {
namespace {

// Without memory to tell it, the request ends.
void Tell(ResponseBuffer& responses) {
  const absl::Status told = UnlessOutOfMemory([&responses] {
    responses.Announce();
    return absl::OkStatus();
  });
  if (!told.ok()) responses.Cancel(told);
}

}  // namespace

Announcer::Announcer() : thread_(StartThread("announcing outputs", [this] { Run(); })) {}

Announcer::~Announcer() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Announcer::Add(const std::shared_ptr<ResponseBuffer>& responses) {
  if (!responses->WantsAnnouncement()) return;
  const absl::Status memory = UnlessOutOfMemory([this, &responses] {
    std::lock_guard lock(mutex_);
    due_.push_back(responses);
    return absl::OkStatus();
  });
  if (!memory.ok()) return Tell(*responses);
  wake_.notify_one();
}

void Announcer::Run() {
  pthread_setname_np(pthread_self(), "announcer");
  std::vector<std::shared_ptr<ResponseBuffer>> due;
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !due_.empty(); });
    if (due_.empty()) return;
    due.swap(due_);
    lock.unlock();
    for (const auto& responses : due) Tell(*responses);
    due.clear();
    lock.lock();
  }
}

}  // namespace kvship
