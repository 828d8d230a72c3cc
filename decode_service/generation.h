// Generation runs one Generate request: it waits in the queue if the pool is full, has a prefill
// node read the prompt (and another one if the first is lost), hands the cache to the decode loop,
// and ends with a report or an error in its ResponseBuffer. Thread safe. Whichever stage is in
// progress keeps it alive.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "decode_service/client_requests.h"
#include "decode_service/decode_loop.h"
#include "decode_service/decode_metrics.h"
#include "decode_service/generation_request.h"
#include "decode_service/generation_trace.h"
#include "decode_service/prefill_attempt.h"
#include "decode_service/prefill_nodes.h"
#include "decode_service/recent_requests.h"
#include "decode_service/reservation_queue.h"
#include "decode_service/response_buffer.h"
#include "decode_service/served_model.h"
#include "decode_service/work_queue.h"

namespace kvship {

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  struct Options {
    RequestLimits limits;
    // Output tokens that may queue for a slow reader before its request leaves the batch.
    size_t max_unread_tokens = 256;
  };

  // What all generations share; must outlive them.
  struct Uses {
    const ServedModel& model;
    PrefillNodes& nodes;
    ClientRequests& client_requests;
    ReservationQueue& queue;
    DecodeLoop& loop;
    DecodeMetrics& metrics;
    NcclService* nccl = nullptr;  // null: caches come over gRPC only
    RecentRequests& recent;
    Tracer& tracer;
    WorkQueue& preparer;  // of requests that come over gRPC
    WorkQueue& compiler;  // of the structures that constrain outputs
    const Options& options;
  };

  // The call that carried the request.
  struct Call {
    std::string id;      // appears in the logs of both nodes
    std::string client;  // the client's name; empty: unknown
    absl::Time arrival;  // monotonic, as the deadline
    absl::Time deadline;
    TraceContext trace = {};  // sent by the client
  };

  // `place` is its client's, where that has been taken already.
  Generation(const Uses& uses, Call call, ClientRequests::Place place = nullptr)
      : uses_(uses),
        call_(std::move(call)),
        trace_(uses.tracer, call_.trace),
        responses_(std::make_shared<ResponseBuffer>(uses.options.max_unread_tokens)),
        place_(std::move(place)) {}

  // Checks the request and starts it, which takes as long as its text is to tokenize. False if it
  // has ended already; responses() then has the error.
  bool Start(const v1::GenerateRequest& message);
  // The same when the client's turn in `preparer` comes, for one without a place. Returns at once.
  void StartInTurn(v1::GenerateRequest message);
  // Cancels: the client has gone, or the deadline has passed. Asynchronous.
  void Cancel();
  // Ends the request with `why`. Asynchronous.
  void Cancel(const absl::Status& why);

  ResponseBuffer& responses() { return *responses_; }
  // The request's span in its trace; not set if it is not traced.
  const TraceContext& trace() const { return trace_.context(); }

 private:
  absl::Status Prepare(const v1::GenerateRequest& message);
  // Queues for a turn; a cancellation before it ends the request at once.
  absl::Status WaitIn(WorkQueue& queue, size_t num_bytes, WorkQueue::Task task);
  // Compiles the structure that constrains the output, and continues.
  void Compile();
  // InvalidArgument that names the request's field.
  absl::Status WrongStructure(const absl::Status& status) const;
  // Continues after Prepare and compilation: queues for memory or goes to a prefill node.
  absl::Status GoOn();
  // Releases slot and ticket, so that whoever sees the request's end finds them free.
  void GiveBack();
  // Sends the prompt to a node not tried yet. A null `cache` means: node first, memory when it is
  // ready. If OK, OnAttemptEnd follows or has been; else the caller ends the request.
  absl::Status Attempt(ReservationQueue::Cache cache);
  // Queues for memory, then continues.
  void WaitForRoom();
  void OnRoom(absl::StatusOr<ReservationQueue::Cache> cache);
  void OnAttemptEnd(const PrefillNodes::Visit& visit,
                    absl::StatusOr<PrefillAttempt::Result> result);
  // Retries on another node, if attempts are left, or ends the request.
  void OnNodeFailure(const std::string& node, const absl::Status& error);
  // DataLoss for a token that is invalid, not the forced one, or not allowed.
  absl::Status CheckFirstToken(const OutputToken& first_token) const;
  void Decode(PrefillAttempt::Result result);
  void OnSessionEnd(const Session::End& end);
  void Report(const Session::End& end);
  void Fail(const absl::Status& error);
  void LogEnd(const absl::Status& status) const;

  const Uses uses_;
  const Call call_;
  GenerationTrace trace_;
  // shared: session and reading call may outlive each other
  const std::shared_ptr<ResponseBuffer> responses_;
  GenerationRequest request_;
  ClientRequests::Place place_;                       // from Start, or before, to the end
  std::unique_ptr<ReservationQueue::Ticket> ticket_;  // from Prepare to the end
  std::unique_ptr<OutputMatcher> matcher_;            // from GoOn to Decode; may be null
  v1::GenerateReport report_;
  absl::Duration receive_time_;  // as PrefillAttempt::Result

  std::mutex mutex_;
  struct Turn {
    WorkQueue* queue;
    size_t place;
  };
  std::optional<Turn> turn_;  // the last one that it waited for
  bool in_line_ = false;
  std::shared_ptr<PrefillAttempt> attempt_;  // shared: the channel calls it to its end
  absl::Time attempt_begin_;
  std::set<std::string> tried_;  // addresses of nodes
  absl::Status failure_;         // the most telling of their failures
};

}  // namespace kvship
