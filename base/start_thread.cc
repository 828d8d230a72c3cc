#include "base/start_thread.h"

#include <unistd.h>

#include <future>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace kvship {

std::thread StartThread(const std::string& name, std::function<void()> run) {
  try {
    return std::thread(std::move(run));
  } catch (const std::system_error& error) {
    LogError(absl::StrCat("the system has no thread left for ", name, ": ", error.what(),
                          kMoreThreadsWanted));
    _exit(1);
  }
}

void CheckThreadsAreLeft(const std::string& name, size_t num_threads) {
  std::promise<void> all_are_there;
  const std::shared_future<void> end = all_are_there.get_future().share();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < num_threads; ++i) {
    threads.push_back(StartThread(name, [end] { end.wait(); }));
  }
  all_are_there.set_value();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace kvship
