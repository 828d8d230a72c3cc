#include "base/status_macros.h"
#include "kernels/cuda/expert_product.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

// A block multiplies 16 rows of weights with up to 32 rows of x. Its warps take columns in turn,
// 128 at a time in four steps whose weights are all on their way before the first is multiplied,
// and add up what they have at the end.
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpThreads;
constexpr int kWeightRows = 16;
constexpr int kTiles = 4;     // of rows of x,
constexpr int kTileRows = 8;  // this many each
constexpr int kStepColumns = 32;
constexpr int kSteps = 4;
constexpr int kTurn = kSteps * kStepColumns;

// What lane (g, t) = (lane / 4, lane % 4) multiplies are columns 8 t to 8 t + 7 of a step, read as
// one: tensor cores do not care which column is which, as long as both operands agree. So the first
// of two products of 16 columns takes each lane's first four, the second the others.
template <class T>
__device__ void MultiplyStep(const uint4 (&w)[2], const uint4& x, float (&sum)[4]) {
  const uint32_t first[4] = {w[0].x, w[1].x, w[0].y, w[1].y};
  MultiplyAdd<T>(sum, first, x.x, x.y);
  const uint32_t second[4] = {w[0].z, w[1].z, w[0].w, w[1].w};
  MultiplyAdd<T>(sum, second, x.z, x.w);
}

template <class T>
__device__ uint4 ChunkOrZeros(const T* from, bool is_there) {
  if (!is_there) return make_uint4(0, 0, 0, 0);
  return *reinterpret_cast<const uint4*>(from);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 5) ExpertProductKernel(const ExpertProductArgs args) {
  __shared__ float sums[kWarps][kTiles * kTileRows][kWeightRows + 4];  // 4 more, for the banks
  WaitForTheKernelBefore();
  const ExpertRows run = args.runs[blockIdx.y];
  if (run.count == 0) return;
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const int group = lane / 4, column = lane % 4 * kChunkElements;
  const size_t first_row = static_cast<size_t>(blockIdx.x) * kWeightRows;
  const T* const weights = static_cast<const T*>(args.weights) + run.expert * args.rows * args.cols;
  // Rows past the last are read as the last one, and not written.
  const T* w[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const size_t row = min(first_row + group + half * 8, args.rows - 1);
    w[half] = weights + row * args.cols + column;
  }
  for (uint32_t done = 0; done < run.count; done += kTiles * kTileRows) {
    const int count = static_cast<int>(min(run.count - done, uint32_t{kTiles * kTileRows}));
    const T* x[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int row = min(tile * kTileRows + group, count - 1);
      x[tile] = static_cast<const T*>(args.x) +
                (run.first + done + static_cast<size_t>(row)) * args.cols + column;
    }
    float sum[kTiles][4] = {};
    for (size_t begin = static_cast<size_t>(warp) * kTurn; begin < args.cols;
         begin += kWarps * kTurn) {
      uint4 chunks[kSteps][2];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const size_t k = begin + i * kStepColumns;
        chunks[i][0] = ChunkOrZeros(w[0] + k, k + column < args.cols);
        chunks[i][1] = ChunkOrZeros(w[1] + k, k + column < args.cols);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile * kTileRows >= count) break;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          const size_t k = begin + i * kStepColumns;
          MultiplyStep<T>(chunks[i], ChunkOrZeros(x[tile] + k, k + column < args.cols), sum[tile]);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile * kTileRows >= count) break;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = tile * kTileRows + AccumulatorColumn(lane) + i % 2;
        sums[warp][row][AccumulatorRow(lane) + i / 2 * 8] = sum[tile][i];
      }
    }
    __syncthreads();
    // A thread writes two neighbours of the output.
    for (int i = threadIdx.x; i < count * (kWeightRows / 2); i += kThreads) {
      const int row = i / (kWeightRows / 2), pair = i % (kWeightRows / 2) * 2;
      if (first_row + pair >= args.rows) continue;
      float low = 0.0f, high = 0.0f;
#pragma unroll
      for (int other = 0; other < kWarps; ++other) {
        low += sums[other][row][pair];
        high += sums[other][row][pair + 1];
      }
      T* const out = static_cast<T*>(args.out) +
                     (run.first + done + static_cast<size_t>(row)) * args.rows + first_row + pair;
      *reinterpret_cast<uint32_t*>(out) = PackPair<T>(low, high);
    }
    __syncthreads();  // the next rows' sums take their place
  }
}

}  // namespace

absl::Status ExpertProduct(cudaStream_t stream, const ExpertProductArgs& args) {
  constexpr size_t kMostRuns = 65535;  // of a grid's second dimension
  if (args.num_runs < 1 || args.num_runs > kMostRuns || args.rows < 8 || args.rows % 8 != 0 ||
      args.cols < 8 || args.cols % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a product of ", args.num_runs, " experts with ", args.rows, " x ", args.cols,
                     " weights: wanted at least one, and rows and columns in multiples of 8"));
  }
  const dim3 grid((args.rows + kWeightRows - 1) / kWeightRows, args.num_runs);
  return WithElementType(args.dtype, [&](auto element) {
    return LaunchEarly(stream, grid, dim3(kThreads), 0, ExpertProductKernel<decltype(element)>,
                       args);
  });
}

}  // namespace kvship::cuda
