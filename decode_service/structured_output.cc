#include "decode_service/structured_output.h"

#include <utility>

#include "base/clock.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"

namespace kvship {

StructuredOutput::StructuredOutput(std::unique_ptr<OutputMatcher> matcher, std::string client)
    : matcher_(std::move(matcher)), client_(std::move(client)) {}

void StructuredOutput::Follow(int32_t token) {
  absl::StatusOr<TokenMask> allowed;
  const absl::Status found = UnlessOutOfMemory([&]() -> absl::Status {
    if (const absl::Status status = matcher_->Accept(token); !status.ok()) {
      return absl::InternalError(status.message());
    }
    allowed = matcher_->Allowed();
    return absl::OkStatus();
  });
  if (!found.ok()) allowed = found;
  {
    std::lock_guard lock(mutex_);
    allowed_ = std::move(allowed);
  }
  known_.notify_one();
}

bool StructuredOutput::IsKnown(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  return known_.wait_until(lock, ToSteadyTime(deadline), [this] { return allowed_.has_value(); });
}

absl::StatusOr<TokenMask> StructuredOutput::TakeAllowed() {
  std::lock_guard lock(mutex_);
  return *std::exchange(allowed_, std::nullopt);
}

}  // namespace kvship
