// A library for LD_PRELOAD that makes the wall clock of a process jump: by as many seconds as the
// file named by KVSHIP_CLOCK_JUMP holds, a 64-bit number that may change at any time. The monotonic
// clock goes on.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace {

int64_t Jump() {
  static const volatile int64_t* const jump = [] {
    const char* path = std::getenv("KVSHIP_CLOCK_JUMP");
    const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void* mapped = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    return mapped == MAP_FAILED ? nullptr : static_cast<const volatile int64_t*>(mapped);
  }();
  return jump == nullptr ? 0 : *jump;
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* now) {
  const int failed = static_cast<int>(syscall(SYS_clock_gettime, clock, now));
  if (failed == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    now->tv_sec += Jump();
  }
  return failed;
}

extern "C" int gettimeofday(timeval* now, void*) {
  timespec precise = {};
  clock_gettime(CLOCK_REALTIME, &precise);
  *now = {.tv_sec = precise.tv_sec, .tv_usec = precise.tv_nsec / 1000};
  return 0;
}

extern "C" time_t time(time_t* out) {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}
