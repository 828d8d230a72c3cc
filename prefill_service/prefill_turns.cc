// The scheduling policy of PrefillScheduler: which request runs next.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/out_of_memory.h"
#include "prefill_service/prefill_request.h"
#include "prefill_service/prefill_scheduler.h"

namespace kvship {
namespace {

// Time to answer Ready while others run; a client silent for longer blocks nobody behind it.
constexpr absl::Duration kPatience = absl::Milliseconds(500);

// Seconds of waiting that outweigh one more second of work. Larger: long requests wait longer.
constexpr double kAgeing = 2;

}  // namespace

void PrefillScheduler::Estimate() {
  has_prefixes_ = reader_.prefix_cache_bytes() > 0;
  if (!has_prefixes_) return;
  for (const auto& request : requests_) {
    if (std::exchange(request->is_estimated, true) || request->job != nullptr) continue;
    UnlessOutOfMemory([&] {
      request->remaining_tokens -= static_cast<double>(reader_.CountReusable(request->task));
      return absl::OkStatus();
    }).IgnoreError();  // then it is scheduled as without a cache hit
  }
}

size_t PrefillScheduler::UnreadTokens() const {
  double unread_tokens = 0;
  for (const auto& request : requests_) {
    // What is left of its prompt is not known yet; the decode node that sent it counts it
    // meanwhile.
    if (has_prefixes_ && !request->is_estimated) continue;
    unread_tokens += request->unread_tokens();
  }
  return static_cast<size_t>(std::llround(unread_tokens));
}

double PrefillScheduler::KeyOf(const Request& request) const {
  return absl::ToDoubleSeconds(request.arrived - absl::UnixEpoch()) +
         kAgeing * rate_.SecondsFor(request.remaining_tokens);
}

void PrefillScheduler::Sort() {
  std::stable_sort(requests_.begin(), requests_.end(),
                   [this](const auto& a, const auto& b) { return KeyOf(*a) < KeyOf(*b); });
}

bool PrefillScheduler::Blocked(const Request& request) const {
  // A slow reader must not block requests packed with it; they ship little.
  if (request.job != nullptr && request.job->is_packed()) return false;
  return request.channel->unsent_bytes() > options_.max_outbox_bytes;
}

void PrefillScheduler::AddTo(Load* load, const Request& request) const {
  // An idle engine must not wait for slow readers. The bytes that they hold are bounded.
  load->num_requests += !Blocked(request);
  load->run_bytes += request.run_bytes;
}

bool PrefillScheduler::HasRoom(const Load& load, const Request& request) const {
  return load.num_requests < options_.max_active_requests &&
         load.run_bytes + request.run_bytes <= options_.max_active_bytes;
}

PrefillScheduler::Load PrefillScheduler::Begun() const {
  Load begun;
  for (const auto& request : requests_) {
    if (request->job != nullptr) AddTo(&begun, *request);
  }
  return begun;
}

size_t PrefillScheduler::UnsentBytes() const {
  size_t num_bytes = 0;
  for (const auto& request : requests_) {
    if (request->has_begun()) num_bytes += request->channel->unsent_bytes();
  }
  return num_bytes;
}

std::shared_ptr<PrefillScheduler::Request> PrefillScheduler::NextToRun() {
  const Load begun = Begun();
  bool may_begin = UnsentBytes() <= options_.max_unsent_bytes;
  for (const auto& request : requests_) {
    if (request->state != Request::State::kRunning || Blocked(*request)) continue;
    if (request->job != nullptr) return request;
    // No later request starts first: a stream of short ones would starve a long one.
    may_begin = may_begin && HasRoom(begun, *request);
    if (may_begin) return request;
  }
  return nullptr;
}

PrefillScheduler::Requests PrefillScheduler::PackFrom(const std::shared_ptr<Request>& first) {
  Requests pack = {first};
  size_t room_tokens = reader_.pack_tokens();
  room_tokens -= std::min(room_tokens, first->num_tokens());
  Load begun = Begun();
  AddTo(&begun, *first);
  for (const auto& request : requests_) {
    if (request == first || request->state != Request::State::kRunning || request->job != nullptr ||
        request->num_tokens() > room_tokens || !HasRoom(begun, *request)) {
      continue;
    }
    room_tokens -= request->num_tokens();
    AddTo(&begun, *request);
    pack.push_back(request);
  }
  return pack;
}

// Sends Ready one run ahead of those that run (to one request, or to as many short ones as fit into
// a run), so that the clients have answered when their turn comes. A silent client holds no memory
// here and no place in line; if it sends Go after all, its run starts when there is room.
void PrefillScheduler::SendReady(absl::Time now) {
  const absl::Duration patience = NextToRun() == nullptr ? kIdlePatience : kPatience;
  const auto is_silent = [now, patience](const Request& request) {
    return request.awaits_go() && now - request.became_ready > patience;
  };
  Load active;
  for (const auto& request : requests_) {
    if (request->is_active() && !is_silent(*request)) AddTo(&active, *request);
  }
  // A request that could not start would hold its decode node's memory for nothing.
  const bool may_begin = !draining_ && UnsentBytes() <= options_.max_unsent_bytes;
  size_t next_tokens = 0;  // of earlier requests that were sent Ready and have not started
  for (const auto& request : requests_) {
    if (request->is_queued()) {
      if (!may_begin || !HasRoom(active, *request)) return;
      if (next_tokens > 0 && next_tokens + request->num_tokens() > reader_.pack_tokens()) {
        return;
      }
      request->TellReady(now);
      AddTo(&active, *request);
    }
    if (!request->has_begun() && !is_silent(*request)) next_tokens += request->num_tokens();
  }
}

}  // namespace kvship
