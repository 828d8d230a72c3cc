#include "client/plan_text.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvship {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGbps = 1e9 / 8;
constexpr double kMs = 1e3;

double KeptTokens(const RequestCost& cost) {
  double sum = 0;
  for (const size_t tokens : cost.plan.layer_tokens) sum += static_cast<double>(tokens);
  return sum / static_cast<double>(cost.plan.layer_tokens.size() * cost.plan.num_heads);
}

double OutputTokensPerSecond(const RequestCost& cost) {
  return static_cast<double>(cost.sessions) / cost.step_seconds;
}

double Ratio(const RequestCost& cost) {
  return static_cast<double>(cost.plan.uncompressed_bytes()) /
         static_cast<double>(cost.plan.wire_bytes());
}

std::string Bytes(double bytes) {
  if (bytes >= 1e9) return absl::StrFormat("%.2f GB", bytes * 1e-9);
  return absl::StrFormat("%.1f MB", bytes * 1e-6);
}

std::string Time(double seconds) {
  if (seconds >= 1) return absl::StrFormat("%.2f s", seconds);
  return absl::StrFormat("%.1f ms", seconds * kMs);
}

std::string Nodes(size_t nodes) { return nodes == 0 ? "none will do" : absl::StrCat(nodes); }

std::string Speed(double bytes_per_second) {
  return absl::StrFormat("%.3g Gbit/s", bytes_per_second / kGbps);
}

std::string BreakEvenText(const CapacityPlan& plan) {
  if (plan.break_even_bytes_per_second == 0) {
    return "At no link speed does the compact cache bring the first token earlier.\n";
  }
  return absl::StrCat("Up to a link of ", Speed(plan.break_even_bytes_per_second),
                      " the compact cache brings the first token earlier.\n");
}

// Formulas do not know where a model's answers stop making sense.
std::string ContextText(const PlannedModel& model, const PlannedLoad& load) {
  const size_t tokens = load.prompt_tokens + load.output_tokens;
  if (tokens <= model.context_tokens) return "";
  return absl::StrCat("The context of ", model.name, " is ", model.context_tokens,
                      " tokens: a node refuses prompt and output of ", tokens, ".\n");
}

Json CostJson(const RequestCost& cost) {
  return {{"kept_tokens", KeptTokens(cost)},
          {"uncompressed_bytes", cost.plan.uncompressed_bytes()},
          {"shipped_bytes", cost.plan.wire_bytes()},
          {"shipped_bytes_are_a_bound", cost.plan.bounded},
          {"prefill_ms", cost.prefill_seconds * kMs},
          {"compress_ms", cost.compress_seconds * kMs},
          {"transfer_ms", cost.transfer_seconds * kMs},
          {"exposed_transfer_ms", cost.exposed_seconds * kMs},
          {"first_token_ms", cost.first_token_seconds() * kMs},
          {"session_bytes", cost.session_bytes},
          {"sessions_per_gpu", cost.sessions},
          {"step_ms", cost.step_seconds * kMs},
          {"output_tokens_per_second_per_gpu", OutputTokensPerSecond(cost)},
          {"prefill_nodes", cost.prefill_nodes},
          {"decode_nodes", cost.decode_nodes}};
}

}  // namespace

std::string PlanTable(const PlanRecord& record) {
  const PlannedLoad& load = record.load;
  const CapacityPlan& plan = record.plan;
  std::string out = absl::StrFormat(
      "%s on %s: %s of weights; link %s; %.4g requests per second of %d prompt and %d output "
      "tokens\ncompact: %s\n\n",
      record.model.name, record.gpu.name, Bytes(record.model.weight_bytes),
      Speed(load.link_bytes_per_second), load.requests_per_second, load.prompt_tokens,
      load.output_tokens, record.compression.empty() ? "the default" : record.compression);
  const auto row = [&](const char* name, auto cell) {
    absl::StrAppendFormat(&out, "%-34s %14s %14s\n", name, cell(plan.whole), cell(plan.compact));
  };
  absl::StrAppendFormat(&out, "%-34s %14s %14s\n", "", "whole cache", "compact");
  using Cost = const RequestCost&;
  row("kept tokens per KV head", [](Cost c) { return absl::StrFormat("%.0f", KeptTokens(c)); });
  row(plan.compact.plan.bounded ? "KV bytes shipped, at most" : "KV bytes shipped",
      [](Cost c) { return Bytes(static_cast<double>(c.plan.wire_bytes())); });
  row("times fewer than uncompressed", [](Cost c) { return absl::StrFormat("%.1f x", Ratio(c)); });
  row("prefill", [](Cost c) { return Time(c.prefill_seconds); });
  row("compress", [](Cost c) { return Time(c.compress_seconds); });
  row("transfer, by itself", [](Cost c) { return Time(c.transfer_seconds); });
  row("    of it after prefill", [](Cost c) { return Time(c.exposed_seconds); });
  row("first token, without waiting", [](Cost c) { return Time(c.first_token_seconds()); });
  row("decode memory of a request", [](Cost c) { return Bytes(c.session_bytes); });
  row("requests at a time per GPU", [](Cost c) { return absl::StrCat(c.sessions); });
  row("    a decode step with them", [](Cost c) { return Time(c.step_seconds); });
  row("    output tokens per second",
      [](Cost c) { return absl::StrFormat("%.0f", OutputTokensPerSecond(c)); });
  row("prefill nodes", [](Cost c) { return Nodes(c.prefill_nodes); });
  row("decode nodes", [](Cost c) { return Nodes(c.decode_nodes); });
  absl::StrAppend(&out, "\nFrom a link of ", Speed(plan.hiding_bytes_per_second),
                  " on the whole cache hides behind prefill, but for its last layer.\n",
                  BreakEvenText(plan), ContextText(record.model, load));
  return out;
}

std::string PlanJson(const PlanRecord& record) {
  const auto& [model, gpu, load, compression, plan] = record;
  const double slo_seconds = load.most_seconds_per_token;
  const Json json = {
      {"model",
       {{"name", model.name},
        {"layers", model.shape.num_layers},
        {"query_heads", model.shape.num_query_heads},
        {"kv_heads", model.shape.num_kv_heads},
        {"head_dim", model.shape.head_dim},
        {"context_tokens", model.context_tokens},
        {"weight_bytes", model.weight_bytes}}},
      {"gpu",
       {{"name", gpu.name},
        {"flops", gpu.flops},
        {"bytes_per_second", gpu.bytes_per_second},
        {"memory_bytes", gpu.memory_bytes}}},
      {"load",
       {{"prompt_tokens", load.prompt_tokens},
        {"output_tokens", load.output_tokens},
        {"requests_per_second", load.requests_per_second},
        {"link_gbps", load.link_bytes_per_second / kGbps},
        {"slo_between_tokens_ms", slo_seconds > 0 ? Json(slo_seconds * kMs) : Json()},
        {"compression", compression}}},
      {"whole", CostJson(plan.whole)},
      {"compact", CostJson(plan.compact)},
      {"hiding_gbps", plan.hiding_bytes_per_second / kGbps},
      {"break_even_gbps", plan.break_even_bytes_per_second / kGbps}};
  return json.dump(2) + "\n";
}

}  // namespace kvship
