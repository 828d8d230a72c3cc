#include "decode_service/http/event_stream.h"

#include <utility>

#include "base/clock.h"

namespace kvship {
namespace {

using Next = ResponseBuffer::Next;

constexpr absl::Duration kWaitForErrors = absl::Seconds(1);
constexpr absl::Duration kCommentInterval = absl::Seconds(1);

}  // namespace

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
  const bool due = MonotonicNow() - last_write_ >= kCommentInterval;
  return due ? CommentEvent(progress_) : "";
}

bool EventStream::WriteNext(httplib::DataSink& sink) {
  v1::GenerateResponse message;
  absl::Status end;
  Next next = Next::kMessage;
  if (first_) {
    message = *std::exchange(first_, std::nullopt);
  } else {
    next = generation_->Take(MonotonicNow() + kCommentInterval, &message, &end);
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
