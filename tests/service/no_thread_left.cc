#include "tests/service/no_thread_left.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <system_error>
#include <thread>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {
std::atomic<int> threads_left = INT_MAX;  // which is any number
}  // namespace

// The program's own comes before that of the C library, for libraries as well. A limit by the
// system would take memory along, or does not bind root.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*run)(void*), void* argument) noexcept {
  static const auto create =
      reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  const bool is_limited = threads_left != INT_MAX;
  return is_limited && threads_left-- <= 0 ? EAGAIN : create(thread, attributes, run, argument);
}

namespace kvship {

NoThreadLeft::NoThreadLeft(int num_threads) {
  threads_left = 0;
  EXPECT_THROW(std::thread([] {}), std::system_error);  // by a library, libstdc++
  threads_left = num_threads;
}

NoThreadLeft::~NoThreadLeft() { threads_left = INT_MAX; }

}  // namespace kvship

#else

namespace kvship {
NoThreadLeft::NoThreadLeft(int) {}
NoThreadLeft::~NoThreadLeft() = default;
}  // namespace kvship

#endif
