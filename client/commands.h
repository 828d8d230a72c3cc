// The commands of the `kvship` program. Each returns its error and writes results to standard
// output, messages about them to standard error.
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

// kvship generate: runs one request.
struct GenerateCommand {
  v1::GenerateRequest request = {};
  absl::Duration timeout = absl::InfiniteDuration();
  bool progress = false;         // a line on standard error until there is output
  bool report = false;           // a table on standard error at the end
  bool json = false;             // print the record instead of the text
  std::string report_file = {};  // write the record to this file

  absl::Status Run(GenerationClient& client) const;
};

// kvship chat: a conversation, one line of standard input at a time. `request` carries the options
// and, in its chat, the messages before the first line.
struct ChatCommand {
  v1::GenerateRequest request = {};
  absl::Duration timeout = absl::InfiniteDuration();
  bool progress = false;

  absl::Status Run(GenerationClient& client) const;
};

// kvship bench: sends many requests, at planned times or with a fixed concurrency, and times them.
struct BenchCommand {
  LoadRun::Options run = {};
  std::vector<PlannedRequest> plan = {};
  LatencyTargets targets = {};
  bool progress = false;  // a line on standard error each second
  bool json = false;

  // Returns the last error if no request succeeded; other errors are only counted.
  absl::Status Run(GenerationClient& client) const;
};

// kvship plan: the GPUs and links that a load needs. Contacts no server.
struct PlanCommand {
  std::string model = {};        // a path, or a shape's name
  std::string gpu = {};          // a name, or TFLOPS:GB/S:GB
  std::string compression = {};  // if it differs from the measured default
  PlannedLoad load = {};
  bool json = false;

  absl::Status Run() const;
};

// kvship models: shows the model that the server runs.
absl::Status RunModels(GenerationClient& client, absl::Duration timeout, bool json);

}  // namespace kvship
