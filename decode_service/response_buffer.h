// ResponseBuffer stands between what makes one request's answer and the call that sends it. Makers
// never wait: while the reader is busy, progress is overwritten and output is gathered into one
// message, up to a bound past which the request leaves the decode batch until it is read. Thread
// safe; the callbacks are called without a lock held, on the thread that caused them.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/sampling.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

class ResponseBuffer {
 public:
  explicit ResponseBuffer(size_t max_waiting_tokens) : max_waiting_tokens_(max_waiting_tokens) {}

  // For the makers.
  void SetProgress(const v1::GenerateProgress& progress);
  void AddOutput(absl::string_view text, const OutputToken& token);
  // The end: a report, or an error. Only the first one counts.
  void Finish(const v1::GenerateReport& report);
  void Fail(const absl::Status& error);
  // Whether more output may be added; false once the reader has gone.
  bool has_room() const;
  // Called when there is room again, and when the reader has gone.
  void OnReader(std::function<void()> callback);

  // For the reader.
  enum class Next { kNothing, kMessage, kEnd };
  // Takes the next message, or how the request ended.
  Next Take(v1::GenerateResponse* message, absl::Status* end);
  // Called when Take has something.
  void OnResponse(std::function<void()> callback);
  // Says that nothing will be read any more, and why; makers stop as soon as they see it.
  void Cancel(const absl::Status& why);

  bool cancelled() const;
  absl::Status why_cancelled() const;

 private:
  using Callback = std::function<void()>;
  static void Call(const Callback& callback);

  const size_t max_waiting_tokens_;
  mutable std::mutex mutex_;
  std::optional<v1::GenerateProgress> progress_;
  v1::GenerateOutput output_;
  std::optional<v1::GenerateReport> report_;
  std::optional<absl::Status> end_;
  absl::Status why_cancelled_;
  Callback on_reader_;
  Callback on_response_;
};

}  // namespace kvship
