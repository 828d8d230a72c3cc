#include "base/status_macros.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/query_moments.h"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
// A block adds to a square of products: 4 rows of 4 for each of 16 x 16 threads, so that eight
// numbers from shared memory make 16 products.
constexpr int kSquare = 64;
constexpr int kSide = 16;  // threads

// The squares of a head on the diagonal and right of it, row after row.
template <int kHeadDim>
struct Squares {
  static constexpr int kPerSide = kHeadDim / kSquare;
  static constexpr int kNumber = kPerSide * (kPerSide + 1) / 2;
  static_assert(kPerSide <= 2);
  __device__ static int RowOf(int square) { return square < kPerSide ? 0 : 1; }
  __device__ static int ColumnOf(int square) { return square < kPerSide ? square : 1; }
};

// Queries of one head that are in shared memory at a time, a chunk from each thread.
template <int kHeadDim>
constexpr int kStageRows = kThreads* kChunkElements / kHeadDim;

// Rows from `first` on, normed where they are to be; zeros past the last.
template <class T, int kHeadDim>
__device__ void LoadRows(const AddQueryMomentsArgs& args, size_t first,
                         double (&rows)[kStageRows<kHeadDim>][kHeadDim]) {
  constexpr int kRowThreads = kHeadDim / kChunkElements;
  const int row = threadIdx.x / kRowThreads, chunk = threadIdx.x % kRowThreads;
  float x[kChunkElements] = {};
  if (first + row < args.num_rows) {
    const T* q =
        static_cast<const T*>(args.q) + (first + row) * args.q_row_stride + blockIdx.y * kHeadDim;
    UnpackChunk<T>(reinterpret_cast<const uint4*>(q)[chunk], x);
  }
  if (args.norm != nullptr) {
    float squares = 0.0f;
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) squares += x[e] * x[e];
#pragma unroll
    for (int step = kRowThreads / 2; step > 0; step /= 2) {
      squares += __shfl_xor_sync(0xffffffffu, squares, step);
    }
    const float factor = rsqrtf(squares / kHeadDim + args.norm_epsilon);
    float weight[kChunkElements];
    UnpackChunk<T>(static_cast<const uint4*>(args.norm)[chunk], weight);
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) x[e] *= factor * weight[e];
  }
#pragma unroll
  for (int e = 0; e < kChunkElements; ++e) {
    rows[row][chunk * kChunkElements + e] = static_cast<double>(x[e]);
  }
}

// Column j of a thread's four in a square. Neighbouring threads read 16 bytes side by side.
__device__ int ColumnOf(int thread_column, int j) {
  return thread_column * 2 + j % 2 + j / 2 * (kSquare / 2);
}

// A block takes one square of one head, and in the squares on the diagonal its sums too.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) MomentsKernel(const AddQueryMomentsArgs args) {
  constexpr int kRows = kStageRows<kHeadDim>;
  __shared__ double rows[kRows][kHeadDim];
  const int square_row = Squares<kHeadDim>::RowOf(blockIdx.x) * kSquare;
  const int square_column = Squares<kHeadDim>::ColumnOf(blockIdx.x) * kSquare;
  const int own_row = square_row + threadIdx.x / kSide * 4, thread_column = threadIdx.x % kSide;
  const size_t head = blockIdx.y;
  double* products = args.products + (head * kHeadDim + own_row) * kHeadDim + square_column;
  const bool sums = square_row == square_column && threadIdx.x < kSquare;
  double* sum = args.sums + head * kHeadDim + square_row + threadIdx.x;
  double of_elements = sums ? *sum : 0.0;
  double of_products[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      of_products[i][j] = products[i * kHeadDim + ColumnOf(thread_column, j)];
    }
  }
  for (size_t first = 0; first < args.num_rows; first += kRows) {
    __syncthreads();  // everyone has left the rows before
    LoadRows<T, kHeadDim>(args, first, rows);
    __syncthreads();
#pragma unroll 4
    for (int row = 0; row < kRows; ++row) {
      double a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = rows[row][own_row + i];
        b[i] = rows[row][square_column + ColumnOf(thread_column, i)];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) of_products[i][j] = fma(a[i], b[j], of_products[i][j]);
      }
      if (sums) of_elements += rows[row][square_row + threadIdx.x];
    }
  }
  if (sums) *sum = of_elements;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      products[i * kHeadDim + ColumnOf(thread_column, j)] = of_products[i][j];
    }
  }
}

struct Turn {
  double cosine;
  double sine;
};
__device__ void TurnPair(const Turn& turn, double& a, double& b) {
  const double turned = a * turn.cosine - b * turn.sine;
  b = a * turn.sine + b * turn.cosine;
  a = turned;
}

// A thread takes two pairs of elements of one head: their four covariances turn among themselves.
__global__ void __launch_bounds__(kThreads) TurnKernel(const TurnMomentsArgs args) {
  const int d = static_cast<int>(args.head_dim), pairs = d / 2;
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= pairs * pairs) return;
  const size_t head = blockIdx.y;
  const double* sums = args.sums + head * d;
  const double* products = args.products + head * d * d;
  float* covariance = args.covariance + head * d * d;
  const Turn* turns = reinterpret_cast<const Turn*>(args.turns);
  const auto element = [&](int pair, int which) {
    return args.pairs == RopePairs::kHalves ? pair + which * pairs : 2 * pair + which;
  };
  const double share = 1.0 / static_cast<double>(args.num_queries);
  const int p = i / pairs, q = i % pairs;
  double sigma[2][2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int a = element(p, j), b = element(q, k);
      sigma[j][k] =
          products[min(a, b) * d + max(a, b)] * share - sums[a] * share * (sums[b] * share);
    }
  }
  TurnPair(turns[q], sigma[0][0], sigma[0][1]);  // Sigma R^T
  TurnPair(turns[q], sigma[1][0], sigma[1][1]);
  TurnPair(turns[p], sigma[0][0], sigma[1][0]);  // R (Sigma R^T)
  TurnPair(turns[p], sigma[0][1], sigma[1][1]);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      covariance[element(p, j) * d + element(q, k)] = static_cast<float>(sigma[j][k]);
    }
  }
  if (p != q) return;
  double a = sums[element(p, 0)] * share, b = sums[element(p, 1)] * share;
  TurnPair(turns[p], a, b);
  args.mean[head * d + element(p, 0)] = static_cast<float>(a);
  args.mean[head * d + element(p, 1)] = static_cast<float>(b);
}

}  // namespace

absl::Status AddQueryMoments(cudaStream_t stream, const AddQueryMomentsArgs& args) {
  if (args.num_rows < 1 || args.num_query_heads < 1 || args.num_query_heads > 65535 ||
      args.q_row_stride < args.num_query_heads * args.head_dim ||
      args.q_row_stride % kChunkElements != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_rows ", args.num_rows, ", num_query_heads ", args.num_query_heads,
                     ", q_row_stride ", args.q_row_stride,
                     ": wanted at least 1 of each, and a multiple of 8 that holds a row's heads"));
  }
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return WithHeadDim(args.head_dim, [&](auto head_dim) {
      return Launch(stream, dim3(Squares<head_dim()>::kNumber, args.num_query_heads),
                    dim3(kThreads), 0, MomentsKernel<T, head_dim()>, args);
    });
  });
}

absl::Status TurnMoments(cudaStream_t stream, const TurnMomentsArgs& args) {
  if (args.num_queries < 1 || args.num_query_heads < 1 || args.num_query_heads > 65535 ||
      args.head_dim < 2 || args.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_queries ", args.num_queries, ", num_query_heads ", args.num_query_heads, ", head_dim ",
        args.head_dim, ": wanted queries, heads and an even head size"));
  }
  const size_t pairs = args.head_dim / 2;
  return Launch(stream, dim3((pairs * pairs + kThreads - 1) / kThreads, args.num_query_heads),
                dim3(kThreads), 0, TurnKernel, args);
}

}  // namespace kvship::cuda
