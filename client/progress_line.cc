#include "client/progress_line.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace kvship {

std::string ProgressText(const v1::GenerateProgress& progress, int step_percent) {
  if (progress.phase() != v1::GenerateProgress::PHASE_PREFILL) return "queued";
  const int percent = static_cast<int>(100 * progress.fraction()) / step_percent * step_percent;
  return absl::StrCat("reading the prompt of ", progress.prompt_tokens(), " tokens: ", percent,
                      " %");
}

ProgressLine::ProgressLine(bool enabled)
    : enabled_(enabled), is_terminal_(isatty(STDERR_FILENO) == 1) {}

void ProgressLine::Show(const v1::GenerateProgress& progress) {
  // In a file every step is a line of its own.
  const std::string text = ProgressText(progress, is_terminal_ ? 1 : 20);
  if (!enabled_ || text == shown_) return;
  // "\x1b[K" clears what the last, longer text left behind.
  std::fprintf(stderr, is_terminal_ ? "\r%s\x1b[K" : "%s\n", text.c_str());
  std::fflush(stderr);
  shown_ = text;
}

void ProgressLine::Clear() {
  if (is_terminal_ && !shown_.empty()) std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  shown_.clear();
}

}  // namespace kvship
