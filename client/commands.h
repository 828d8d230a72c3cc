// The commands of the `kvship` program. Each returns its error; answers go to standard output, what
// is said about them to standard error.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/capacity_plan.h"
#include "client/generation_client.h"
#include "client/load_report.h"
#include "client/load_run.h"

namespace kvship {

// kvship generate: one answer.
struct GenerateCommand {
  v1::GenerateRequest request = {};
  absl::Duration timeout = absl::InfiniteDuration();
  bool progress = false;         // a line on standard error while there is no output yet
  bool report = false;           // a table on standard error at the end
  bool json = false;             // the record on standard output instead of the text
  std::string report_file = {};  // the record into this file

  absl::Status Run(GenerationClient& client) const;
};

// kvship chat: a conversation, a line of standard input at a time. `request` carries the options
// and, in its chat, what goes before the first line.
struct ChatCommand {
  v1::GenerateRequest request = {};
  absl::Duration timeout = absl::InfiniteDuration();
  bool progress = false;

  absl::Status Run(GenerationClient& client) const;
};

// kvship bench: many requests, at planned times or so many at a time, and how long they took.
struct BenchCommand {
  LoadRun::Options run = {};
  std::vector<PlannedRequest> plan = {};
  LatencyTargets targets = {};
  bool progress = false;  // a line on standard error each second
  bool json = false;

  // The last error if no request succeeded; the errors of others are counted.
  absl::Status Run(GenerationClient& client) const;
};

// kvship plan: what a load takes of GPUs and links. Asks no server.
struct PlanCommand {
  std::string model = {};        // a path, or a shape's name
  std::string gpu = {};          // a name, or TFLOPS:GB/S:GB
  std::string compression = {};  // where it differs from the measured default
  PlannedLoad load = {};
  bool json = false;

  absl::Status Run() const;
};

// kvship models: what the server runs.
absl::Status RunModels(GenerationClient& client, absl::Duration timeout, bool json);

}  // namespace kvship
