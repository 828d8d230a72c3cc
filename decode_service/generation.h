// Generation is one Generate request on its way: it has the prompt read by a prefill node (by
// another one, where the first is lost; after standing in line, where the pool is full), hands the
// cache over to the decode loop, and ends with a
// report or an error in its ResponseBuffer. Thread safe; kept alive by whichever part of it is
// still going on.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "base/task_thread.h"
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

namespace kvship {

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  struct Options {
    RequestLimits limits;
    // Output tokens that wait for a slow reader before its request leaves the batch.
    size_t max_unread_tokens = 256;
    // Prefill nodes tried for one prompt.
    size_t most_attempts = 3;
    // What a request refused for lack of room is told to wait.
    absl::Duration retry_delay = absl::Seconds(1);
  };

  // What generations share; must outlive them.
  struct Uses {
    const ServedModel& model;
    PrefillNodes& nodes;
    ClientRequests& client_requests;
    ReservationQueue& queue;
    DecodeLoop& loop;
    DecodeMetrics& metrics;
    NcclService* nccl = nullptr;  // caches come over gRPC alone
    RecentRequests& recent;
    Tracer& tracer;
    TaskThread& compiler;  // of the structures that outputs are held to
    const Options& options;
  };

  // The call that a request came by.
  struct Call {
    std::string id;      // stands in the logs of both nodes
    std::string client;  // whose it is; empty: not known
    absl::Time arrival;  // monotonic, as the deadline
    absl::Time deadline;
    TraceContext trace = {};  // that its client sent along
  };

  Generation(const Uses& uses, Call call)
      : uses_(uses),
        call_(std::move(call)),
        trace_(uses.tracer, call_.trace),
        responses_(std::make_shared<ResponseBuffer>(uses.options.max_unread_tokens)) {}

  // Checks the request and starts it. False if it has ended with that: what is wrong with it comes
  // through responses().
  bool Start(const v1::GenerateRequest& message);
  // The client has gone, or the deadline has passed: frees everything soon.
  void Cancel();
  // Ends it with `why`, soon.
  void Cancel(const absl::Status& why);

  ResponseBuffer& responses() { return *responses_; }
  // The request's place in its trace; not set where it has none.
  const TraceContext& trace() const { return trace_.context(); }

 private:
  absl::Status Prepare(const v1::GenerateRequest& message);
  // Has it compiled when its turn comes; a cancellation before that ends it at once.
  absl::Status WaitForCompiler();
  // Null if it does not wait for its turn: it has come, or a cancellation has.
  std::shared_ptr<Generation> LeaveCompiler();
  // Compiles the structure that the output is held to, and goes on.
  void Compile();
  // InvalidArgument that names the field of the request.
  absl::Status WrongStructure(const absl::Status& status) const;
  // Prepared, and compiled: stands in line or goes to a prefill node.
  absl::Status GoOn();
  // Gives back what it holds: who sees the end of a request finds it free.
  void GiveBack();
  // Sends the prompt to a node not tried yet. Without a cache the node comes first, then memory.
  absl::Status Attempt(ReservationQueue::Cache cache);
  // Stands in line for memory, and then goes on.
  void WaitForRoom();
  void OnRoom(absl::StatusOr<ReservationQueue::Cache> cache);
  void OnAttemptEnd(const PrefillNodes::Visit& visit,
                    absl::StatusOr<PrefillAttempt::Result> result);
  // Sends the prompt to another node, if it may, or ends the request.
  void OnNodeFailure(const std::string& node, const absl::Status& error);
  // DataLoss for a token that cannot be, is not the forced one, or is not allowed.
  absl::Status CheckFirstToken(const OutputToken& first_token) const;
  void Decode(PrefillAttempt::Result result);
  void OnSessionEnd(const Session::End& end);
  void Report(const Session::End& end);
  void Fail(const absl::Status& error);
  void LogEnd(const absl::Status& status) const;

  const Uses uses_;
  const Call call_;
  GenerationTrace trace_;
  // shared: the session outlives the call that reads, or the other way round
  const std::shared_ptr<ResponseBuffer> responses_;
  GenerationRequest request_;
  ClientRequests::Place place_;                       // from Prepare to the end
  std::unique_ptr<ReservationQueue::Ticket> ticket_;  // from Prepare to the end
  std::unique_ptr<OutputMatcher> matcher_;            // from GoOn to Decode; may be null
  v1::GenerateReport report_;
  absl::Duration receive_time_;  // as PrefillAttempt::Result

  std::mutex mutex_;
  std::shared_ptr<Generation> awaits_compiler_;  // itself, while it does
  bool in_line_ = false;
  std::shared_ptr<PrefillAttempt> attempt_;  // shared: the channel calls it to its end
  absl::Time attempt_begin_;
  std::set<std::string> tried_;  // addresses of nodes
  absl::Status failure_;         // of theirs the most telling
};

}  // namespace kvship
