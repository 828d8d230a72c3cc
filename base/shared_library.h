// SharedLibrary is a system library that a program opens at first use, so that it starts without
// the library and does not load it where nothing uses it. It is never closed. Thread safe once its
// functions have been found.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

class SharedLibrary {
 public:
  // The address of a function; it converts to any function pointer it is assigned to.
  class Function {
   public:
    explicit Function(void* address) : address_(address) {}
    template <class Type>
    operator Type*() const {  // NOLINT(google-explicit-constructor): the whole point
      return reinterpret_cast<Type*>(address_);
    }

   private:
    void* const address_;
  };

  // `name` is the dynamic loader's, "libnccl.so.2"; `product` is what people install to get it.
  SharedLibrary(const std::string& name, absl::string_view product);

  // Null if the function is missing; status() then says so.
  Function Find(const char* function);

  // FailedPrecondition, naming the library and what to install, if it cannot be opened or lacks a
  // function that was looked for.
  const absl::Status& status() const { return status_; }

 private:
  const std::string name_;
  void* handle_;
  absl::Status status_;
};

}  // namespace kvship
