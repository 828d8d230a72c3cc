#include "decode_service/response_buffer.h"

#include <algorithm>
#include <utility>

#include "rpc/sampling.h"

namespace kvship {

void ResponseBuffer::Call(const Callback& callback) {
  if (callback) callback();
}

template <class Change>
void ResponseBuffer::UnlessEnded(const Change& change) {
  std::shared_ptr<const Callback> changed;
  {
    std::lock_guard lock(mutex_);
    if (end_) return;
    change();
    changed = on_response_;
  }
  Call(*changed);
}

void ResponseBuffer::SetProgress(const v1::GenerateProgress& progress) {
  UnlessEnded([&] { progress_ = progress; });
}

void ResponseBuffer::AddOutput(absl::string_view text, const OutputToken& token) {
  std::lock_guard lock(mutex_);
  if (end_) return;
  progress_.reset();
  output_.mutable_text()->append(text.data(), text.size());
  *output_.add_tokens() = OutputTokenToProto(token);
}

bool ResponseBuffer::WantsAnnouncement() {
  std::lock_guard lock(mutex_);
  if (static_cast<size_t>(output_.tokens_size()) < least_tokens_) return false;
  return !std::exchange(owes_announcement_, true);
}

void ResponseBuffer::Announce() {
  std::shared_ptr<const Callback> changed;
  {
    std::lock_guard lock(mutex_);
    owes_announcement_ = false;
    if (end_) return;  // of which the reader has been told
    changed = on_response_;
  }
  Call(*changed);
}

void ResponseBuffer::Finish(const v1::GenerateReport& report) {
  UnlessEnded([&] {
    report_ = report;
    end_ = absl::OkStatus();
  });
}

void ResponseBuffer::Fail(const absl::Status& error) {
  UnlessEnded([&] { end_ = error; });
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

void ResponseBuffer::OnResponse(Callback callback, bool wants_all) {
  std::lock_guard lock(mutex_);
  on_response_ = std::make_shared<const Callback>(std::move(callback));
  least_tokens_ = wants_all ? std::max<size_t>(1, max_waiting_tokens_ / 2) : 1;
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
