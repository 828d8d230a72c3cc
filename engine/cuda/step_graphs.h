// StepGraphs are the captured steps of a decoder, by their shape: those used last are kept. Owns
// them. Not thread safe.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <map>

namespace kvship::cuda {

template <class Shape>
class StepGraphs {
 public:
  explicit StepGraphs(size_t most) : most_(most) {}
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;
  ~StepGraphs() { Clear(); }

  // Null where there is none of that shape; else it counts as used now.
  cudaGraphExec_t Find(const Shape& shape) {
    const auto found = graphs_.find(shape);
    if (found == graphs_.end()) return nullptr;
    found->second.last_use = ++num_uses_;
    return found->second.graph;
  }

  // Takes a graph of a shape that is not here. Where there are as many as are kept, the one not
  // used for longest is destroyed: none of them may be running.
  void Add(const Shape& shape, cudaGraphExec_t graph) {
    if (graphs_.size() == most_) DropOldest();
    graphs_[shape] = {graph, ++num_uses_};
  }

  // Likewise of all.
  void Clear() {
    for (const auto& [shape, kept] : graphs_) cudaGraphExecDestroy(kept.graph);
    graphs_.clear();
  }

 private:
  struct Kept {
    cudaGraphExec_t graph;
    uint64_t last_use;
  };

  void DropOldest() {
    auto oldest = graphs_.begin();
    for (auto it = graphs_.begin(); it != graphs_.end(); ++it) {
      if (it->second.last_use < oldest->second.last_use) oldest = it;
    }
    cudaGraphExecDestroy(oldest->second.graph);
    graphs_.erase(oldest);
  }

  const size_t most_;
  uint64_t num_uses_ = 0;
  std::map<Shape, Kept> graphs_;
};

}  // namespace kvship::cuda
