#include "tests/e2e/at_rest.h"

#include <filesystem>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

// Of both programs; each has its part of them.
const char* const kHeld[] = {
    "kvship_decode_pool_reserved_bytes",   "kvship_decode_sessions",
    "kvship_decode_waiting_prompt_tokens", "kvship_decode_line_prompt_tokens",
    "kvship_prefill_queue_requests",       "kvship_prefill_queue_tokens",
    "kvship_prefill_unread_tokens",        "kvship_prefill_active_requests",
    "kvship_prefill_sending_requests",     "kvship_prefill_outbox_bytes",
};

// gRPC starts threads when all it has are busy, and keeps a few of them. Fewer than the kills or
// cuts of a test, so that it shows if each of them leaves one.
constexpr size_t kThreadSlack = 5;
// Connections that are being made or closed.
constexpr size_t kDescriptorSlack = 4;
// gRPC's idle threads go, and connections that nobody uses are closed, within that time.
constexpr absl::Duration kTimeToShrink = absl::Minutes(1);

size_t NumEntries(const std::string& folder) {
  std::error_code ignored;
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator(folder, ignored), {}));
}

std::string HeldNow(int admin_port) {
  std::string held;
  const std::string metrics = HttpGet(admin_port, "/metrics");
  if (metrics.empty()) return "it does not answer on its admin port";
  for (const char* name : kHeld) {
    const double value = MetricIn(metrics, name);  // -1: another program's
    if (value > 0) absl::StrAppend(&held, name, " is ", value, "; ");
  }
  return held;
}

}  // namespace

AtRest::Use AtRest::Now() const {
  return {.threads = NumEntries(absl::StrCat("/proc/", pid_, "/task")),
          .descriptors = NumEntries(absl::StrCat("/proc/", pid_, "/fd"))};
}

std::string AtRest::LeftOver() const {
  if (!Eventually([this] { return HeldNow(admin_port_).empty(); })) return HeldNow(admin_port_);
  const bool is_back = Eventually(
      [this] {
        const Use now = Now();
        return now.threads <= first_.threads + kThreadSlack &&
               now.descriptors <= first_.descriptors + kDescriptorSlack;
      },
      kTimeToShrink);
  return is_back ? "" : Text();
}

std::string AtRest::Text() const {
  const Use now = Now();
  return absl::StrCat("threads ", first_.threads, ", then ", now.threads, "; descriptors ",
                      first_.descriptors, ", then ", now.descriptors);
}

}  // namespace kvship
