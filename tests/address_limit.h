// AddressLimit is a bound on what this process takes of addresses: what it has, and a little. Not
// under sanitizers, which take more themselves.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>

namespace kvship {

class AddressLimit {
 public:
  explicit AddressLimit(size_t more_bytes) {
    getrlimit(RLIMIT_AS, &before_);
    size_t num_pages = 0;
    std::ifstream("/proc/self/statm") >> num_pages;
    const rlimit limit = {
        .rlim_cur = num_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + more_bytes,
        .rlim_max = before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
  }
  ~AddressLimit() { setrlimit(RLIMIT_AS, &before_); }
  AddressLimit(const AddressLimit&) = delete;
  AddressLimit& operator=(const AddressLimit&) = delete;

 private:
  rlimit before_ = {};
};

}  // namespace kvship
