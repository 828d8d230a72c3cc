#include "decode_service/reservation_queue.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"

namespace kvship {

ReservationQueue::ReservationQueue(KvPool& pool, DecodeMetrics& metrics, const KvShape& shape,
                                   PageFormat tail_format, const Options& options)
    : pool_(pool), metrics_(metrics), shape_(shape), tail_format_(tail_format), options_(options) {
  UpdateMetrics();
}

void ReservationQueue::GiveBack::operator()(SequenceCache* cache) const {
  delete cache;
  queue->PagesCameBack();
}

void ReservationQueue::GiveBackUnused(Ticket& ticket, SequenceCache& cache) {
  cache.GiveBackUnusedPages();
  {
    std::lock_guard lock(mutex_);
    Charge(ticket, cache.pool_bytes());
  }
  PagesCameBack();
}

void ReservationQueue::Charge(Ticket& ticket, size_t bytes) {
  client_bytes_[ticket.demand_.client] += bytes - ticket.pool_bytes_;
  ticket.pool_bytes_ = bytes;
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
  return SequenceCache::BytesFor(shape_, demand.plan, demand.max_tail_tokens, tail_format_);
}

absl::Status ReservationQueue::CheckFits(const Demand& demand) const {
  absl::Status fits = pool_.CheckFits(
      SequenceCache::Demands(shape_, demand.plan, demand.max_tail_tokens, tail_format_));
  if (!absl::IsFailedPrecondition(fits)) return fits;
  return absl::FailedPreconditionError(
      absl::StrCat("the request asks for ", demand.plan.prompt_tokens, " prompt tokens, kept as ",
                   demand.plan.page_bytes(), " bytes, and room for ", demand.max_tail_tokens,
                   " output tokens: ", fits.message()));
}

absl::Status ReservationQueue::CheckClient(const std::string& client, size_t bytes) const {
  if (!bounds_clients()) return absl::OkStatus();
  if (bytes > options_.max_client_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the request needs ", bytes, " bytes of KV cache; one client may hold ",
                     options_.max_client_bytes, " of this server's pool"));
  }
  const auto at = client_bytes_.find(client);
  const size_t held = at == client_bytes_.end() ? 0 : at->second;
  if (held + bytes <= options_.max_client_bytes) return absl::OkStatus();
  const absl::Status full = absl::ResourceExhaustedError(
      absl::StrCat("the request needs ", bytes, " bytes of KV cache; its client's requests have ",
                   held, " of the ", options_.max_client_bytes, " that one client may hold"));
  return WithReason(full, kClientLimit);
}

absl::Status ReservationQueue::CheckTogether(size_t num_requests, size_t bytes) const {
  if (!bounds_clients() || bytes <= options_.max_client_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the request's ", num_requests, " choices need ", bytes, " bytes of KV cache; ",
                   "one client may hold ", options_.max_client_bytes, " of this server's pool"));
}

absl::Status ReservationQueue::CheckWaiting(size_t prompt_tokens) const {
  std::string full;
  if (waiting_requests_ >= options_.max_waiting_requests) {
    full = absl::StrCat(waiting_requests_, " requests wait already; this server's queue takes ",
                        options_.max_waiting_requests);
  } else if (waiting_tokens_ > 0 && waiting_tokens_ + prompt_tokens > options_.max_waiting_tokens) {
    full = absl::StrCat("the prompt has ", prompt_tokens, " tokens and ", waiting_tokens_,
                        " prompt tokens wait already; this server's queue takes ",
                        options_.max_waiting_tokens, " in all");
  }
  if (full.empty()) return absl::OkStatus();
  // If the line is empty, all wait for prefill nodes, and more pool memory would not help.
  return WithReason(absl::ResourceExhaustedError(full), line_.empty() ? kPrefillFull : kPoolFull);
}

absl::StatusOr<std::unique_ptr<ReservationQueue::Ticket>> ReservationQueue::Enter(Demand demand) {
  RETURN_IF_ERROR(CheckFits(demand));
  const size_t bytes = PoolBytes(demand);
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(CheckClient(demand.client, bytes));
  RETURN_IF_ERROR(CheckWaiting(demand.plan.prompt_tokens));
  // Allocations that may fail come first.
  size_t& client_bytes = client_bytes_[demand.client];
  std::unique_ptr<Ticket> ticket(new Ticket(*this, std::move(demand), bytes, next_place_++));
  Count(*ticket);
  client_bytes += bytes;
  UpdateMetrics();
  return ticket;
}

bool ReservationQueue::has_line() const {
  std::lock_guard lock(mutex_);
  return !line_.empty();
}

absl::StatusOr<ReservationQueue::Cache> ReservationQueue::ReserveNow(Ticket& ticket) {
  ASSIGN_OR_RETURN(std::unique_ptr<SequenceCache> cache,
                   SequenceCache::Reserve(pool_, shape_, ticket.demand_.plan,
                                          ticket.demand_.max_tail_tokens, tail_format_));
  StopCounting(ticket);
  Charge(ticket, cache->pool_bytes());  // again all, if those of a lost node had been given back
  return Cache(cache.release(), GiveBack{this});
}

absl::StatusOr<ReservationQueue::Cache> ReservationQueue::TryReserve(Ticket& ticket) {
  std::lock_guard lock(mutex_);
  if (!line_.empty() && line_.begin()->first < ticket.place_) {
    return absl::ResourceExhaustedError("requests that came before wait for room in the pool");
  }
  absl::StatusOr<Cache> cache;
  RETURN_IF_ERROR(UnlessOutOfMemory([&] {
    cache = ReserveNow(ticket);
    return absl::OkStatus();
  }));
  return cache;
}

void ReservationQueue::StandInLine(Ticket& ticket, OnReserved on_reserved) {
  std::lock_guard lock(mutex_);
  Count(ticket);
  line_tokens_ += ticket.demand_.plan.prompt_tokens;
  line_[ticket.place_] = {&ticket, std::move(on_reserved)};
  UpdateMetrics();
}

void ReservationQueue::WaitAgain(Ticket& ticket) {
  std::lock_guard lock(mutex_);
  Count(ticket);
  UpdateMetrics();
}

bool ReservationQueue::StepOut(Ticket& ticket) {
  OnReserved forgotten;  // destroyed without the lock, as in Leave
  std::lock_guard lock(mutex_);
  forgotten = LeaveLine(ticket);
  return forgotten != nullptr;
}

size_t ReservationQueue::waiting_tokens() const {
  std::lock_guard lock(mutex_);
  return waiting_tokens_;
}

void ReservationQueue::Count(Ticket& ticket) {
  if (std::exchange(ticket.waits_, true)) return;
  ++waiting_requests_;
  waiting_tokens_ += ticket.demand_.plan.prompt_tokens;
}

void ReservationQueue::StopCounting(Ticket& ticket) {
  if (std::exchange(ticket.waits_, false)) {
    --waiting_requests_;
    waiting_tokens_ -= ticket.demand_.plan.prompt_tokens;
  }
  UpdateMetrics();
}

void ReservationQueue::UpdateMetrics() {
  metrics_.SetPool(pool_.capacity_bytes(), pool_.reserved_bytes());
  metrics_.SetWaiting(waiting_tokens_, line_.size(), line_tokens_);
}

ReservationQueue::OnReserved ReservationQueue::LeaveLine(Ticket& ticket) {
  const auto at = line_.find(ticket.place_);
  if (at == line_.end()) return nullptr;
  OnReserved on_reserved = std::move(at->second.on_reserved);
  line_.erase(at);
  line_tokens_ -= ticket.demand_.plan.prompt_tokens;
  UpdateMetrics();
  return on_reserved;
}

void ReservationQueue::Leave(Ticket& ticket) {
  OnReserved forgotten;  // destroyed without the lock: it may own anything
  {
    std::lock_guard lock(mutex_);
    StopCounting(ticket);
    Charge(ticket, 0);
    if (client_bytes_[ticket.demand_.client] == 0) client_bytes_.erase(ticket.demand_.client);
    forgotten = LeaveLine(ticket);
  }
  // The next in line may need less than the one that left.
  ServeLine();
}

// One thread at a time: a served request may return pages at once, and must not recurse.
void ReservationQueue::ServeLine() {
  std::unique_lock lock(mutex_);
  serve_again_ = true;
  if (std::exchange(serving_, true)) return;
  while (std::exchange(serve_again_, false)) {
    absl::StatusOr<Cache> cache;
    OnReserved on_reserved;
    while (TakeFirst(&on_reserved, &cache)) {
      lock.unlock();
      on_reserved(std::move(cache));
      on_reserved = nullptr;
      lock.lock();
    }
  }
  serving_ = false;
}

bool ReservationQueue::TakeFirst(OnReserved* on_reserved, absl::StatusOr<Cache>* cache) {
  if (line_.empty()) return false;
  Ticket& first = *line_.begin()->second.ticket;
  const absl::Status memory = UnlessOutOfMemory([&] {
    *cache = ReserveNow(first);
    return absl::OkStatus();
  });
  // Nobody waits for memory outside the pool: nothing signals when it is freed.
  if (!memory.ok()) *cache = memory;
  if (memory.ok() && absl::IsResourceExhausted(cache->status())) return false;
  *on_reserved = LeaveLine(first);
  return true;
}

}  // namespace kvship
