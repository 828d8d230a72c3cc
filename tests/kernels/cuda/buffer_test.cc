#include "kernels/cuda/buffer.h"

#include <utility>
#include <vector>

#include "kernels/cuda/stream.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr size_t kBytes = 1 << 20;

size_t UsedBytes() { return DevicePoolBytes(cudaMemPoolAttrUsedMemCurrent).value(); }

using BufferTest = DeviceTest;

TEST_F(BufferTest, DeviceMemoryIsThePoolsUntilTheBufferIsDestroyed) {
  const size_t before = UsedBytes();
  DeviceBuffer buffer;
  {
    DeviceBuffer first = DeviceBuffer::Create(kBytes).value();
    EXPECT_GE(UsedBytes(), before + kBytes);
    buffer = std::move(first);
  }
  EXPECT_GE(UsedBytes(), before + kBytes);
  buffer = DeviceBuffer();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(UsedBytes(), before);
}

// What follows in the same memory comes after what is under way in it.
TEST_F(BufferTest, MayBeDestroyedBeforeItsWorkIsDone) {
  const Stream stream = Stream::Create().value(), other = Stream::Create().value();
  const DeviceArray<uint8_t> copy(kBytes);
  {
    const DeviceBuffer buffer = DeviceBuffer::Create(kBytes).value();
    cudaMemsetAsync(buffer.data(), 1, kBytes, stream.get());
    cudaMemcpyAsync(copy.data(), buffer.data(), kBytes, cudaMemcpyDeviceToDevice, stream.get());
  }
  const DeviceBuffer next = DeviceBuffer::Create(kBytes).value();
  cudaMemsetAsync(next.data(), 2, kBytes, other.get());
  EXPECT_EQ(other.Wait("set"), absl::OkStatus());
  EXPECT_EQ(stream.Wait("copy"), absl::OkStatus());
  EXPECT_EQ(copy.ToHost(), std::vector<uint8_t>(kBytes, 1));
}

TEST_F(BufferTest, MoreThanThereIsIsResourceExhausted) {
  EXPECT_EQ(DeviceBuffer::Create(size_t{1} << 42).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(DeviceBuffer::Create(kBytes).ok());
}

TEST_F(BufferTest, IsRefusedWhileAStreamCaptures) {
  const Stream stream = Stream::Create().value();
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_FALSE(DeviceBuffer::Create(kBytes).ok());
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream.get(), &graph);  // on a device the refusal has ended it
  if (graph != nullptr) cudaGraphDestroy(graph);
  EXPECT_TRUE(DeviceBuffer::Create(kBytes).ok());
}

}  // namespace
}  // namespace kvship::cuda
