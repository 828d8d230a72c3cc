#include "decode_service/response_buffer.h"

#include <utility>

#include "rpc/sampling.h"

namespace kvship {

void ResponseBuffer::Call(const Callback& callback) {
  if (callback) callback();
}

void ResponseBuffer::SetProgress(const v1::GenerateProgress& progress) {
  Callback changed;
  {
    std::lock_guard lock(mutex_);
    if (end_) return;
    progress_ = progress;
    changed = on_response_;
  }
  Call(changed);
}

void ResponseBuffer::AddOutput(absl::string_view text, const OutputToken& token) {
  Callback changed;
  {
    std::lock_guard lock(mutex_);
    if (end_) return;
    progress_.reset();
    output_.mutable_text()->append(text.data(), text.size());
    *output_.add_tokens() = OutputTokenToProto(token);
    changed = on_response_;
  }
  Call(changed);
}

void ResponseBuffer::Finish(const v1::GenerateReport& report) {
  Callback changed;
  {
    std::lock_guard lock(mutex_);
    if (end_) return;
    report_ = report;
    end_ = absl::OkStatus();
    changed = on_response_;
  }
  Call(changed);
}

void ResponseBuffer::Fail(const absl::Status& error) {
  Callback changed;
  {
    std::lock_guard lock(mutex_);
    if (end_) return;
    end_ = error;
    changed = on_response_;
  }
  Call(changed);
}

bool ResponseBuffer::has_room() const {
  std::lock_guard lock(mutex_);
  return static_cast<size_t>(output_.tokens_size()) < max_waiting_tokens_ && why_cancelled_.ok();
}

void ResponseBuffer::OnReader(Callback callback) {
  std::lock_guard lock(mutex_);
  on_reader_ = std::move(callback);
}

ResponseBuffer::Next ResponseBuffer::Take(v1::GenerateResponse* message, absl::Status* end) {
  Callback room;
  {
    std::lock_guard lock(mutex_);
    message->Clear();
    if (output_.tokens_size() > 0) {
      message->mutable_output()->Swap(&output_);
      output_.Clear();
      room = on_reader_;
    } else if (progress_) {
      *message->mutable_progress() = *std::exchange(progress_, std::nullopt);
    } else if (report_) {
      *message->mutable_report() = *std::exchange(report_, std::nullopt);
    } else if (end_) {
      *end = *end_;
      return Next::kEnd;
    } else {
      return Next::kNothing;
    }
  }
  Call(room);
  return Next::kMessage;
}

void ResponseBuffer::OnResponse(Callback callback) {
  std::lock_guard lock(mutex_);
  on_response_ = std::move(callback);
}

void ResponseBuffer::Cancel(const absl::Status& why) {
  Callback gone;
  {
    std::lock_guard lock(mutex_);
    if (!why_cancelled_.ok()) return;
    why_cancelled_ = why;
    gone = on_reader_;
  }
  Call(gone);
}

bool ResponseBuffer::cancelled() const {
  std::lock_guard lock(mutex_);
  return !why_cancelled_.ok();
}

absl::Status ResponseBuffer::why_cancelled() const {
  std::lock_guard lock(mutex_);
  return why_cancelled_;
}

}  // namespace kvship
