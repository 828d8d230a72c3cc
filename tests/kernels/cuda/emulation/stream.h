// Streams, events and graphs of the emulated device. What is enqueued on a stream is done late:
// when the host waits for it, and not before, so that a host that forgets to wait reads what is not
// there yet. The default stream does everything at once, after the streams that are in order with
// it. One OS thread, beside which others are thought to use the default stream whenever that hurts.
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
  // Those in order with the default stream, or beside it (cudaStreamNonBlocking).
  explicit Stream(bool in_order) : in_order_(in_order) { All().insert(this); }
  ~Stream() {
    Finish();
    All().erase(this);
  }

  // Null is the default stream.
  static void Do(Stream* stream, Work work) {
    if (stream == nullptr) {
      FinishDefault();
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
    FinishDefault();
  }
  // What waits for the default stream waits for these.
  static void FinishDefault() {
    for (Stream* stream : All()) {
      if (stream->in_order_) stream->Finish();
    }
    for (const Work& work : std::exchange(Late(), {})) work();
  }
  // What nobody can see: on the default stream it waits until something else there is done.
  static void DoLate(Stream* stream, Work work) {
    stream == nullptr ? Late().push_back(std::move(work)) : Do(stream, std::move(work));
  }

  bool in_order() const { return in_order_; }
  bool is_capturing() const { return captured_ != nullptr; }
  void BeginCapture() { captured_ = new Graph; }
  Graph* EndCapture() { return std::exchange(captured_, nullptr); }

 private:
  static std::set<Stream*>& All() {
    static std::set<Stream*> all;
    return all;
  }
  static std::vector<Work>& Late() {
    static std::vector<Work> late;
    return late;
  }

  const bool in_order_;
  std::deque<Work> queue_;
  size_t num_done_ = 0;
  Graph* captured_ = nullptr;  // owned by whoever ends the capture
};

struct Event {
  Stream* stream = nullptr;
  size_t num_enqueued = 0;
};

}  // namespace kvship::emulation
