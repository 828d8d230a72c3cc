#include "client/capacity_plan.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "kv/policies.h"
#include "kv/sequence.h"

namespace kvship {
namespace {

// Shares of a datasheet's numbers, and times, measured on an H200 (bench/results/gpu-*.jsonl);
// docs/plan.md says how each was found, and the tests hold them to every measurement there.
constexpr double kProductShare = 0.65;       // of the operations per second, in a prompt's products
constexpr double kAttentionShare = 0.60;     // in its attention
constexpr double kReadingShare = 0.92;       // of the bytes per second
constexpr double kStepLayerSeconds = 40e-6;  // of a decode step, beside what it reads
constexpr double kCompressLayerSeconds = 42e-6;  // short kernels one after the other
// A window query's vote for one key, as operations at the datasheet's speed.
constexpr double kVoteOperations = 1090;

// What CUDA, activations and workspaces leave of the memory.
constexpr double kMemoryShare = 0.9;

// The share of the time that a node works: at 0.8, requests that arrive at random wait for twice
// their own time on average (M/D/1).
constexpr double kUtilization = 0.8;

// Of what machines have: Gbit/s, TFLOPS, GB/s and GB. Times of others overflow, or say nothing.
constexpr double kLeastOfMachines = 1e-3, kMostOfMachines = 1e6;
bool IsPlannable(double number) { return number >= kLeastOfMachines && number <= kMostOfMachines; }
std::string PlannableText() {
  return absl::StrCat("a number from ", kLeastOfMachines, " to ", kMostOfMachines);
}

constexpr double kBytesPerFloat16 = 2;

double ReadingSeconds(const Gpu& gpu, double bytes) {
  return bytes / (kReadingShare * gpu.bytes_per_second);
}

size_t NodesFor(double nodes) {
  constexpr double kMostNodes = 0x1p63;  // more than any load takes, and a size_t holds it
  return static_cast<size_t>(std::min(kMostNodes, std::ceil(nodes / kUtilization)));
}

// Bytes of cache that a step reads of one request, when half of its output is there.
double StepKvBytes(const PlannedModel& model, const RequestCost& cost, const PlannedLoad& load) {
  const KvShape& shape = model.shape;
  const double token_bytes =
      2 * kBytesPerFloat16 *
      static_cast<double>(shape.num_layers * shape.num_kv_heads * shape.head_dim);
  return static_cast<double>(cost.plan.page_bytes()) +
         token_bytes * static_cast<double>(load.output_tokens) / 2;
}

// The most sessions whose caches fit.
size_t FittingSessions(const PlannedModel& model, const Gpu& gpu, double session_bytes) {
  const double room = kMemoryShare * gpu.memory_bytes - model.weight_bytes;
  return room < session_bytes ? 0 : static_cast<size_t>(room / session_bytes);
}

// Of so many, the most whose step is as fast as wanted.
size_t FastSessions(const PlannedModel& model, const Gpu& gpu, const PlannedLoad& load,
                    size_t sessions, double kv_bytes) {
  if (load.most_seconds_per_token <= 0) return sessions;
  size_t too_many = sessions + 1;
  size_t enough = 0;
  while (enough + 1 < too_many) {
    const size_t middle = (enough + too_many) / 2;
    const bool fast = StepSeconds(model, gpu, middle, kv_bytes) <= load.most_seconds_per_token;
    (fast ? enough : too_many) = middle;
  }
  return enough;
}

// Of keys' attention summed over all queries: each query votes for every key that it sees.
double ColumnSumSeconds(const PlannedModel& model, const Gpu& gpu, size_t prompt_tokens) {
  const auto t = static_cast<double>(prompt_tokens);
  const auto heads = static_cast<double>(model.shape.num_layers * model.shape.num_query_heads);
  return heads * t * t / 2 * kVoteOperations / gpu.flops;
}

bool SumsColumns(const CompressionOptions& options) {
  return !options.keeps_all() &&
         TraitsOf(options.scorer).observes == ScorerTraits::Observes::kColumnSums;
}

RequestCost CostOf(const PlannedModel& model, const Gpu& gpu, const PlannedLoad& load, KvPlan plan,
                   bool sums_columns) {
  RequestCost cost;
  cost.plan = std::move(plan);
  cost.prefill_seconds = PrefillSeconds(model, gpu, load.prompt_tokens);
  if (!cost.plan.keeps_whole) {
    cost.compress_seconds = CompressSeconds(model, gpu, load.prompt_tokens,
                                            cost.plan.window_end - cost.plan.window_begin);
    if (sums_columns) cost.compress_seconds += ColumnSumSeconds(model, gpu, load.prompt_tokens);
  }
  const auto wire_bytes = static_cast<double>(cost.plan.wire_bytes());
  cost.transfer_seconds = wire_bytes / load.link_bytes_per_second;
  const double busy_seconds = cost.prefill_seconds + cost.compress_seconds;
  cost.exposed_seconds =
      ExposedSeconds(model.shape.num_layers, busy_seconds, cost.transfer_seconds);
  cost.session_bytes = static_cast<double>(
      SequenceCache::BytesFor(model.shape, cost.plan, load.output_tokens, PageFormat::kF16));
  const double kv_bytes = StepKvBytes(model, cost, load);
  const size_t fitting = FittingSessions(model, gpu, cost.session_bytes);
  cost.sessions = FastSessions(model, gpu, load, fitting, kv_bytes);
  cost.step_seconds = StepSeconds(model, gpu, std::max<size_t>(1, cost.sessions), kv_bytes);

  const double rate = load.requests_per_second;
  const double link_nodes = rate * cost.transfer_seconds;
  cost.prefill_nodes = NodesFor(std::max(rate * busy_seconds, link_nodes));
  if (cost.sessions > 0) {
    const double output_seconds = static_cast<double>(load.output_tokens) * cost.step_seconds;
    const double batch_nodes = rate * output_seconds / static_cast<double>(cost.sessions);
    // Memory is reserved before the prompt is read.
    const double held_seconds = cost.first_token_seconds() + output_seconds;
    const double memory_nodes = rate * held_seconds / static_cast<double>(fitting);
    cost.decode_nodes = NodesFor(std::max({batch_nodes, memory_nodes, link_nodes}));
  }
  return cost;
}

// How much earlier the first token comes with the compact cache than with the whole one.
double SecondsSaved(const CapacityPlan& plan, size_t num_layers, double link_bytes_per_second) {
  const auto first_token = [&](const RequestCost& cost) {
    const double busy = cost.prefill_seconds + cost.compress_seconds;
    const auto bytes = static_cast<double>(cost.plan.wire_bytes());
    return busy + ExposedSeconds(num_layers, busy, bytes / link_bytes_per_second);
  };
  return first_token(plan.whole) - first_token(plan.compact);
}

// Saved time falls with the link's speed: found by halving, in the logarithm.
double BreakEven(const CapacityPlan& plan, size_t num_layers) {
  double low = 1, high = 1e18;
  if (SecondsSaved(plan, num_layers, low) <= 0) return 0;
  if (SecondsSaved(plan, num_layers, high) > 0) return high;
  for (int i = 0; i < 200; ++i) {
    const double middle = std::sqrt(low * high);
    (SecondsSaved(plan, num_layers, middle) > 0 ? low : high) = middle;
  }
  return low;
}

absl::Status Validate(const PlannedLoad& load) {
  if (load.output_tokens == 0) {
    return absl::InvalidArgumentError("--output_tokens is 0; wanted at least 1");
  }
  constexpr double kMostRate = 1e6;
  if (!(load.requests_per_second > 0 && load.requests_per_second <= kMostRate)) {
    return absl::InvalidArgumentError(absl::StrCat("--rate is ", load.requests_per_second,
                                                   "; wanted more than 0, at most ", kMostRate));
  }
  constexpr double kGbps = 1e9 / 8;
  if (const double gbps = load.link_bytes_per_second / kGbps; !IsPlannable(gbps)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--link_gbps is ", gbps, "; wanted ", PlannableText()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Gpu> ParseGpu(const std::string& text) {
  constexpr double kTera = 1e12, kGiga = 1e9;
  for (const Gpu& gpu : {Gpu{"a100", 312 * kTera, 2039 * kGiga, 80 * kGiga},
                         Gpu{"h100", 989 * kTera, 3350 * kGiga, 80 * kGiga},
                         Gpu{"h200", 989 * kTera, 4800 * kGiga, 141 * kGiga}}) {
    if (text == gpu.name) return gpu;
  }
  std::vector<double> numbers;
  for (absl::string_view part : absl::StrSplit(text, ':')) {
    double number = 0;
    if (absl::SimpleAtod(part, &number) && IsPlannable(number)) numbers.push_back(number);
  }
  if (numbers.size() != 3 || std::count(text.begin(), text.end(), ':') != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu is '", text, "'; wanted a100, h100, h200 or TFLOPS:GB/S:GB as in ",
                     "989:4800:141, each ", PlannableText()));
  }
  return Gpu{text, numbers[0] * kTera, numbers[1] * kGiga, numbers[2] * kGiga};
}

double PrefillSeconds(const PlannedModel& model, const Gpu& gpu, size_t prompt_tokens) {
  const auto t = static_cast<double>(prompt_tokens);
  const double query_dim = static_cast<double>(model.shape.num_query_heads * model.shape.head_dim);
  const double products = 2 * t * model.layer_weights;
  const double attention = 2 * static_cast<double>(model.shape.num_layers) * t * t * query_dim;
  return (products / kProductShare + attention / kAttentionShare) / gpu.flops;
}

double CompressSeconds(const PlannedModel& model, const Gpu& gpu, size_t prompt_tokens,
                       size_t window_tokens) {
  const auto t = static_cast<double>(prompt_tokens);
  const double votes =
      t * static_cast<double>(model.shape.num_query_heads * window_tokens) * kVoteOperations;
  const double key_bytes =
      t * kBytesPerFloat16 * static_cast<double>(model.shape.num_kv_heads * model.shape.head_dim);
  return static_cast<double>(model.shape.num_layers) *
         (kCompressLayerSeconds + votes / gpu.flops + ReadingSeconds(gpu, key_bytes));
}

double StepSeconds(const PlannedModel& model, const Gpu& gpu, size_t sessions, double kv_bytes) {
  const auto batch = static_cast<double>(sessions);
  const double products = 2 * batch * (model.layer_weights + model.output_weights);
  // An expert is read where any token goes through it.
  const double read =
      model.step_bytes + model.experts_bytes * (1 - std::pow(1 - model.chosen_share, batch));
  return static_cast<double>(model.shape.num_layers) * kStepLayerSeconds +
         std::max(ReadingSeconds(gpu, read), products / (kProductShare * gpu.flops)) +
         ReadingSeconds(gpu, batch * kv_bytes);
}

double ExposedSeconds(size_t num_layers, double prefill_seconds, double transfer_seconds) {
  const auto layers = static_cast<double>(num_layers);
  const double behind = (layers - 1) / layers * (transfer_seconds - prefill_seconds);
  return transfer_seconds / layers + std::max(0.0, behind);
}

absl::StatusOr<CapacityPlan> PlanCapacity(const PlannedModel& model, const Gpu& gpu,
                                          const CompressionOptions& options,
                                          const PlannedLoad& load) {
  RETURN_IF_ERROR(Validate(load));
  if (model.weight_bytes > kMemoryShare * gpu.memory_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the weights of ", model.name, " take ", model.weight_bytes * 1e-9, " GB and --gpu has ",
        gpu.memory_bytes * 1e-9, " GB; wanted ", kMemoryShare, " of it to hold them"));
  }
  CompressionOptions whole;
  whole.scorer = "keep_all";
  whole.encoder = IsQuantized(options.encoder) ? PageFormat::kF16 : options.encoder;
  ASSIGN_OR_RETURN(KvPlan whole_plan, MakePlan(whole, model.shape, load.prompt_tokens));
  ASSIGN_OR_RETURN(KvPlan compact_plan, MakePlan(ForPrompt(options, load.prompt_tokens),
                                                 model.shape, load.prompt_tokens));
  CapacityPlan plan;
  plan.whole = CostOf(model, gpu, load, std::move(whole_plan), /*sums_columns=*/false);
  plan.compact = CostOf(model, gpu, load, std::move(compact_plan), SumsColumns(options));
  plan.hiding_bytes_per_second =
      static_cast<double>(plan.whole.plan.wire_bytes()) / plan.whole.prefill_seconds;
  plan.break_even_bytes_per_second = BreakEven(plan, model.shape.num_layers);
  return plan;
}

}  // namespace kvship
