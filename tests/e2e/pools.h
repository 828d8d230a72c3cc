// Two pools of real processes, two prefill and two decode nodes with a tiny model, for tests that
// take some of them away.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/long_context_model.h"
#include "tests/e2e/processes.h"

namespace kvship {

class Pools {
 public:
  static constexpr size_t kNodes = 2;  // of each pool

  // `decode_flags` beside those that every decode node gets.
  explicit Pools(const std::vector<std::string>& decode_flags = {});

  Server& prefill(size_t i) { return *prefill_[i]; }
  Server& decode(size_t i) { return *decode_[i]; }
  std::vector<const Server*> nodes() const;  // all
  std::vector<std::string> decode_addresses() const;

  // All processes are ready, and every decode node knows that all prefill nodes serve.
  bool WaitUntilReady();

 private:
  const LongContextModel model_;
  std::vector<std::unique_ptr<Server>> prefill_;
  std::vector<std::unique_ptr<Server>> decode_;
};

}  // namespace kvship
