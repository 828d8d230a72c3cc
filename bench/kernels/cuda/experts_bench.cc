#include "bench/kernels/cuda/experts_bench.h"

#include <vector>

#include "kernels/cuda/expert_product.h"
#include "kernels/cuda/experts.h"

namespace kvship::cuda {

void BenchExperts(Bench& bench, size_t num_tokens) {
  constexpr size_t kExperts = 128, kPerToken = 8, kWidth = 2048, kInner = 768, kElementBytes = 2;
  const size_t num_choices = num_tokens * kPerToken;
  // Token m likes experts 8 m to 8 m + 7 best, and so on in a circle.
  std::vector<float> liking(num_tokens * kExperts, 0.0f);
  for (size_t i = 0; i < num_choices; ++i) {
    liking[i / kPerToken * kExperts + i % kExperts] = static_cast<float>(1 + i % kPerToken);
  }
  const DeviceBytes logits(std::as_bytes(std::span(liking)));
  const DeviceBytes experts(num_choices * sizeof(uint32_t)), positions(experts.num_bytes());
  const DeviceBytes weights(num_choices * sizeof(float)), runs(kExperts * sizeof(ExpertRows));
  const DeviceBytes x(num_tokens * kWidth * kElementBytes);
  const DeviceBytes rows(num_choices * kWidth * kElementBytes);
  const DeviceBytes gate_up(num_choices * 2 * kInner * kElementBytes);
  FillNormalBf16(x);
  FillNormalBf16(gate_up);
  const GroupByExpertArgs grouping = {.experts = experts.as<uint32_t>(),
                                      .positions = positions.as<uint32_t>(),
                                      .runs = runs.as<ExpertRows>(),
                                      .num_tokens = num_tokens,
                                      .num_experts = kExperts,
                                      .experts_per_token = kPerToken};
  const std::string label = Label("M %zu E 128 K 8", num_tokens);
  bench.Time("choose_experts", label, static_cast<double>(logits.num_bytes()), 0, 1,
             [&](size_t, cudaStream_t stream) {
               return ChooseExperts(stream, {.logits = logits.as<float>(),
                                             .experts = experts.as<uint32_t>(),
                                             .weights = weights.as<float>(),
                                             .num_tokens = num_tokens,
                                             .num_experts = kExperts,
                                             .experts_per_token = kPerToken,
                                             .normalizes = true});
             });
  bench.Time("group_by_expert", label, static_cast<double>(2 * experts.num_bytes()), 0, 1,
             [&](size_t, cudaStream_t stream) { return GroupByExpert(stream, grouping); });
  bench.Time("spread_rows", label, static_cast<double>(x.num_bytes() + rows.num_bytes()), 0, 1,
             [&](size_t, cudaStream_t stream) {
               return SpreadRows(stream, {.x = x.data(),
                                          .positions = positions.as<uint32_t>(),
                                          .rows = rows.data(),
                                          .num_tokens = num_tokens,
                                          .experts_per_token = kPerToken,
                                          .width = kWidth});
             });
  // What the experts that have rows are multiplied with fits the cache for few tokens: several
  // sets.
  const size_t num_active = MostActiveExperts(grouping);
  const auto product = [&](const char* name, const DeviceBytes& in, const DeviceBytes& out,
                           size_t num_rows, size_t num_cols) {
    const size_t set_bytes = kExperts * num_rows * num_cols * kElementBytes;
    const size_t read_bytes = num_active * num_rows * num_cols * kElementBytes;
    const size_t num_sets =
        std::max<size_t>(1, std::min<size_t>(8, (size_t{256} << 20) / read_bytes));
    const DeviceBytes all_weights(num_sets * set_bytes);
    FillNormalBf16(all_weights);
    bench.Time(name, label, static_cast<double>(read_bytes), 0, num_sets,
               [&](size_t set, cudaStream_t stream) {
                 return ExpertProduct(stream, {.x = in.data(),
                                               .weights = all_weights.data() + set * set_bytes,
                                               .runs = runs.as<ExpertRows>(),
                                               .out = out.data(),
                                               .num_runs = num_active,
                                               .rows = num_rows,
                                               .cols = num_cols});
               });
  };
  product("expert_product gate up", rows, gate_up, 2 * kInner, kWidth);
  product("expert_product down", gate_up, rows, kWidth, kInner);
}

}  // namespace kvship::cuda
