// Streams, events and graphs of the emulated device. What is enqueued on a stream is done late:
// when the host waits for it, and not before, so that a host that forgets to wait reads what is not
// there yet. The default stream does everything at once. One OS thread.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <set>
#include <utility>
#include <vector>

namespace kvship::emulation {

using Work = std::function<void()>;

struct Graph {
  std::vector<Work> work;
};

class Stream {
 public:
  Stream() { All().insert(this); }
  ~Stream() {
    Finish();
    All().erase(this);
  }

  // Null is the default stream.
  static void Do(Stream* stream, Work work) {
    if (stream == nullptr) {
      FinishAll();
      work();
    } else if (stream->captured_ != nullptr) {
      stream->captured_->work.push_back(std::move(work));
    } else {
      stream->queue_.push_back(std::move(work));
    }
  }

  size_t num_enqueued() const { return num_done_ + queue_.size(); }
  void FinishUpTo(size_t num_enqueued) {
    while (num_done_ < num_enqueued) {
      const Work work = std::move(queue_.front());
      queue_.pop_front();
      ++num_done_;
      work();
    }
  }
  void Finish() { FinishUpTo(num_enqueued()); }
  static void FinishAll() {
    for (Stream* stream : All()) stream->Finish();
  }

  void BeginCapture() { captured_ = new Graph; }
  Graph* EndCapture() { return std::exchange(captured_, nullptr); }

 private:
  static std::set<Stream*>& All() {
    static std::set<Stream*> all;
    return all;
  }

  std::deque<Work> queue_;
  size_t num_done_ = 0;
  Graph* captured_ = nullptr;  // owned by whoever ends the capture
};

struct Event {
  Stream* stream = nullptr;
  size_t num_enqueued = 0;
};

}  // namespace kvship::emulation
