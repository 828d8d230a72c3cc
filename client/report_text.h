// Formats a request's result: the table that `kvship generate --report` prints, and the JSON record
// of --json and --report-file. Field names are those of kvship.v1.GenerateReport. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "kvship/v1/generation.pb.h"

namespace kvship {

// The result of one request.
struct Answer {
  std::string text;
  std::vector<v1::OutputToken> tokens;
  v1::GenerateReport report;
};

// {"text", "tokens", "finish_reason", "usage", "kv", "timing"}, and "logprobs" if there are any.
std::string AnswerJson(const Answer& answer);

// Lines of "name value".
std::string ReportTable(const v1::GenerateReport& report);

std::string ModelJson(const v1::ModelInfo& model);
std::string ModelTable(const v1::ModelInfo& model);

}  // namespace kvship
