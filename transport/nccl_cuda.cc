#include "transport/nccl_cuda.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/shared_library.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

static_assert(sizeof(ncclUniqueId) == sizeof(NcclUniqueId));

// Enough to make NCCL connect all channels of the pair, whatever the length.
constexpr size_t kWarmUpBytes = 64;

// Opened when it is first used: programs without a GPU start without it.
struct Nccl {
  SharedLibrary library{absl::StrCat("libnccl.so.", NCCL_MAJOR), absl::StrCat("NCCL ", NCCL_MAJOR)};
  decltype(&ncclGetUniqueId) get_unique_id = library.Find("ncclGetUniqueId");
  decltype(&ncclCommInitRankConfig) init_rank = library.Find("ncclCommInitRankConfig");
  decltype(&ncclCommGetAsyncError) get_async_error = library.Find("ncclCommGetAsyncError");
  decltype(&ncclCommAbort) abort = library.Find("ncclCommAbort");
  decltype(&ncclSend) send = library.Find("ncclSend");
  decltype(&ncclRecv) recv = library.Find("ncclRecv");
  decltype(&ncclGetErrorString) get_error_string = library.Find("ncclGetErrorString");
  decltype(&ncclGetLastError) get_last_error = library.Find("ncclGetLastError");
};
// Of which no function may be called before CreateNcclLibrary has found it.
const Nccl& Lib() {
  static const Nccl library;
  return library;
}

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

// A call that is still being carried out is no error: Poll tells how it ends.
absl::Status NcclStatus(ncclResult_t result, ncclComm_t communicator, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(what, ": ", Lib().get_error_string(result), "; ",
                                             Lib().get_last_error(communicator)));
}

class CudaNcclCommunicator : public NcclCommunicator {
 public:
  CudaNcclCommunicator(int rank, void* warm_up) : rank_(rank), warm_up_(warm_up) {}
  // After Abort and Drain, or if Connect failed.
  ~CudaNcclCommunicator() override {
    for (cudaEvent_t event : marks_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  absl::Status Connect(const NcclUniqueId& id, int max_ctas) {
    // Its few blocks start as soon as others end, not behind all that a long kernel still has.
    int least = 0, greatest = 0;
    RETURN_IF_ERROR(
        CudaStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams"));
    RETURN_IF_ERROR(CudaStatus(
        cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "stream of NCCL"));
    for (cudaEvent_t& event : marks_) {
      RETURN_IF_ERROR(
          CudaStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event of NCCL"));
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = max_ctas;
    ncclUniqueId unique_id;
    std::memcpy(&unique_id, id.data(), sizeof unique_id);
    return NcclStatus(Lib().init_rank(&communicator_, 2, unique_id, rank_, &config), communicator_,
                      "ncclCommInitRankConfig");
  }

  absl::StatusOr<bool> Poll() override {
    ncclResult_t state = ncclSuccess;
    RETURN_IF_ERROR(NcclStatus(Lib().get_async_error(communicator_, &state), communicator_,
                               "ncclCommGetAsyncError"));
    RETURN_IF_ERROR(NcclStatus(state, communicator_, "NCCL"));
    return state == ncclSuccess;
  }

  absl::Status WarmUp() override { return Move({static_cast<std::byte*>(warm_up_), kWarmUpBytes}); }

  absl::Status Move(std::span<std::byte> bytes) override {
    constexpr int kReceiver = 1, kSender = 0;
    if (rank_ == kSender) {
      return NcclStatus(
          Lib().send(bytes.data(), bytes.size(), ncclUint8, kReceiver, communicator_, stream_),
          communicator_, "ncclSend");
    }
    return NcclStatus(
        Lib().recv(bytes.data(), bytes.size(), ncclUint8, kSender, communicator_, stream_),
        communicator_, "ncclRecv");
  }

  absl::Status Mark(size_t mark) override {
    return CudaStatus(cudaEventRecord(marks_[mark], stream_), "mark on NCCL's stream");
  }

  absl::StatusOr<bool> Passed(size_t mark) override {
    const cudaError_t state = cudaEventQuery(marks_[mark]);
    if (state == cudaErrorNotReady) return false;
    RETURN_IF_ERROR(CudaStatus(state, "NCCL's stream"));
    return true;
  }

  void Abort() override { Lib().abort(communicator_); }

  absl::Status Drain() override {
    return CudaStatus(cudaStreamSynchronize(stream_), "draining NCCL's stream");
  }

 private:
  const int rank_;
  void* const warm_up_;
  ncclComm_t communicator_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, kNcclMarks> marks_ = {};
};

class CudaNcclLibrary : public NcclLibrary {
 public:
  CudaNcclLibrary(const NcclCudaOptions& options, void* warm_up)
      : options_(options), warm_up_(warm_up) {}

  absl::Status AttachThread() override {
    return CudaStatus(cudaSetDevice(options_.device), "device of NCCL");
  }

  absl::StatusOr<NcclUniqueId> NewUniqueId() override {
    ncclUniqueId made;
    RETURN_IF_ERROR(NcclStatus(Lib().get_unique_id(&made), nullptr, "ncclGetUniqueId"));
    NcclUniqueId id;
    std::memcpy(id.data(), &made, sizeof made);
    return id;
  }

  absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const NcclUniqueId& id,
                                                            int rank) override {
    auto communicator = std::make_unique<CudaNcclCommunicator>(rank, warm_up_);
    RETURN_IF_ERROR(communicator->Connect(id, options_.max_ctas));
    return communicator;
  }

 private:
  const NcclCudaOptions options_;
  void* const warm_up_;
};

}  // namespace

void PrepareNcclEnvironment() {
  setenv("NCCL_RAS_ENABLE", "0", 1);
  unsetenv("NCCL_COMM_ID");
  // Collectives by NVLink's switches: memory and a way to hang for what no pair here ever does.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  // With the default of 8 streams would share queues, and work wait behind a kernel that waits for
  // a peer.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

absl::StatusOr<std::shared_ptr<NcclLibrary>> CreateNcclLibrary(const NcclCudaOptions& options) {
  RETURN_IF_ERROR(Lib().library.status());
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(options.device), "device of NCCL"));
  // Shared by all communicators, as what is in it is nobody's concern, and never freed, as that
  // would wait for the device.
  void* warm_up = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaMalloc(&warm_up, kWarmUpBytes), "warm-up bytes of NCCL"));
  return std::make_shared<CudaNcclLibrary>(options, warm_up);
}

}  // namespace kvship
