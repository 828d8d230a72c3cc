// StartThread starts a thread that a process cannot do without. Where the system has none left, it
// says for what and ends the process, with exit code 1: what has begun by then cannot be ended in
// order, as gRPC waits, at its end, for threads that it did not get either.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <thread>

namespace kvship {

// What to do where there are too few, for the end of a message.
inline constexpr char kMoreThreadsWanted[] =
    "; wanted fewer --threads, or a limit (ulimit -u, pids.max of a control group) that lets this "
    "process have more";

// `name` is for people: "the admin port".
std::thread StartThread(const std::string& name, std::function<void()> run);

// Starts and ends so many at once: what `name` stands for would fail in a worse way.
void CheckThreadsAreLeft(const std::string& name, size_t num_threads);

}  // namespace kvship
