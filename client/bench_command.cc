#include <cstdio>

#include "base/clock.h"
#include "base/status_macros.h"
#include "client/commands.h"

namespace kvship {
namespace {

void TellProgress(const LoadRun::Progress& progress) {
  std::fprintf(stderr, "%6.1f s: %zu sent, %zu running, %zu succeeded, %zu failed\n",
               absl::ToDoubleSeconds(progress.since_begin), progress.num_sent, progress.num_running,
               progress.num_succeeded, progress.num_failed);
}

}  // namespace

absl::Status BenchCommand::Run(GenerationClient& client) const {
  ASSIGN_OR_RETURN(const v1::ModelInfo model,
                   client.GetModelInfo(std::min(run.timeout, absl::Seconds(10))));
  LoadRun::Options options = run;
  options.vocab_tokens = model.vocab_tokens();
  LoadRun load(client, std::move(options));
  const absl::Time begin = MonotonicNow();
  const std::vector<LoadRequestResult> results =
      load.Run(plan, [this](const LoadRun::Progress& now) {
        if (progress) TellProgress(now);
      });
  const LoadReport report = MakeLoadReport(results, targets, MonotonicNow() - begin);
  if (json) {
    std::printf("%s\n", LoadReportJson(report).dump().c_str());
  } else {
    std::printf("%s", LoadReportText(report).c_str());
  }
  return report.total_ms.empty() ? results.back().status : absl::OkStatus();
}

}  // namespace kvship
