// NoThreadLeft takes all threads that the system has for this process, as long as it lives: the
// process may take no more addresses than there are, and a little, and each thread's stack takes
// some. Not under sanitizers, which take more addresses themselves.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>
#include <future>
#include <system_error>
#include <thread>
#include <vector>

namespace kvship {

class NoThreadLeft {
 public:
  NoThreadLeft() {
    getrlimit(RLIMIT_AS, &before_);
    size_t num_pages = 0;
    std::ifstream("/proc/self/statm") >> num_pages;
    const size_t taken = num_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const rlimit limit = {.rlim_cur = taken + kMoreBytes, .rlim_max = before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    // Stacks of threads that have ended are used again.
    try {
      while (true) threads_.emplace_back([ended = ended_] { ended.wait(); });
    } catch (const std::system_error&) {
    }
  }
  ~NoThreadLeft() {
    setrlimit(RLIMIT_AS, &before_);
    end_.set_value();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  // Less than a stack.
  static constexpr size_t kMoreBytes = size_t{4} << 20;

  rlimit before_ = {};
  std::promise<void> end_;
  const std::shared_future<void> ended_ = end_.get_future().share();
  std::vector<std::thread> threads_;
};

}  // namespace kvship
