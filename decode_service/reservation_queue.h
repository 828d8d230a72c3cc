// ReservationQueue hands out the decode pool to requests, first come first served. A request enters
// it when it arrives, which counts it and its prompt against bounds on all that wait, and its bytes
// against its client's share; it takes its pages when a prefill node is ready for it, or stands in
// line until they are free. Its place in the line is that of its arrival, however late it lines up.
// Caches give their pages back, and so wake the line, when they are destroyed. Thread safe; must
// outlive its tickets and caches.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "decode_service/decode_metrics.h"
#include "kv/sequence.h"

namespace kvship {

class ReservationQueue {
 public:
  struct GiveBack {
    ReservationQueue* queue = nullptr;
    void operator()(SequenceCache* cache) const;
  };
  using Cache = std::unique_ptr<SequenceCache, GiveBack>;

  struct Options {
    // Prompt tokens of requests that wait, in all; one request may wait however long it is.
    size_t max_waiting_tokens = 1 << 20;
    // Requests that wait: even a short one holds a stream and tens of KiB.
    size_t max_waiting_requests = 4096;
    // Bytes of the pool that one client's requests may wait for and hold; 0: any number.
    size_t max_client_bytes = 0;
  };

  // What one request asks for.
  struct Demand {
    KvPlan plan;
    size_t max_tail_tokens = 0;
    std::string client = {};  // a name; all requests without one are one client's
  };

  using OnReserved = std::function<void(absl::StatusOr<Cache>)>;

  // A request's place by its arrival, kept until destroyed. Used by one thread at a time.
  class Ticket {
   public:
    ~Ticket();

   private:
    friend class ReservationQueue;
    Ticket(ReservationQueue& queue, Demand demand, size_t pool_bytes, size_t place)
        : queue_(queue), demand_(std::move(demand)), pool_bytes_(pool_bytes), place_(place) {}

    ReservationQueue& queue_;
    const Demand demand_;
    const size_t pool_bytes_;
    const size_t place_;
    bool waits_ = false;  // is counted; guarded by the queue's mutex
  };

  // Borrows pool and metrics.
  ReservationQueue(KvPool& pool, DecodeMetrics& metrics, const KvShape& shape,
                   PageFormat tail_format, const Options& options);

  // Errors: FailedPrecondition if the demand is more than the whole pool or a client's share of it;
  // ResourceExhausted, with its reason (rejection.h), if too many requests or prompt tokens wait
  // already, or the client's share is used up.
  absl::StatusOr<std::unique_ptr<Ticket>> Enter(Demand demand);

  // FailedPrecondition if the demands of `num_requests` that enter together, of `bytes` in all, are
  // more than one client's share.
  absl::Status CheckTogether(size_t num_requests, size_t bytes) const;
  bool bounds_clients() const { return options_.max_client_bytes > 0; }
  // Of the pool, that the demand takes.
  size_t PoolBytes(const Demand& demand) const;

  // Whether a request is in line.
  bool has_line() const;

  // The pages of the ticket's demand, now. ResourceExhausted if there is no room, or no memory for
  // their list, or somebody in line came before; other errors as KvPool::Reserve.
  absl::StatusOr<Cache> TryReserve(Ticket& ticket);

  // Stands in line for them until served by ServeLine. `on_reserved` is called once, on a thread
  // that serves the line, unless the ticket is destroyed first; it must not block. It gets
  // ResourceExhausted if there is no memory for their list.
  void StandInLine(Ticket& ticket, OnReserved on_reserved);

  // Counts the ticket's prompt as waiting anew: the node that it was served for is lost.
  void WaitAgain(Ticket& ticket);

  // Takes the ticket out of the line; false if it is not in it: `on_reserved` comes, or has come.
  bool StepOut(Ticket& ticket);

  // Serves the line from its head as far as the pool goes; also done when pages come back.
  void ServeLine();

  // Gives back what the cache reserved for its prompt and did not fill, and serves the line with
  // it.
  void GiveBackUnused(SequenceCache& cache);

  size_t waiting_tokens() const;

 private:
  struct Waiting {
    Ticket* ticket;
    OnReserved on_reserved;
  };

  absl::Status CheckFits(const Demand& demand) const;
  absl::Status CheckWaiting(size_t prompt_tokens) const;
  absl::Status CheckClient(const std::string& client, size_t bytes) const;
  absl::StatusOr<Cache> ReserveNow(Ticket& ticket);
  void Count(Ticket& ticket);
  void StopCounting(Ticket& ticket);
  // What the ticket waits in line with; null if it does not.
  OnReserved LeaveLine(Ticket& ticket);
  void Leave(Ticket& ticket);
  void PagesCameBack();
  // Takes the head of the line out, with its pages or an error; false if it has to wait.
  bool TakeFirst(OnReserved* on_reserved, absl::StatusOr<Cache>* cache);
  void UpdateMetrics();

  KvPool& pool_;
  DecodeMetrics& metrics_;
  const KvShape shape_;
  const PageFormat tail_format_;
  const Options options_;
  mutable std::mutex mutex_;
  size_t next_place_ = 0;
  size_t waiting_tokens_ = 0;
  size_t waiting_requests_ = 0;
  std::map<size_t, Waiting> line_;              // by place
  size_t line_tokens_ = 0;                      // prompt tokens of those in it
  bool serving_ = false;                        // a thread is serving the line
  bool serve_again_ = false;                    // and has to look once more
  std::map<std::string, size_t> client_bytes_;  // of all tickets
};

}  // namespace kvship
