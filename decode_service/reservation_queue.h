// ReservationQueue does admission control for the decode pool, first come, first served. A request
// enters on arrival: that counts it and its prompt against bounds on all waiting requests, and its
// bytes against its client's share. It reserves its pages when a prefill node is ready for it, or
// waits in line until they are free; its place in line is that of its arrival, however late it
// joins the line. Destroying a cache returns its pages and so wakes the line. Thread safe; must
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
    // Total prompt tokens of waiting requests; a single request of any length may wait.
    size_t max_waiting_tokens = 1 << 20;
    // Number of waiting requests: even a short one holds a stream and tens of KiB.
    size_t max_waiting_requests = 4096;
    // Pool bytes that one client's requests may wait for and hold; 0: unlimited.
    size_t max_client_bytes = 0;
  };

  // What one request needs.
  struct Demand {
    KvPlan plan;
    size_t max_tail_tokens = 0;
    std::string client = {};  // a name; all requests without one count as one client's
  };

  using OnReserved = std::function<void(absl::StatusOr<Cache>)>;

  // A request's place by arrival, held until destroyed. Used by one thread at a time.
  class Ticket {
   public:
    ~Ticket();

   private:
    friend class ReservationQueue;
    Ticket(ReservationQueue& queue, Demand demand, size_t pool_bytes, size_t place)
        : queue_(queue), demand_(std::move(demand)), place_(place), pool_bytes_(pool_bytes) {}

    ReservationQueue& queue_;
    const Demand demand_;
    const size_t place_;
    // Guarded by the queue's mutex.
    size_t pool_bytes_;   // of its client's share
    bool waits_ = false;  // counted as waiting
  };

  // Borrows pool and metrics.
  ReservationQueue(KvPool& pool, DecodeMetrics& metrics, const KvShape& shape,
                   PageFormat tail_format, const Options& options);

  // Admits a request. Errors: FailedPrecondition if the demand exceeds the whole pool or one
  // client's share of it; ResourceExhausted, with its reason (rejection.h), if too many requests or
  // prompt tokens wait already, or the client's share is used up.
  absl::StatusOr<std::unique_ptr<Ticket>> Enter(Demand demand);

  // FailedPrecondition if `num_requests` demands that enter together, of `bytes` in total, exceed
  // one client's share.
  absl::Status CheckTogether(size_t num_requests, size_t bytes) const;
  bool bounds_clients() const { return options_.max_client_bytes > 0; }
  // The pool bytes that the demand takes.
  size_t PoolBytes(const Demand& demand) const;

  // Returns whether any request is in line.
  bool has_line() const;

  // Reserves the pages of the ticket's demand without waiting. ResourceExhausted if there is no
  // room, no memory for the page list, or an earlier request in line; other errors as
  // KvPool::Reserve.
  absl::StatusOr<Cache> TryReserve(Ticket& ticket);

  // Waits in line for the pages until ServeLine serves the ticket. `on_reserved` is called once, on
  // a thread that serves the line, unless the ticket is destroyed first; it must not block. It gets
  // ResourceExhausted if there is no memory for the page list.
  void StandInLine(Ticket& ticket, OnReserved on_reserved);

  // Counts the ticket's prompt as waiting again, because its prefill node was lost.
  void WaitAgain(Ticket& ticket);

  // Removes the ticket from the line; false if it is not in line: `on_reserved` is being or was
  // called.
  bool StepOut(Ticket& ticket);

  // Serves the line from its head while the pool has room; also runs when pages are returned.
  void ServeLine();

  // Returns pages that the ticket's cache reserved for its prompt but did not fill, from its
  // client's share, too, and serves the line with them.
  void GiveBackUnused(Ticket& ticket, SequenceCache& cache);

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
  // Makes the ticket count as so many bytes of its client's share.
  void Charge(Ticket& ticket, size_t bytes);
  void Count(Ticket& ticket);
  void StopCounting(Ticket& ticket);
  // Removes the ticket from the line; returns its callback, or null.
  OnReserved LeaveLine(Ticket& ticket);
  void Leave(Ticket& ticket);
  void PagesCameBack();
  // Removes the head of the line, with its pages or an error; false if it must wait.
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
  size_t line_tokens_ = 0;                      // prompt tokens of the requests in line
  bool serving_ = false;                        // a thread is serving the line
  bool serve_again_ = false;                    // and must check once more
  std::map<std::string, size_t> client_bytes_;  // of all tickets
};

}  // namespace kvship
