#include "decode_service/http/event_stream.h"

#include <utility>

#include "base/clock.h"

namespace kvship {
namespace {

using Next = ResponseBuffer::Next;

constexpr absl::Duration kWaitForErrors = absl::Seconds(1);
// Proxies close a silent connection after 30 seconds or more. Not more often: some clients accept
// no comments, and get none before a first token that comes sooner.
constexpr absl::Duration kKeepAlive = absl::Seconds(15);
constexpr absl::Duration kProgress = absl::Seconds(1);

}  // namespace

EventStream::EventStream(std::unique_ptr<HttpChoices> choices, OpenAiResponse response,
                         bool progress)
    : choices_(std::move(choices)),
      response_(std::move(response)),
      comment_interval_(progress ? kProgress : kKeepAlive),
      last_write_(MonotonicNow()) {}

absl::Status EventStream::Begin() {
  const absl::Time until = MonotonicNow() + kWaitForErrors;
  HttpChoices::Message message;
  absl::Status end;
  while (true) {
    switch (choices_->Take(until, &message, &end)) {
      case Next::kNothing: return absl::OkStatus();
      case Next::kEnd: return end;
      case Next::kMessage: break;
    }
    if (message.response.has_progress()) {
      progress_ = message.response.progress();
      if (progress_.phase() != v1::GenerateProgress::PHASE_PREFILL) continue;
    }
    first_ = std::move(message);
    return absl::OkStatus();
  }
}

std::string EventStream::Event(const HttpChoices::Message& message) {
  const v1::GenerateResponse& response = message.response;
  if (response.has_output()) return response_.Event(message.choice, response.output());
  if (response.has_report()) return response_.LastEvents(message.choice, response.report());
  progress_ = response.progress();
  const bool due = MonotonicNow() - last_write_ >= comment_interval_;
  return due ? CommentEvent(progress_) : "";
}

bool EventStream::WriteNext(httplib::DataSink& sink) {
  HttpChoices::Message message;
  absl::Status end;
  Next next = Next::kMessage;
  if (first_) {
    message = *std::exchange(first_, std::nullopt);
  } else {
    next = choices_->Take(last_write_ + comment_interval_, &message, &end);
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
