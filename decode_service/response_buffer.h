// ResponseBuffer is the queue between the producers of one request's responses and the call that
// sends them. Producers never block: while the reader is busy, new progress replaces old progress
// and output is merged into one message, up to a limit at which the request leaves the decode batch
// until the message is read. Thread safe; callbacks run without a lock held, on the thread that
// caused them; of output, which comes from the decode loop, on the one that calls Announce.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "engine/sampling.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

class ResponseBuffer {
 public:
  explicit ResponseBuffer(size_t max_waiting_tokens) : max_waiting_tokens_(max_waiting_tokens) {}

  // For the producers.
  void SetProgress(const v1::GenerateProgress& progress);
  void AddOutput(absl::string_view text, const OutputToken& token);
  // Returns whether the reader is to be told of output, by a call of Announce that nobody else
  // owes.
  bool WantsAnnouncement();
  void Announce();
  // Ends the responses with a report or an error. Only the first end counts.
  void Finish(const v1::GenerateReport& report);
  void Fail(const absl::Status& error);
  // Returns whether more output may be added; false once the reader has gone.
  bool has_room() const;
  // `callback` is called when there is room again, and when the reader has gone.
  void OnReader(std::function<void()> callback);

  // For the reader.
  enum class Next { kNothing, kMessage, kEnd };
  // Takes the next message, or the request's final status.
  Next Take(v1::GenerateResponse* message, absl::Status* end);
  // `callback` is called when Take has something; while that is only output, from half of the limit
  // on if the reader `wants_all`: it has no use for parts.
  void OnResponse(std::function<void()> callback, bool wants_all = false);
  // The reader stops reading, because of `why`; producers stop as soon as they notice.
  void Cancel(const absl::Status& why);

  bool cancelled() const;
  absl::Status why_cancelled() const;

 private:
  using Callback = std::function<void()>;
  static void Call(const Callback& callback);
  // Makes a change and tells the reader of it; nothing once the responses have ended.
  template <class Change>
  void UnlessEnded(const Change& change);

  const size_t max_waiting_tokens_;
  mutable std::mutex mutex_;
  std::optional<v1::GenerateProgress> progress_;
  v1::GenerateOutput output_;
  std::optional<v1::GenerateReport> report_;
  std::optional<absl::Status> end_;
  absl::Status why_cancelled_;
  Callback on_reader_;
  // shared: taken without memory, which may have run out, and called without the lock
  std::shared_ptr<const Callback> on_response_ = std::make_shared<const Callback>();
  size_t least_tokens_ = 1;  // to tell the reader of
  bool owes_announcement_ = false;
};

}  // namespace kvship
