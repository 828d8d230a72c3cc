// ReservationQueue hands out the decode pool to requests, first come first served. A request enters
// it when it arrives, which counts its prompt against a bound on all that wait; it asks for its
// pages once a prefill node is ready for it, and stands in line until they are free. Caches give
// their pages back, and so wake the line, when they are destroyed. Thread safe; must outlive its
// tickets and caches.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

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

  // What one request asks for.
  struct Demand {
    KvPlan plan;
    size_t max_tail_tokens = 0;
  };

  using OnReserved = std::function<void(absl::StatusOr<Cache>)>;

  // A place among the waiting; leaves when destroyed. Used by one thread at a time.
  class Ticket {
   public:
    ~Ticket();

   private:
    friend class ReservationQueue;
    Ticket(ReservationQueue& queue, size_t waiting_tokens)
        : queue_(queue), waiting_tokens_(waiting_tokens) {}

    ReservationQueue& queue_;
    size_t waiting_tokens_;  // 0 once served; guarded by the queue's mutex
  };

  // Borrows pool and metrics.
  ReservationQueue(KvPool& pool, DecodeMetrics& metrics, const KvShape& shape,
                   PageFormat tail_format, size_t max_waiting_tokens);

  // Errors: FailedPrecondition if the demand is more than the whole pool; ResourceExhausted if too
  // many prompt tokens wait already (one request may wait however long it is).
  absl::StatusOr<std::unique_ptr<Ticket>> Enter(const Demand& demand);

  // Asks for the pages of `demand`, behind all who asked before. `on_reserved` is called once, on
  // this thread or on one that gives pages back, unless the ticket is destroyed first; it must not
  // block. Errors: as KvPool::Reserve, but for ResourceExhausted, which is waited out.
  void Reserve(Ticket& ticket, Demand demand, OnReserved on_reserved);

  // Gives back what the cache reserved for its prompt and did not fill, and serves the line with
  // it.
  void GiveBackUnused(SequenceCache& cache);

  size_t waiting_tokens() const;

 private:
  struct Waiting {
    Ticket* ticket;
    Demand demand;
    OnReserved on_reserved;
  };

  void StopCounting(Ticket& ticket);
  void Leave(Ticket& ticket);
  void PagesCameBack();
  // Serves the line from its head as far as the pool goes.
  void ServeLine();
  size_t PoolBytes(const Demand& demand) const;
  void UpdateMetrics();

  KvPool& pool_;
  DecodeMetrics& metrics_;
  const KvShape shape_;
  const PageFormat tail_format_;
  const size_t max_waiting_tokens_;
  mutable std::mutex mutex_;
  size_t waiting_tokens_ = 0;
  std::deque<Waiting> line_;
};

}  // namespace kvship
