#include "decode_service/reservation_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvship {

ReservationQueue::ReservationQueue(KvPool& pool, DecodeMetrics& metrics, const KvShape& shape,
                                   PageFormat tail_format, size_t max_waiting_tokens)
    : pool_(pool),
      metrics_(metrics),
      shape_(shape),
      tail_format_(tail_format),
      max_waiting_tokens_(max_waiting_tokens) {
  UpdateMetrics();
}

void ReservationQueue::GiveBack::operator()(SequenceCache* cache) const {
  delete cache;
  queue->PagesCameBack();
}

void ReservationQueue::GiveBackUnused(SequenceCache& cache) {
  cache.GiveBackUnusedPages();
  PagesCameBack();
}

void ReservationQueue::PagesCameBack() {
  {
    std::lock_guard lock(mutex_);
    UpdateMetrics();
  }
  ServeLine();
}

ReservationQueue::Ticket::~Ticket() { queue_.Leave(*this); }

size_t ReservationQueue::PoolBytes(const Demand& demand) const {
  size_t bytes = 0;
  for (const KvPool::Demand& pages :
       SequenceCache::Demands(shape_, demand.plan, demand.max_tail_tokens, tail_format_)) {
    bytes += pages.num_pages * pages.page_bytes;
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<ReservationQueue::Ticket>> ReservationQueue::Enter(
    const Demand& demand) {
  if (const size_t bytes = PoolBytes(demand); bytes > pool_.capacity_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the request needs ", bytes, " bytes of KV cache (", demand.plan.prompt_tokens,
                     " prompt tokens kept as ", demand.plan.page_bytes(), " bytes, and room for ",
                     demand.max_tail_tokens, " output tokens); the whole pool of this server has ",
                     pool_.capacity_bytes()));
  }
  const size_t tokens = demand.plan.prompt_tokens;
  std::lock_guard lock(mutex_);
  if (waiting_tokens_ > 0 && waiting_tokens_ + tokens > max_waiting_tokens_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the prompt has ", tokens, " tokens and ", waiting_tokens_,
        " prompt tokens wait already; this server's queue takes ", max_waiting_tokens_, " in all"));
  }
  waiting_tokens_ += tokens;
  UpdateMetrics();
  return std::unique_ptr<Ticket>(new Ticket(*this, tokens));
}

void ReservationQueue::Reserve(Ticket& ticket, Demand demand, OnReserved on_reserved) {
  {
    std::lock_guard lock(mutex_);
    line_.push_back({&ticket, std::move(demand), std::move(on_reserved)});
  }
  ServeLine();
}

size_t ReservationQueue::waiting_tokens() const {
  std::lock_guard lock(mutex_);
  return waiting_tokens_;
}

void ReservationQueue::StopCounting(Ticket& ticket) {
  waiting_tokens_ -= std::exchange(ticket.waiting_tokens_, 0);
  UpdateMetrics();
}

void ReservationQueue::UpdateMetrics() {
  metrics_.SetPool(pool_.capacity_bytes(), pool_.reserved_bytes());
  metrics_.SetWaitingTokens(waiting_tokens_);
}

void ReservationQueue::Leave(Ticket& ticket) {
  OnReserved forgotten;  // destroyed without the lock: it may own anything
  {
    std::lock_guard lock(mutex_);
    StopCounting(ticket);
    const auto at = std::find_if(line_.begin(), line_.end(), [&ticket](const Waiting& waiting) {
      return waiting.ticket == &ticket;
    });
    if (at != line_.end()) {
      forgotten = std::move(at->on_reserved);
      line_.erase(at);
    }
  }
  // Whoever stood behind may need less than who left.
  ServeLine();
}

void ReservationQueue::ServeLine() {
  while (true) {
    absl::StatusOr<std::unique_ptr<SequenceCache>> cache;
    OnReserved on_reserved;
    {
      std::lock_guard lock(mutex_);
      if (line_.empty()) return;
      Waiting& first = line_.front();
      cache = SequenceCache::Reserve(pool_, shape_, first.demand.plan, first.demand.max_tail_tokens,
                                     tail_format_);
      if (absl::IsResourceExhausted(cache.status())) return;
      on_reserved = std::move(first.on_reserved);
      StopCounting(*first.ticket);
      line_.pop_front();
    }
    if (cache.ok()) {
      on_reserved(Cache(cache->release(), GiveBack{this}));
    } else {
      on_reserved(cache.status());
    }
  }
}

}  // namespace kvship
