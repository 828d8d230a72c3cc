// Times the CUDA kernels at the shapes of Llama-3.1-8B (8 KV heads, 32 query heads, D 128) and of a
// model without grouped queries, against the rate at which the same device reads memory in the same
// run.
//
//   kvship-cuda-bench results.json
//
// Each figure is the median over repetitions of a captured graph that runs the operation on several
// sets of inputs in turn, together larger than the cache where one alone is not. The file is there,
// with what has been measured, from the first figure on.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "bench/kernels/cuda/compression_bench.h"
#include "bench/kernels/cuda/device_timing.h"
#include "bench/kernels/cuda/experts_bench.h"
#include "bench/kernels/cuda/frames_bench.h"
#include "bench/kernels/cuda/scorer_bench.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/prompt_attention.h"
#include "kernels/cuda/token_draw.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {
namespace {

constexpr size_t kHeadDim = 128;
constexpr size_t kElementBytes = 2;

void BenchDecode(Bench& bench, size_t batch, size_t kept, Heads heads = kGrouped,
                 PageFormat format = PageFormat::kBf16) {
  const size_t page_bytes = PageBytes(format, kHeadDim);
  const size_t requests = batch * heads.kv, pages_each = PagesFor(kept);
  const size_t set_bytes = requests * pages_each * page_bytes;
  const size_t sets = std::max<size_t>(1, (size_t{256} << 20) / set_bytes);
  const DeviceBytes q(batch * heads.query * kHeadDim * kElementBytes), out(q.num_bytes());
  const DeviceBytes pages(sets * set_bytes);
  FillNormalBf16(q);
  FillNormalBf16(pages);
  std::vector<const std::byte*> table(sets * requests * pages_each);
  // Scattered by a step that shares no factor with the number of pages, as a pool hands them out.
  size_t step = table.size() * 5 / 8 | 1;
  while (std::gcd(step, table.size()) != 1) step += 2;
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = pages.data() + i * step % table.size() * page_bytes;
  const DeviceBytes device_table(std::as_bytes(std::span(table)));
  std::vector<PagedHead> host_heads(sets * requests);
  for (size_t r = 0; r < host_heads.size(); ++r) {
    host_heads[r].prefix_pages =
        reinterpret_cast<const std::byte* const*>(device_table.data()) + r * pages_each;
    host_heads[r].num_prefix_tokens = static_cast<uint32_t>(kept);
  }
  const DeviceBytes device_heads(std::as_bytes(std::span(host_heads)));
  const size_t splits_each = NumSplits(static_cast<uint32_t>(pages_each));
  std::vector<uint32_t> first_split(requests + 1);
  for (size_t r = 0; r <= requests; ++r) first_split[r] = static_cast<uint32_t>(r * splits_each);
  const DeviceBytes device_first_split(std::as_bytes(std::span(first_split)));
  PagedAttentionArgs args = {.q = q.data(),
                             .first_split = device_first_split.as<uint32_t>(),
                             .out = out.data(),
                             .prefix_format = format,
                             .num_sequences = batch,
                             .num_query_heads = heads.query,
                             .num_kv_heads = heads.kv,
                             .head_dim = kHeadDim,
                             .q_row_stride = heads.query * kHeadDim,
                             .num_splits = requests * splits_each};
  const DeviceBytes workspace(std::max<size_t>(1, PagedAttentionWorkspaceBytes(args)));
  args.workspace = workspace.data();
  const std::string suffix =
      IsQuantized(format) ? std::string(" ") + PageFormatName(format) : std::string();
  bench.Time("paged_attention" + suffix, Label("H %zu batch %zu kept %zu", heads.kv, batch, kept),
             static_cast<double>(set_bytes), 0, sets, [&](size_t set, cudaStream_t stream) {
               PagedAttentionArgs own = args;
               own.heads = device_heads.as<PagedHead>() + set * requests;
               return PagedAttention(stream, own);
             });
}

void BenchPrompt(Bench& bench, size_t tokens) {
  const size_t row = 32 * kHeadDim;
  const DeviceBytes q(tokens * row * kElementBytes), keys(q.num_bytes() / 4),
      values(keys.num_bytes());
  const DeviceBytes out(q.num_bytes()), lse(32 * tokens * sizeof(float));
  FillNormalBf16(q);
  FillNormalBf16(keys);
  FillNormalBf16(values);
  const auto n = static_cast<double>(tokens);
  bench.Time("prompt_attention", Label("Hq 32 H 8 T %zu", tokens),
             static_cast<double>(2 * q.num_bytes() + 2 * keys.num_bytes()),
             2.0 * n * n * static_cast<double>(row), 1, [&](size_t, cudaStream_t stream) {
               return PromptAttention(stream, {.q = q.data(),
                                               .keys = keys.data(),
                                               .values = values.data(),
                                               .out = out.data(),
                                               .lse = lse.as<float>(),
                                               .num_queries = tokens,
                                               .num_query_heads = 32,
                                               .num_kv_heads = 8,
                                               .head_dim = kHeadDim,
                                               .head_stride = tokens * kHeadDim,
                                               .q_row_stride = row,
                                               .lse_row_stride = tokens});
             });
}

void BenchElementwise(Bench& bench, size_t tokens) {
  constexpr size_t kWidth = 4096, kInner = 14336, kHeads = 48;
  const DeviceBytes wide(tokens * 2 * kInner * kElementBytes), other(wide.num_bytes());
  const DeviceBytes out(wide.num_bytes()), weight(kWidth * kElementBytes);
  const DeviceBytes cos_sin(tokens * kHeadDim * sizeof(float)),
      keys(tokens * 8 * kHeadDim * kElementBytes);
  const DeviceBytes values(keys.num_bytes());
  FillNormalBf16(wide);
  FillNormalBf16(other);
  FillNormalBf16(weight);
  FillFloats(cos_sin, [](double normal) { return normal; });
  const std::string label = Label("M %zu", tokens);
  const auto element_bytes = static_cast<double>(tokens * kElementBytes);
  bench.Time("rms_norm with residual C 4096", label, 4 * kWidth * element_bytes, 0, 1,
             [&](size_t, cudaStream_t stream) {
               return RmsNorm(stream, {.x = wide.data(),
                                       .residual = other.data(),
                                       .weight = weight.data(),
                                       .out = out.data(),
                                       .num_tokens = tokens,
                                       .width = kWidth});
             });
  bench.Time(
      "silu_mul F 14336", label, 3 * kInner * element_bytes, 0, 1,
      [&](size_t, cudaStream_t stream) {
        return SiluMul(
            stream,
            {.gate_up = other.data(), .out = out.data(), .num_tokens = tokens, .width = kInner});
      });
  bench.Time("rope_and_store Hq 32 H 8", label,
             2 * kHeads * kHeadDim * element_bytes + static_cast<double>(cos_sin.num_bytes()), 0, 1,
             [&](size_t, cudaStream_t stream) {
               return RopeAndStore(stream, {.qkv = wide.data(),
                                            .cos_sin = cos_sin.as<float>(),
                                            .keys = keys.data(),
                                            .values = values.data(),
                                            .num_tokens = tokens,
                                            .num_query_heads = 32,
                                            .num_kv_heads = 8,
                                            .head_dim = kHeadDim,
                                            .head_stride = tokens * kHeadDim});
             });
}

// The next tokens of a batch from Llama-3.1's vocabulary: greedy, from all tokens, and from the
// least that hold 0.95 of the 50 likeliest. Bytes are those of one pass.
void BenchDraw(Bench& bench, size_t batch) {
  constexpr size_t kVocab = 128256;
  const float scale = std::log2(std::exp(1.0f)) * (1 << kHalvingBits);
  const DeviceBytes logits(batch * kVocab * sizeof(float)), tokens(batch * sizeof(int32_t));
  FillFloats(logits, [](double normal) { return 2.5 * normal; });
  const TokenDraw kinds[] = {
      {}, {.scale = scale}, {.scale = scale, .top_k = 50, .top_p = uint64_t{243} << 56}};
  const char* const names[] = {"draw greedy", "draw", "draw top_k top_p"};
  for (size_t kind = 0; kind < 3; ++kind) {
    const std::vector<TokenDraw> draws(batch, kinds[kind]);
    const DeviceBytes device_draws(std::as_bytes(std::span(draws)));
    bench.Time(names[kind], Label("batch %zu V 128256", batch),
               static_cast<double>(logits.num_bytes()), 0, 1, [&](size_t, cudaStream_t stream) {
                 return DrawTokens(stream, {.logits = logits.as<float>(),
                                            .draws = device_draws.as<TokenDraw>(),
                                            .tokens = tokens.as<int32_t>(),
                                            .num_sequences = batch,
                                            .vocab_tokens = kVocab});
               });
  }
}

// A matrix of Llama-3.1-8B's feed-forward layer. Random bytes serve: time does not depend on them.
void BenchDequantize(Bench& bench, WeightFormat format) {
  constexpr size_t kWeights = size_t{14336} * 4096;
  const WeightBlock block = BlockOf(format);
  const DeviceBytes packed(kWeights / block.num_weights * block.num_bytes);
  const DeviceBytes out(kWeights * kElementBytes);
  FillNormalBf16(packed);
  bench.Time(std::string("dequantize ") + WeightFormatName(format), Label("%zu weights", kWeights),
             static_cast<double>(packed.num_bytes() + out.num_bytes()), 0, 1,
             [&](size_t, cudaStream_t stream) {
               return Dequantize(stream, {.packed = packed.data(),
                                          .out = out.data(),
                                          .format = format,
                                          .num_weights = kWeights});
             });
}

// What ran on a device before comes first: a kernel that fails there ends the rest.
void RunAll(Bench& bench) {
  for (size_t batch : {1, 8, 64, 256}) BenchDecode(bench, batch, 2048);
  BenchDecode(bench, 1, size_t{128} << 10);
  BenchDecode(bench, 8, size_t{16} << 10);
  BenchDecode(bench, 2, size_t{16} << 10, kUngrouped);
  for (PageFormat format : {PageFormat::kInt8, PageFormat::kInt4}) {
    BenchDecode(bench, 64, 2048, kGrouped, format);
    BenchDecode(bench, 1, size_t{128} << 10, kGrouped, format);
  }
  for (size_t tokens : {4096, 16384, 32768}) BenchPrompt(bench, tokens);
  for (size_t tokens : {32, 8192}) BenchElementwise(bench, tokens);
  for (const VotesShape& shape : kVotes) BenchVotes(bench, shape);
  for (size_t tokens : {size_t{16} << 10, size_t{128} << 10, size_t{1} << 20}) {
    BenchCompression(bench, tokens, 2048);
  }
  BenchCompression(bench, size_t{128} << 10, size_t{32} << 10);
  BenchTies(bench, size_t{128} << 10);
  for (size_t tokens : {size_t{16} << 10, size_t{128} << 10}) BenchScorers(bench, tokens);
  BenchFrames(bench, 2048);
  for (size_t batch : {1, 32}) BenchDraw(bench, batch);
  for (WeightFormat format : {WeightFormat::kQ4_1, WeightFormat::kQ6_K, WeightFormat::kQ8_0}) {
    BenchDequantize(bench, format);
  }
  for (size_t tokens : {1, 32, 256}) BenchExperts(bench, tokens);
  for (const VotesShape& shape : kVotes) BenchVotesTma(bench, shape);
}

}  // namespace
}  // namespace kvship::cuda

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s results.json\n", argv[0]);
    return 2;
  }
  kvship::cuda::Bench bench(argv[1]);
  if (!bench.Ready()) return 1;
  kvship::cuda::RunAll(bench);
  return 0;
}
