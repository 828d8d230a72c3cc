#include "client/load_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_format.h"

namespace kvship {
namespace {

struct Named {
  const char* name;
  double share;
};
constexpr Named kShares[] = {{"p50", 0.5},  {"p90", 0.9},     {"p95", 0.95},
                             {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};

bool IsGood(const LoadRequestResult& result, const LatencyTargets& targets) {
  if (!result.status.ok() || result.first_token > targets.first_token) return false;
  const auto& gaps = result.between_tokens;
  if (gaps.empty()) return true;
  return std::accumulate(gaps.begin(), gaps.end(), absl::ZeroDuration()) / gaps.size() <=
         targets.between_tokens;
}

double PerSecond(size_t count, const LoadReport& report) {
  return report.seconds > 0 ? static_cast<double>(count) / report.seconds : 0;
}

nlohmann::ordered_json Percentiles(const std::vector<double>& ascending) {
  nlohmann::ordered_json out = {{"count", ascending.size()}};
  for (const Named& share : kShares) out[share.name] = Percentile(ascending, share.share);
  return out;
}

}  // namespace

LoadReport MakeLoadReport(const std::vector<LoadRequestResult>& results,
                          const LatencyTargets& targets, absl::Duration duration) {
  LoadReport report;
  report.num_requests = results.size();
  report.seconds = absl::ToDoubleSeconds(duration);
  for (const LoadRequestResult& result : results) {
    if (!result.status.ok()) {
      ++report.errors[absl::StatusCodeToString(result.status.code())];
      report.last_error = std::string(result.status.message());
      continue;
    }
    report.num_good += IsGood(result, targets);
    report.first_token_ms.push_back(absl::ToDoubleMilliseconds(result.first_token));
    report.total_ms.push_back(absl::ToDoubleMilliseconds(result.total));
    for (absl::Duration gap : result.between_tokens) {
      report.between_tokens_ms.push_back(absl::ToDoubleMilliseconds(gap));
    }
    report.prompt_tokens += result.prompt_tokens;
    report.reused_tokens += result.reused_tokens;
    report.output_tokens += result.output_tokens;
    report.uncompressed_bytes += result.uncompressed_bytes;
    report.shipped_bytes += result.shipped_bytes;
  }
  for (auto* values : {&report.first_token_ms, &report.between_tokens_ms, &report.total_ms}) {
    std::sort(values->begin(), values->end());
  }
  return report;
}

double Percentile(const std::vector<double>& ascending, double share) {
  if (ascending.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(ascending.size()));
  return ascending[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

std::string LoadReportText(const LoadReport& report) {
  std::string out = absl::StrFormat("%-22s", "milliseconds");
  for (const Named& share : kShares) absl::StrAppendFormat(&out, " %10s", share.name);
  const auto row = [&out](const char* name, const std::vector<double>& ascending) {
    absl::StrAppendFormat(&out, "\n%-22s", name);
    for (const Named& share : kShares) {
      absl::StrAppendFormat(&out, " %10.1f", Percentile(ascending, share.share));
    }
  };
  row("time to first token", report.first_token_ms);
  row("time between tokens", report.between_tokens_ms);
  row("total", report.total_ms);
  absl::StrAppendFormat(
      &out, "\n%d of %d requests succeeded in %.1f s: %.2f per second, %.2f good; ",
      report.total_ms.size(), report.num_requests, report.seconds,
      PerSecond(report.total_ms.size(), report), PerSecond(report.num_good, report));
  absl::StrAppendFormat(&out, "tokens per second: %.0f in, %.1f out\n",
                        PerSecond(report.prompt_tokens, report),
                        PerSecond(report.output_tokens, report));
  if (report.reused_tokens > 0) {
    absl::StrAppendFormat(&out, "prompts that begin alike: %.1f %% of the tokens not read anew\n",
                          100.0 * static_cast<double>(report.reused_tokens) /
                              static_cast<double>(report.prompt_tokens));
  }
  if (report.shipped_bytes > 0) {
    absl::StrAppendFormat(
        &out, "KV caches: %.1f MB shipped, %.1f x fewer bytes\n", report.shipped_bytes * 1e-6,
        static_cast<double>(report.uncompressed_bytes) / static_cast<double>(report.shipped_bytes));
  }
  for (const auto& [code, count] : report.errors) {
    absl::StrAppendFormat(&out, "%d x %s\n", count, code);
  }
  if (!report.errors.empty()) absl::StrAppendFormat(&out, "last error: %s\n", report.last_error);
  return out;
}

nlohmann::ordered_json LoadReportJson(const LoadReport& report) {
  return {{"requests", report.num_requests},
          {"succeeded", report.total_ms.size()},
          {"good", report.num_good},
          {"errors", report.errors},
          {"seconds", report.seconds},
          {"requests_per_second", PerSecond(report.total_ms.size(), report)},
          {"goodput_per_second", PerSecond(report.num_good, report)},
          {"prompt_tokens_per_second", PerSecond(report.prompt_tokens, report)},
          {"reused_tokens", report.reused_tokens},
          {"output_tokens_per_second", PerSecond(report.output_tokens, report)},
          {"uncompressed_bytes", report.uncompressed_bytes},
          {"shipped_bytes", report.shipped_bytes},
          {"first_token_ms", Percentiles(report.first_token_ms)},
          {"between_tokens_ms", Percentiles(report.between_tokens_ms)},
          {"total_ms", Percentiles(report.total_ms)}};
}

}  // namespace kvship
