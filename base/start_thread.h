// StartThread starts a thread that the process cannot do without. If the system has none left, it
// logs what the thread was for and exits with code 1, without an orderly shutdown: gRPC would wait
// in it for threads that it did not get either. Thread safe.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <thread>

namespace kvship {

// Advice for the end of a message about too few threads.
inline constexpr char kMoreThreadsWanted[] =
    "; wanted fewer --threads, or a limit (ulimit -u, pids.max of a control group) that lets this "
    "process have more";

// `name` is for messages: "the admin port".
std::thread StartThread(const std::string& name, std::function<void()> run);

// Checks that so many threads can run at once, for a user, `name`, that would fail in a worse way.
void CheckThreadsAreLeft(const std::string& name, size_t num_threads);

}  // namespace kvship
