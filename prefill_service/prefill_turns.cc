// Whose turn comes when: the part of PrefillScheduler that chooses.
#include <algorithm>
#include <utility>

#include "base/out_of_memory.h"
#include "prefill_service/prefill_request.h"
#include "prefill_service/prefill_scheduler.h"

namespace kvship {
namespace {

// For an answer to Ready; a client that is silent for longer holds up nobody behind it.
constexpr absl::Duration kPatience = absl::Milliseconds(500);

// How many seconds of waiting outweigh one second more of work. Larger: long requests wait longer.
constexpr double kAgeing = 2;

}  // namespace

void PrefillScheduler::Estimate() {
  if (reader_.prefix_cache_bytes() == 0) return;
  for (const auto& request : requests_) {
    if (std::exchange(request->is_estimated, true) || request->job != nullptr) continue;
    UnlessOutOfMemory([&] {
      request->remaining_tokens -= static_cast<double>(reader_.CountReusable(request->task));
      return absl::OkStatus();
    }).IgnoreError();  // then its turn comes as that of a prompt that nobody knows
  }
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
  // One slow reader must not hold up those packed with it; what they ship is little.
  if (request.job != nullptr && request.job->is_packed()) return false;
  return request.channel->unsent_bytes() > options_.max_outbox_bytes;
}

void PrefillScheduler::AddTo(Load* load, const Request& request) const {
  // An idle engine must not wait for slow readers. What these hold is bounded in bytes.
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
    // None behind it begins first: short ones that keep coming would keep a long one out for good.
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

// Beyond those that run, one request or as many short ones as fit into a run are told Ready, so
// that their clients' answers are there when their turn comes. Whoever is silent holds nothing here
// and takes nobody's place; says it Go after all, it begins when there is room.
void PrefillScheduler::SendReady(absl::Time now) {
  const auto is_silent = [now](const Request& request) {
    return request.state == Request::State::kReady && now - request.became_ready > kPatience;
  };
  Load active;
  for (const auto& request : requests_) {
    if (request->is_active() && !is_silent(*request)) AddTo(&active, *request);
  }
  // Who could not begin would hold its decode node's memory for nothing.
  const bool may_begin = !draining_ && UnsentBytes() <= options_.max_unsent_bytes;
  size_t next_tokens = 0;  // of those whose turn comes before, told Ready and not begun
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
