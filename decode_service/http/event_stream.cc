#include "decode_service/http/event_stream.h"

#include <utility>

#include "base/clock.h"

namespace kvship {
namespace {

using Next = ResponseBuffer::Next;

constexpr absl::Duration kWaitForErrors = absl::Seconds(1);
// Proxies give up on a silent connection after 30 seconds and more. Not oftener: clients that take
// no comments exist, and wait for a first token that comes sooner without meeting one.
constexpr absl::Duration kKeepAlive = absl::Seconds(15);
constexpr absl::Duration kProgress = absl::Seconds(1);

}  // namespace

EventStream::EventStream(std::unique_ptr<HttpGeneration> generation, OpenAiResponse response,
                         bool progress)
    : generation_(std::move(generation)),
      response_(std::move(response)),
      comment_interval_(progress ? kProgress : kKeepAlive),
      last_write_(MonotonicNow()) {}

absl::Status EventStream::Begin() {
  const absl::Time until = MonotonicNow() + kWaitForErrors;
  v1::GenerateResponse message;
  absl::Status end;
  while (true) {
    switch (generation_->Take(until, &message, &end)) {
      case Next::kNothing: return absl::OkStatus();
      case Next::kEnd: return end;
      case Next::kMessage: break;
    }
    if (message.has_progress()) progress_ = message.progress();
    if (progress_.phase() != v1::GenerateProgress::PHASE_PREFILL && message.has_progress())
      continue;
    first_ = std::move(message);
    return absl::OkStatus();
  }
}

std::string EventStream::Event(const v1::GenerateResponse& message) {
  if (message.has_output()) return response_.Event(message.output());
  if (message.has_report()) return response_.LastEvents(message.report());
  progress_ = message.progress();
  const bool due = MonotonicNow() - last_write_ >= comment_interval_;
  return due ? CommentEvent(progress_) : "";
}

bool EventStream::WriteNext(httplib::DataSink& sink) {
  v1::GenerateResponse message;
  absl::Status end;
  Next next = Next::kMessage;
  if (first_) {
    message = *std::exchange(first_, std::nullopt);
  } else {
    next = generation_->Take(last_write_ + comment_interval_, &message, &end);
  }
  std::string event;
  switch (next) {
    case Next::kNothing: event = CommentEvent(progress_); break;
    case Next::kMessage: event = Event(message); break;
    case Next::kEnd:
      if (!end.ok()) event = ErrorEvent(end);
      break;
  }
  bool written = true;
  if (!event.empty()) {
    written = sink.write(event.data(), event.size());
    last_write_ = MonotonicNow();
  }
  if (written && next == Next::kEnd) sink.done();
  return written;
}

}  // namespace kvship
