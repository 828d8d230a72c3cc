// The layout of matrix tiles in shared memory, and in the registers of a warp that multiplies them.
// Plain arithmetic without CUDA, so that the CPU's tests can check it.
#pragma once

namespace kvship::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr int kChunkBytes = 16;    // what one thread copies at a time
inline constexpr int kChunkElements = 8;  // of f16 or bf16

// A tile of 16-bit elements lies row after row, each row cut into chunks. Chunk c of row r is
// stored in place c ^ (r & 7): eight consecutive rows of one column of chunks then lie in all 32
// banks. `row_elements` is a multiple of 64.
constexpr int TileOffset(int row_elements, int row, int chunk) {
  return row * row_elements + (chunk ^ (row & 7)) * kChunkElements;
}

// Row and chunk (within a 16 x 16 block of a tile) whose address lane `lane` gives to ldmatrix.x4.
struct MatrixRow {
  int row;
  int chunk;
};
// As the operand A of m16n8k16 (rows of the tile are rows of A), and as two operands B one beside
// the other where the tile lies transposed (rows of the tile are k): matrices down, then right.
constexpr MatrixRow DownThenRight(int lane) { return {lane & 15, lane >> 4}; }
// As two operands B where rows of the tile are columns of B: matrices right, then down.
constexpr MatrixRow RightThenDown(int lane) {
  return {(lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1};
}

// In the result of m16n8k16 lane `lane` holds elements 0 and 1 of row AccumulatorRow and, as
// elements 2 and 3, those of the row 8 below; columns AccumulatorColumn and the next.
constexpr int AccumulatorRow(int lane) { return lane >> 2; }
constexpr int AccumulatorColumn(int lane) { return (lane & 3) * 2; }

}  // namespace kvship::cuda
