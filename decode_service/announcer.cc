#include "decode_service/announcer.h"

#include <pthread.h>

#include <utility>

#include "base/start_thread.h"

namespace kvship {

Announcer::Announcer() : thread_(StartThread("announcing outputs", [this] { Run(); })) {}

Announcer::~Announcer() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Announcer::Add(std::shared_ptr<ResponseBuffer> responses) {
  if (!responses->WantsAnnouncement()) return;
  {
    std::lock_guard lock(mutex_);
    due_.push_back(std::move(responses));
    if (due_.size() > 1) return;  // it has been woken
  }
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
    for (const auto& responses : due) responses->Announce();
    due.clear();
    lock.lock();
  }
}

}  // namespace kvship
