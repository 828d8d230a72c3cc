// RefusedCall ends a streaming call with an error before anything is read.
#pragma once

#include "absl/status/status.h"
#include "transport/grpc_status.h"

namespace kvship {

// `Reactor` is the gRPC server reactor of the call's kind. Deletes itself.
template <class Reactor>
class RefusedCall final : public Reactor {
 public:
  explicit RefusedCall(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace kvship
