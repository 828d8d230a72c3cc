// GenerationTrace are the spans of one Generate request on the decode node; docs/tracing.md says
// what each measures. Told at each turn of the request, by one thread after the other. Thread safe.
#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "decode_service/session.h"
#include "kvship/v1/generation.pb.h"
#include "service/tracer.h"

namespace kvship {

class GenerationTrace {
 public:
  // The request has arrived, and waits. Borrows the tracer; `caller` is what its client sent.
  GenerationTrace(Tracer& tracer, const TraceContext& caller);

  // The request's own; not set where it belongs to no trace.
  const TraceContext& context() const { return context_; }

  // It waits once more.
  void BeginQueue();
  // Its prompt is sent to a prefill node; gives what is to be sent along.
  TraceContext BeginAttempt(const std::string& node_address);
  // `transfer`: the part of it after the node had computed all; zero where it did not come to that.
  void EndAttempt(const absl::Status& status, absl::Duration transfer);
  // The session has its first token.
  void BeginDecode();
  // Before End.
  void EndDecode(const Session::End& end);
  // The request has ended.
  void End(const std::string& request_id, const absl::Status& status,
           const v1::GenerateReport& report);

 private:
  TraceSpan Below(const TraceContext& parent, const char* name, absl::Time begin,
                  absl::Time end) const;
  void EndQueueLocked(absl::Time now);

  Tracer& tracer_;
  const std::string caller_span_id_;
  const TraceContext context_;
  const absl::Time begin_;

  std::mutex mutex_;
  std::optional<absl::Time> queue_begin_;
  std::optional<TraceSpan> attempt_;  // under way
  absl::Time decode_begin_;
};

}  // namespace kvship
