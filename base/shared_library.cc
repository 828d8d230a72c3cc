#include "base/shared_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace kvship {

SharedLibrary::SharedLibrary(const std::string& name, absl::string_view product)
    : name_(name), handle_(dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ != nullptr) return;
  status_ = absl::FailedPreconditionError(
      absl::StrCat(name, " cannot be opened (", dlerror(), "); wanted ", product,
                   " installed, or its folder in LD_LIBRARY_PATH"));
}

SharedLibrary::Function SharedLibrary::Find(const char* function) {
  void* const address = handle_ == nullptr ? nullptr : dlsym(handle_, function);
  if (address == nullptr && status_.ok()) {
    status_ = absl::FailedPreconditionError(
        absl::StrCat(name_, " has no function ", function, "; wanted a newer version of it"));
  }
  return Function(address);
}

}  // namespace kvship
