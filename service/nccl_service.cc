#include "service/nccl_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/system_random.h"
#include "transport/nccl_cuda.h"

namespace kvship {

absl::StatusOr<bool> WantsNccl(absl::string_view transport, bool has_gpu) {
  if (transport == "grpc") return false;
  if (transport != "nccl") {
    return absl::InvalidArgumentError(
        absl::StrCat("--transport is '", transport, "'; wanted grpc or nccl"));
  }
  if (has_gpu) return true;
  return absl::InvalidArgumentError(
      "--transport is 'nccl', and --device is 'cpu'; wanted a GPU, or grpc");
}

absl::StatusOr<std::unique_ptr<NcclService>> NcclService::Open(
    int gpu, std::shared_ptr<FrameStaging> staging, NcclMetrics& metrics) {
  const NcclCudaOptions options = {.device = gpu};
  ASSIGN_OR_RETURN(std::shared_ptr<NcclLibrary> library, CreateNcclLibrary(options));
  return Create(std::move(library), std::move(staging), {}, NcclEndpoint().transfer_timeout,
                metrics);
}

absl::StatusOr<std::unique_ptr<NcclService>> NcclService::Create(
    std::shared_ptr<NcclLibrary> library, std::shared_ptr<FrameStaging> staging,
    const NcclOptions& options, absl::Duration transfer_timeout, NcclMetrics& metrics) {
  ASSIGN_OR_RETURN(std::unique_ptr<NcclTransport> transport,
                   NcclTransport::Create(std::move(library), options));
  NcclEndpoint endpoint = {.executor = transport->executor().shared_from_this(),
                           .staging = std::move(staging),
                           .gpu = SystemRandomBits(),
                           .transfer_timeout = transfer_timeout};
  return std::unique_ptr<NcclService>(
      new NcclService(std::move(transport), std::move(endpoint), metrics));
}

NcclService::NcclService(std::unique_ptr<NcclTransport> transport, NcclEndpoint endpoint,
                         NcclMetrics& metrics)
    : metrics_(metrics), endpoint_(std::move(endpoint)), transport_(std::move(transport)) {
  metrics_.Watch(endpoint_.executor);
}

NcclService::~NcclService() = default;

}  // namespace kvship
