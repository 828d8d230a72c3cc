#include "client/load_plan.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/random.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

constexpr double kMostTokens = kMostPlannedTokens;
// A count of milliseconds that double still tells apart: also those since 1970.
constexpr double kMostTimestampMs = int64_t{1} << 53;
// A lognormal has no largest value, a model's context has.
constexpr double kMostMedians = 32;

// In (0, 1].
double Uniform(uint64_t seed, uint64_t index) { return 1 - UniformUnit(seed, index); }

// Streams of draws that do not meet.
constexpr uint64_t kArrivals = 1, kPrompts = 2, kOutputs = 3, kBlocks = 4;
uint64_t StreamSeed(uint64_t seed, uint64_t stream) { return RandomBits(seed, stream); }

absl::StatusOr<double> NumberOf(const nlohmann::json& line, const char* field, double most,
                                absl::string_view where) {
  const auto at = line.find(field);
  if (at == line.end() || !at->is_number() || at->get<double>() < 0 || at->get<double>() > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": field '", field, "' is ", at == line.end() ? "missing" : at->dump(),
                     "; wanted a number from 0 to ", absl::StrFormat("%.0f", most)));
  }
  return at->get<double>();
}

absl::StatusOr<std::vector<uint64_t>> BlockIdsOf(const nlohmann::json& line,
                                                 absl::string_view where) {
  std::vector<uint64_t> ids;
  const auto at = line.find("hash_ids");
  if (at == line.end()) return ids;
  const bool is_list = at->is_array() && std::all_of(at->begin(), at->end(), [](const auto& id) {
                         return id.is_number_unsigned();
                       });
  if (!is_list) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": field 'hash_ids' is ",
                                                   at->dump().substr(0, 100),
                                                   "; wanted a list of integers of at least 0"));
  }
  return at->get<std::vector<uint64_t>>();
}

}  // namespace

std::vector<uint32_t> PlannedPrompt(const PlannedRequest& planned, uint64_t seed, uint64_t index,
                                    uint32_t vocab_tokens) {
  std::vector<uint32_t> ids(planned.prompt_tokens);
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t block = i / kTraceBlockTokens;
    const bool is_shared = block < planned.block_ids.size();
    const uint64_t bits =
        is_shared ? RandomBits(RandomBits(StreamSeed(seed, kBlocks), planned.block_ids[block]),
                               i % kTraceBlockTokens)
                  : RandomBits(RandomBits(seed, index), i);
    ids[i] = static_cast<uint32_t>(bits % vocab_tokens);
  }
  return ids;
}

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(absl::string_view field,
                                                             absl::string_view text) {
  const absl::Status wrong = absl::InvalidArgumentError(
      absl::StrCat(field, " is '", text, "'; wanted a number of tokens from 1 to ",
                   kMostPlannedTokens, ", uniform:LEAST:MOST or lognormal:MEDIAN:SIGMA"));
  const auto is_length = [](double tokens) { return tokens >= 1 && tokens <= kMostTokens; };
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  LengthDistribution out;
  if (parts.size() == 1) {
    if (!absl::SimpleAtod(parts[0], &out.first_) || !is_length(out.first_)) return wrong;
    return out;
  }
  if (parts.size() != 3 || !absl::SimpleAtod(parts[1], &out.first_) ||
      !absl::SimpleAtod(parts[2], &out.second_) || !is_length(out.first_)) {
    return wrong;
  }
  if (parts[0] == "uniform" && is_length(out.second_) && out.second_ >= out.first_) {
    out.kind_ = Kind::kUniform;
  } else if (parts[0] == "lognormal" && out.second_ >= 0) {
    out.kind_ = Kind::kLogNormal;
  } else {
    return wrong;
  }
  return out;
}

size_t LengthDistribution::Draw(uint64_t seed, uint64_t index) const {
  double tokens = first_;
  if (kind_ == Kind::kUniform) {
    tokens = std::min(second_, std::floor(first_ + Uniform(seed, index) * (second_ - first_ + 1)));
  } else if (kind_ == Kind::kLogNormal) {
    // Box and Muller's transform of two uniform draws.
    const double radius = std::sqrt(-2 * std::log(Uniform(seed, 2 * index)));
    const double normal = radius * std::cos(2 * std::numbers::pi * Uniform(seed, 2 * index + 1));
    tokens = std::min({kMostTokens, first_ * kMostMedians, first_ * std::exp(second_ * normal)});
  }
  return static_cast<size_t>(std::max(1.0, tokens));
}

std::vector<PlannedRequest> PlanPoisson(const LoadOptions& options) {
  std::vector<PlannedRequest> plan(options.num_requests);
  double gaps = 0;  // of one second on average
  for (size_t i = 0; i < plan.size(); ++i) {
    plan[i].at = absl::Seconds(gaps);
    plan[i].prompt_tokens = options.prompt_tokens.Draw(StreamSeed(options.seed, kPrompts), i);
    if (options.output_tokens.has_value()) {
      plan[i].output_tokens = options.output_tokens->Draw(StreamSeed(options.seed, kOutputs), i);
    }
    gaps -= std::log(Uniform(StreamSeed(options.seed, kArrivals), i));
  }
  // A Poisson process of so many arrivals within the time that the rate says: as drawn, twenty may
  // well come half as fast again.
  const double scale = static_cast<double>(plan.size()) / (gaps * options.requests_per_second);
  for (PlannedRequest& request : plan) request.at *= scale;
  return plan;
}

absl::StatusOr<std::vector<PlannedRequest>> ReadTrace(const std::string& path, double speed) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trace ", path, " is a directory; wanted a file of JSON lines"));
  }
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("the trace ", path, " cannot be opened"));
  std::vector<PlannedRequest> plan;
  double first_ms = 0;
  size_t number = 0;
  for (std::string text; std::getline(file, text);) {
    const std::string where = absl::StrCat(path, ":", ++number);
    if (text.empty()) continue;
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(where, " is no JSON object"));
    }
    ASSIGN_OR_RETURN(const double at_ms, NumberOf(line, "timestamp", kMostTimestampMs, where));
    ASSIGN_OR_RETURN(const double input, NumberOf(line, "input_length", kMostTokens, where));
    ASSIGN_OR_RETURN(const double output, NumberOf(line, "output_length", kMostTokens, where));
    ASSIGN_OR_RETURN(std::vector<uint64_t> block_ids, BlockIdsOf(line, where));
    if (plan.empty()) first_ms = at_ms;
    plan.push_back({.at = absl::Milliseconds(std::max(0.0, at_ms - first_ms) / speed),
                    .prompt_tokens = std::max<size_t>(1, static_cast<size_t>(input)),
                    .output_tokens = std::max<size_t>(1, static_cast<size_t>(output)),
                    .block_ids = std::move(block_ids)});
  }
  if (plan.empty())
    return absl::InvalidArgumentError(absl::StrCat("the trace ", path, " is empty"));
  std::stable_sort(plan.begin(), plan.end(),
                   [](const auto& a, const auto& b) { return a.at < b.at; });
  return plan;
}

}  // namespace kvship
