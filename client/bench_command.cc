#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/commands.h"

namespace kvship {
namespace {

// What the requests of a run took.
struct Measured {
  std::vector<double> first_token_ms;     // seen from here, the network included
  std::vector<double> total_ms;           // likewise
  std::vector<double> between_tokens_ms;  // each request's mean
  size_t output_tokens = 0;
  size_t num_errors = 0;
  absl::Status last_error;
};

// The value that a share of the sorted values does not exceed.
double Percentile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const double rank = share * static_cast<double>(sorted.size() - 1);
  return sorted[static_cast<size_t>(std::lround(rank))];
}

void RunOne(GenerationClient& client, const v1::GenerateRequest& request, absl::Duration timeout,
            std::mutex& mutex, Measured* measured) {
  const absl::Time begin = absl::Now();
  absl::Time first = absl::InfiniteFuture();
  const auto report =
      client.Generate(request, begin + timeout, [&](const v1::GenerateResponse& response) {
        if (response.has_output()) first = std::min(first, absl::Now());
      });
  const absl::Time end = absl::Now();
  std::lock_guard lock(mutex);
  if (!report.ok()) {
    ++measured->num_errors;
    measured->last_error = report.status();
    return;
  }
  const uint32_t tokens = report->usage().output_tokens();
  measured->output_tokens += tokens;
  measured->first_token_ms.push_back(absl::ToDoubleMilliseconds(first - begin));
  measured->total_ms.push_back(absl::ToDoubleMilliseconds(end - begin));
  if (tokens > 1) {
    measured->between_tokens_ms.push_back(absl::ToDoubleMilliseconds(end - first) / (tokens - 1));
  }
}

constexpr double kShares[] = {0.5, 0.9, 0.99};

void PrintRow(const char* name, const std::vector<double>& sorted) {
  std::printf("%-24s", name);
  for (double share : kShares) std::printf(" %10.1f", Percentile(sorted, share));
  std::printf("\n");
}

nlohmann::ordered_json Percentiles(const std::vector<double>& sorted) {
  return {{"p50", Percentile(sorted, 0.5)},
          {"p90", Percentile(sorted, 0.9)},
          {"p99", Percentile(sorted, 0.99)}};
}

}  // namespace

absl::Status BenchCommand::Run(GenerationClient& client) const {
  Measured measured;
  std::mutex mutex;
  std::atomic<size_t> next{0};
  const absl::Time begin = absl::Now();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < concurrency; ++i) {
    threads.emplace_back([&] {
      while (next++ < num_requests) RunOne(client, request, timeout, mutex, &measured);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);

  const size_t num_succeeded = measured.total_ms.size();
  if (num_succeeded == 0) return measured.last_error;
  const double tokens_per_second = static_cast<double>(measured.output_tokens) / seconds;
  for (auto* values : {&measured.first_token_ms, &measured.total_ms, &measured.between_tokens_ms}) {
    std::sort(values->begin(), values->end());
  }
  if (json) {
    const nlohmann::ordered_json record = {
        {"requests", num_succeeded},
        {"errors", measured.num_errors},
        {"seconds", seconds},
        {"output_tokens_per_second", tokens_per_second},
        {"first_token_ms", Percentiles(measured.first_token_ms)},
        {"between_tokens_ms", Percentiles(measured.between_tokens_ms)},
        {"total_ms", Percentiles(measured.total_ms)}};
    std::printf("%s\n", record.dump().c_str());
    return absl::OkStatus();
  }
  std::printf("%-24s %10s %10s %10s\n", "milliseconds", "p50", "p90", "p99");
  PrintRow("time to first token", measured.first_token_ms);
  PrintRow("time between tokens", measured.between_tokens_ms);
  PrintRow("total", measured.total_ms);
  std::printf("%zu requests, %zu errors, %.1f s, %.1f output tokens/s\n", num_succeeded,
              measured.num_errors, seconds, tokens_per_second);
  if (measured.num_errors > 0) {
    std::fprintf(stderr, "last error: %s\n", std::string(measured.last_error.message()).c_str());
  }
  return absl::OkStatus();
}

}  // namespace kvship
