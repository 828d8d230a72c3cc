#include "engine/cuda/step_splits.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {
namespace {

// Of a layer's share of the pool, were all alike: what a pyramid's first layer takes at most, and
// what keeps the scratch to 1 % of the pool. Where a policy that shares by scores crowds more into
// one layer, the batch takes turns.
constexpr size_t kMostLayerShares = 2;

// Four numbers per power of two: those past the last split have nothing to do.
size_t RoundUp(size_t num_splits) {
  const size_t step = std::max<size_t>(1, std::bit_floor(num_splits) / 4);
  return (num_splits + step - 1) / step * step;
}

}  // namespace

size_t MostSplitRows(const ModelConfig& config, size_t max_sequences, size_t pool_bytes) {
  const size_t group = config.num_query_heads / config.num_kv_heads;
  const size_t pool_pages = pool_bytes / PageBytes(PageFormat::kInt4, config.head_dim);
  const size_t pool_rows = pool_pages * group / kSplitPages;  // of splits that are full
  // Prefix and tail each end with a page that need not be full.
  const auto head_pages = static_cast<uint32_t>(PagesFor(config.context_tokens) + 1);
  const size_t of_one =
      std::min(config.num_query_heads * NumSplits(head_pages), config.num_query_heads + pool_rows);
  const size_t of_pool =
      max_sequences * config.num_query_heads + kMostLayerShares * pool_rows / config.num_layers;
  return std::min(max_sequences * of_one, std::max(of_one, of_pool));
}

absl::StatusOr<StepSplits> NumberSplits(std::span<const kvship::PagedHead> heads, size_t num_layers,
                                        size_t rows_per_split, size_t most_rows) {
  StepSplits splits;
  const size_t layer_heads = heads.size() / num_layers;
  for (size_t layer = 0; layer < num_layers; ++layer) {
    splits.first_split.push_back(0);
    for (const kvship::PagedHead& head : heads.subspan(layer * layer_heads, layer_heads)) {
      const size_t num_pages = head.prefix_pages.size() + head.tail_pages.size();
      splits.first_split.push_back(splits.first_split.back() +
                                   NumSplits(static_cast<uint32_t>(num_pages)));
    }
    splits.num_splits = std::max<size_t>(splits.num_splits, splits.first_split.back());
  }
  if (splits.num_splits == layer_heads) return splits;  // they take no scratch
  const size_t most_splits = most_rows / rows_per_split;
  if (splits.num_splits > most_splits) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a batch whose attention has ", splits.num_splits,
                     " splits in a layer: the scratch has room for ", most_splits));
  }
  splits.num_splits = std::min(RoundUp(splits.num_splits), most_splits);
  return splits;
}

}  // namespace kvship::cuda
