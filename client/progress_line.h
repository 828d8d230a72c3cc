// ProgressLine tells a person on standard error what a request is waiting for, over and over on the
// same line where that is a terminal. Not thread safe.
#pragma once

#include <string>

#include "kvship/v1/generation.pb.h"

namespace kvship {

class ProgressLine {
 public:
  // Says nothing unless `enabled`.
  explicit ProgressLine(bool enabled);

  void Show(const v1::GenerateProgress& progress);
  // Takes the line away before other output.
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
