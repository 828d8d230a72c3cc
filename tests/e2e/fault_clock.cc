// A library for LD_PRELOAD that makes the wall clock of a process jump: by as many seconds as the
// file named by KVSHIP_CLOCK_JUMP holds, a 64-bit number that may change at any time. The monotonic
// clock goes on. Abseil's waits, which are gRPC's, follow the wall clock while they last, as Linux
// has it; nothing else in a server waits by it.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
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

using Syscall = long (*)(long, ...);

// Without a guard, which waits by syscall where two threads come first.
Syscall RealSyscall() {
  static std::atomic<Syscall> real{nullptr};
  if (real == nullptr) real = reinterpret_cast<Syscall>(dlsym(RTLD_NEXT, "syscall"));
  return real;
}

// A wait notices a jump after that long at the latest.
constexpr double kSliceSeconds = 0.02;

double SecondsUntil(const timespec& end) {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(end.tv_sec - now.tv_sec) +
         static_cast<double>(end.tv_nsec - now.tv_nsec) * 1e-9;
}

// The end of the next slice of a wait, by the true wall clock.
timespec SliceEnd(double seconds_left) {
  timespec end = {};
  RealSyscall()(SYS_clock_gettime, CLOCK_REALTIME, &end);
  end.tv_nsec += static_cast<int64_t>(std::clamp(seconds_left, 0.0, kSliceSeconds) * 1e9);
  end.tv_sec += end.tv_nsec / 1'000'000'000;
  end.tv_nsec %= 1'000'000'000;
  return end;
}

}  // namespace

extern "C" long syscall(long number, ...) {
  long arguments[6];
  va_list rest;
  va_start(rest, number);
  for (long& argument : arguments) argument = va_arg(rest, long);
  va_end(rest);
  const auto [a, operation, c, time, e, f] = arguments;
  const auto* end = reinterpret_cast<const timespec*>(time);
  const bool waits_by_wall_clock = number == SYS_futex && (operation & FUTEX_CLOCK_REALTIME) != 0 &&
                                   (operation & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET &&
                                   end != nullptr;
  if (!waits_by_wall_clock) return RealSyscall()(number, a, operation, c, time, e, f);
  long result = 0;
  do {
    const timespec slice_end = SliceEnd(SecondsUntil(*end));
    result = RealSyscall()(number, a, operation, c, &slice_end, e, f);
  } while (result < 0 && errno == ETIMEDOUT && SecondsUntil(*end) > 0);
  return result;
}

extern "C" int clock_gettime(clockid_t clock, timespec* now) {
  const int failed = static_cast<int>(RealSyscall()(SYS_clock_gettime, clock, now));
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
