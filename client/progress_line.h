// ProgressLine shows on standard error what a request is waiting for; on a terminal, it rewrites
// one line. Not thread safe.
#pragma once

#include <string>

#include "kvship/v1/generation.pb.h"

namespace kvship {

class ProgressLine {
 public:
  // Prints nothing unless `enabled`.
  explicit ProgressLine(bool enabled);

  void Show(const v1::GenerateProgress& progress);
  // Erases the line; call before other output.
  void Clear();

 private:
  const bool enabled_;
  const bool is_terminal_;
  std::string shown_;
};

// "queued", or "reading the prompt of 4096 tokens: 43 %", rounded down to a multiple of
// `step_percent`.
std::string ProgressText(const v1::GenerateProgress& progress, int step_percent);

}  // namespace kvship
