
#include "absl/strings/str_cat.h"
#include "kernels/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prompt_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/prompt_floats-inl.h"
#include "kernels/cpu/prompt_pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

void AttendPrompt(Backend& backend, const PromptAttentionArgs& args) {
  if (args.arithmetic == Arithmetic::kFast && AttendWithPairs(backend, args)) return;
  const size_t thread_bytes = ThreadFloats(args.q.dims[2]) * sizeof(float);
  std::byte* const scratch = backend.Scratch(backend.threads().num_threads() * thread_bytes);
  AttendWith(FloatTiles(args), backend, args, reinterpret_cast<float*>(scratch));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(AttendPrompt);

absl::Status CheckShapes(const PromptAttentionArgs& args) {
  if (args.q.rank != 3 || args.keys.rank != 3 || args.values.rank != 3 || args.out.rank != 2) {
    return absl::InvalidArgumentError("attention wants q [M, Hq, D], keys and values [H, T, D]");
  }
  const auto [m, query_heads, head_dim, unused] = args.q.dims;
  const size_t kv_heads = args.keys.dims[0];
  if (kv_heads == 0 || query_heads % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(query_heads, " query heads are not a multiple of ", kv_heads, " KV heads"));
  }
  for (const TensorView* cache : {&args.keys, &args.values}) {
    if (cache->dims[0] != kv_heads || cache->dims[2] != head_dim ||
        cache->dims[1] < args.first_position + m) {
      return absl::InvalidArgumentError(absl::StrCat(
          "keys or values [", cache->dims[0], ", ", cache->dims[1], ", ", cache->dims[2],
          "], wanted [", kv_heads, ", at least ", args.first_position + m, ", ", head_dim, "]"));
    }
  }
  if (args.out.dims[0] != m || args.out.dims[1] != query_heads * head_dim) {
    return absl::InvalidArgumentError(absl::StrCat("out [", args.out.dims[0], ", ",
                                                   args.out.dims[1], "], wanted [", m, ", ",
                                                   query_heads * head_dim, "]"));
  }
  if (args.lse.data != nullptr && (args.lse.dims[0] != query_heads || args.lse.dims[1] != m)) {
    return absl::InvalidArgumentError(absl::StrCat("lse [", args.lse.dims[0], ", ",
                                                   args.lse.dims[1], "], wanted [", query_heads,
                                                   ", ", m, "]"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PromptAttention(Backend& backend, const PromptAttentionArgs& args) {
  if (absl::Status shapes = CheckShapes(args); !shapes.ok()) return shapes;
  if (args.q.dims[0] != 0) HWY_DYNAMIC_DISPATCH(AttendPrompt)(backend, args);
  return absl::OkStatus();
}

}  // namespace kvship
#endif  // HWY_ONCE
