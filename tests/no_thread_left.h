// NoThreadLeft takes all threads that the system has for this process, as long as it lives.
#pragma once

#include <future>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/address_limit.h"

namespace kvship {

class NoThreadLeft {
 public:
  NoThreadLeft() {
    // Stacks of threads that have ended are used again.
    try {
      while (true) threads_.emplace_back([ended = ended_] { ended.wait(); });
    } catch (const std::system_error&) {
    }
  }
  ~NoThreadLeft() {
    end_.set_value();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  const AddressLimit limit_{size_t{4} << 20};  // less than a stack
  std::promise<void> end_;
  const std::shared_future<void> ended_ = end_.get_future().share();
  std::vector<std::thread> threads_;
};

}  // namespace kvship
