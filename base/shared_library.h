// SharedLibrary is a library of the machine's that a program opens when it first needs it, so that
// it starts where the library is missing, and does not hold it in memory where nothing uses it. It
// stays open. Thread safe once its functions have been found.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

class SharedLibrary {
 public:
  // The address of a function, which becomes a pointer of the type that it is assigned to.
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

  // `name` as the dynamic loader knows it, "libnccl.so.2"; `product` is what people install to have
  // it.
  SharedLibrary(const std::string& name, absl::string_view product);

  // Null if it is not there, which status() then says.
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
