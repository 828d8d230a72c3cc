// StepGraphs is an LRU cache of a decoder's captured steps, keyed by shape. Owns the graphs. Not
// thread safe.
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

  // The graph of a shape, which then counts as used; null if there is none.
  cudaGraphExec_t Find(const Shape& shape) {
    const auto found = graphs_.find(shape);
    if (found == graphs_.end()) return nullptr;
    found->second.last_use = ++num_uses_;
    return found->second.graph;
  }

  // Adds a graph of a new shape and takes ownership. If the cache is full, destroys the least
  // recently used graph: none may be running.
  void Add(const Shape& shape, cudaGraphExec_t graph) {
    if (graphs_.size() == most_) DropOldest();
    graphs_[shape] = {graph, ++num_uses_};
  }

  // Destroys all graphs; none may be running.
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
