#include "engine/cuda/step_graphs.h"

#include "kernels/cuda/stream.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using StepGraphsTest = DeviceTest;

cudaGraphExec_t EmptyGraph() {
  const Stream stream = Stream::CreateBesideDefault().value();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  EXPECT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  cudaGraphDestroy(graph);
  return executable;
}

TEST_F(StepGraphsTest, TheOneNotUsedForLongestMakesRoom) {
  StepGraphs<int> graphs(3);
  cudaGraphExec_t made[5];
  for (int shape = 0; shape < 3; ++shape) graphs.Add(shape, made[shape] = EmptyGraph());
  EXPECT_EQ(graphs.Find(0), made[0]);
  graphs.Add(3, made[3] = EmptyGraph());
  EXPECT_EQ(graphs.Find(1), nullptr);
  EXPECT_EQ(graphs.Find(2), made[2]);
  EXPECT_EQ(graphs.Find(0), made[0]);
  graphs.Add(4, made[4] = EmptyGraph());
  EXPECT_EQ(graphs.Find(3), nullptr);
  EXPECT_EQ(graphs.Find(0), made[0]);
  EXPECT_EQ(graphs.Find(2), made[2]);
  EXPECT_EQ(graphs.Find(4), made[4]);
  graphs.Clear();
  EXPECT_EQ(graphs.Find(4), nullptr);
}

}  // namespace
}  // namespace kvship::cuda
