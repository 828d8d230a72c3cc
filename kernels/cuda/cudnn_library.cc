#include "kernels/cuda/cudnn_library.h"

#include <cudnn.h>
#include <nvrtc.h>

#include "absl/strings/str_cat.h"
#include "base/shared_library.h"
#include "base/status_macros.h"

namespace kvship::cuda {
namespace {

struct CudnnLibrary {
  SharedLibrary library{absl::StrCat("libcudnn.so.", CUDNN_MAJOR),
                        absl::StrCat("cuDNN ", CUDNN_MAJOR)};
  decltype(&cudnnCreate) create = library.Find("cudnnCreate");
  decltype(&cudnnDestroy) destroy = library.Find("cudnnDestroy");
  decltype(&cudnnGetVersion) get_version = library.Find("cudnnGetVersion");
  decltype(&cudnnGetErrorString) get_error_string = library.Find("cudnnGetErrorString");
  decltype(&cudnnGetLastErrorString) get_last_error_string =
      library.Find("cudnnGetLastErrorString");
  decltype(&cudnnGetStream) get_stream = library.Find("cudnnGetStream");
  decltype(&cudnnSetStream) set_stream = library.Find("cudnnSetStream");
  decltype(&cudnnBackendCreateDescriptor) create_descriptor =
      library.Find("cudnnBackendCreateDescriptor");
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor =
      library.Find("cudnnBackendDestroyDescriptor");
  decltype(&cudnnBackendExecute) execute = library.Find("cudnnBackendExecute");
  decltype(&cudnnBackendFinalize) finalize = library.Find("cudnnBackendFinalize");
  decltype(&cudnnBackendGetAttribute) get_attribute = library.Find("cudnnBackendGetAttribute");
  decltype(&cudnnBackendSetAttribute) set_attribute = library.Find("cudnnBackendSetAttribute");
};

struct NvrtcLibrary {
  SharedLibrary library{absl::StrCat("libnvrtc.so.", CUDART_VERSION / 1000),
                        absl::StrCat("NVRTC of CUDA ", CUDART_VERSION / 1000)};
  decltype(&nvrtcCreateProgram) create_program = library.Find("nvrtcCreateProgram");
  decltype(&nvrtcDestroyProgram) destroy_program = library.Find("nvrtcDestroyProgram");
  decltype(&nvrtcCompileProgram) compile_program = library.Find("nvrtcCompileProgram");
  decltype(&nvrtcGetCUBIN) get_cubin = library.Find("nvrtcGetCUBIN");
  decltype(&nvrtcGetCUBINSize) get_cubin_size = library.Find("nvrtcGetCUBINSize");
  decltype(&nvrtcGetProgramLog) get_program_log = library.Find("nvrtcGetProgramLog");
  decltype(&nvrtcGetProgramLogSize) get_program_log_size = library.Find("nvrtcGetProgramLogSize");
};

const CudnnLibrary& Cudnn() {
  static const CudnnLibrary library;
  return library;
}

// Open before cuDNN looks for it, which may know no folder of it.
const NvrtcLibrary& Nvrtc() {
  static const NvrtcLibrary library;
  return library;
}

}  // namespace

absl::Status FindCudnn() {
  RETURN_IF_ERROR(Nvrtc().library.status());
  return Cudnn().library.status();
}

}  // namespace kvship::cuda

using kvship::cuda::Cudnn;
using kvship::cuda::Nvrtc;

extern "C" {

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { return Cudnn().create(handle); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return Cudnn().destroy(handle); }
size_t cudnnGetVersion() { return Cudnn().get_version(); }
const char* cudnnGetErrorString(cudnnStatus_t status) { return Cudnn().get_error_string(status); }
void cudnnGetLastErrorString(char* message, size_t max_bytes) {
  Cudnn().get_last_error_string(message, max_bytes);
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
  return Cudnn().get_stream(handle, stream);
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return Cudnn().set_stream(handle, stream);
}
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t* descriptor) {
  return Cudnn().create_descriptor(type, descriptor);
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return Cudnn().destroy_descriptor(descriptor);
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t variants) {
  return Cudnn().execute(handle, plan, variants);
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return Cudnn().finalize(descriptor);
}
cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t max_items,
                                       int64_t* num_items, void* items) {
  return Cudnn().get_attribute(descriptor, name, type, max_items, num_items, items);
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t num_items,
                                       const void* items) {
  return Cudnn().set_attribute(descriptor, name, type, num_items, items);
}

nvrtcResult nvrtcCreateProgram(nvrtcProgram* program, const char* source, const char* name,
                               int num_headers, const char* const* headers,
                               const char* const* include_names) {
  return Nvrtc().create_program(program, source, name, num_headers, headers, include_names);
}
nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) { return Nvrtc().destroy_program(program); }
nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int num_options, const char* const* options) {
  return Nvrtc().compile_program(program, num_options, options);
}
nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char* cubin) {
  return Nvrtc().get_cubin(program, cubin);
}
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t* num_bytes) {
  return Nvrtc().get_cubin_size(program, num_bytes);
}
nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char* log) {
  return Nvrtc().get_program_log(program, log);
}
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t* num_bytes) {
  return Nvrtc().get_program_log_size(program, num_bytes);
}

}  // extern "C"
