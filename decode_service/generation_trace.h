// GenerationTrace records the spans of one Generate request on the decode node; docs/tracing.md
// defines each. The request reports each of its stages, from one thread at a time. Thread safe.
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
  // Starts when the request arrives and queues. Borrows the tracer; `caller` is what its client
  // sent.
  GenerationTrace(Tracer& tracer, const TraceContext& caller);

  // The request's own context; not set if the request is not traced.
  const TraceContext& context() const { return context_; }

  // The request queues again.
  void BeginQueue();
  // The prompt is sent to a prefill node; returns the context to send along.
  TraceContext BeginAttempt(const std::string& node_address);
  // `transfer`: the part of the attempt after the node had computed everything; zero if it never
  // did.
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
  std::optional<TraceSpan> attempt_;  // in progress
  absl::Time decode_begin_;
};

}  // namespace kvship
