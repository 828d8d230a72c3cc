// PrefillAddresses keeps the addresses of prefill nodes current. Each name has its own look-up
// thread: a silent name server may block it for minutes, and neither other names nor shutdown wait
// for it. Thread safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace kvship {

class PrefillAddresses {
 public:
  // The servers' names ("host:port", as certificates have them) by address.
  using ServerNames = std::map<std::string, std::string>;
  // Resolves a target (prefill_targets.h) to addresses; empty: unknown now. May block.
  using LookUp = std::function<std::set<std::string>(const std::string& target)>;

  // Calls `changed` with the addresses that need no look-up, and then after each look-up with all
  // that are known: one call at a time, the first from here, none once this is destroyed.
  PrefillAddresses(const std::vector<std::string>& targets, LookUp look_up, absl::Duration interval,
                   std::function<void(const ServerNames&)> changed);
  ~PrefillAddresses();

 private:
  struct State;

  static void LookUpAgainAndAgain(State& state, const std::string& target);

  const std::shared_ptr<State> state_;  // shared with the threads
};

}  // namespace kvship
