#include "decode_service/prefill_addresses.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/start_thread.h"
#include "decode_service/prefill_targets.h"

namespace kvship {
namespace {

// Time for look-ups in progress to end; slower ones are abandoned.
constexpr absl::Duration kGrace = absl::Milliseconds(500);

}  // namespace

struct PrefillAddresses::State {
  State(LookUp look_up, absl::Duration interval, std::function<void(const ServerNames&)> changed)
      : look_up(std::move(look_up)), interval(interval), changed(std::move(changed)) {}

  const LookUp look_up;
  const absl::Duration interval;
  const std::function<void(const ServerNames&)> changed;
  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;
  size_t num_threads = 0;
  std::map<std::string, std::set<std::string>> found;  // by target

  void TellLocked() const {
    ServerNames names;
    for (const auto& [target, addresses] : found) {
      for (const std::string& address : addresses) names[address] = ServerNameOf(target);
    }
    changed(names);
  }
};

PrefillAddresses::PrefillAddresses(const std::vector<std::string>& targets, LookUp look_up,
                                   absl::Duration interval,
                                   std::function<void(const ServerNames&)> changed)
    : state_(std::make_shared<State>(std::move(look_up), interval, std::move(changed))) {
  std::lock_guard lock(state_->mutex);
  for (const std::string& target : targets) {
    if (!IsName(target)) {
      state_->found[target] = {target};
      continue;
    }
    ++state_->num_threads;
    StartThread(absl::StrCat("the name ", target), [state = state_, target] {
      LookUpAgainAndAgain(*state, target);
    }).detach();
  }
  state_->TellLocked();
}

PrefillAddresses::~PrefillAddresses() {
  std::unique_lock lock(state_->mutex);
  state_->stop = true;
  state_->wake.notify_all();
  state_->wake.wait_for(lock, absl::ToChronoMilliseconds(kGrace),
                        [this] { return state_->num_threads == 0; });
}

void PrefillAddresses::LookUpAgainAndAgain(State& state, const std::string& target) {
  std::unique_lock lock(state.mutex);
  while (!state.stop) {
    lock.unlock();
    std::set<std::string> found = state.look_up(target);
    lock.lock();
    if (state.stop) break;
    // A name server that does not answer says nothing about the nodes.
    if (!found.empty()) state.found[target] = std::move(found);
    state.TellLocked();
    state.wake.wait_for(lock, absl::ToChronoNanoseconds(state.interval),
                        [&state] { return state.stop; });
  }
  --state.num_threads;
  state.wake.notify_all();
}

}  // namespace kvship
