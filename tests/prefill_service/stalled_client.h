// A client of a prefill node that stops reading.
#pragma once

#include <grpcpp/create_channel.h>

#include <memory>
#include <string>
#include <utility>

#include "kvship/v1/prefill.grpc.pb.h"

namespace kvship {

// An ordinary client that says Go and then reads nothing.
class StalledClient {
 public:
  StalledClient(const std::string& target, const v1::PrefillBegin& begin)
      : stub_(v1::PrefillService::NewStub(
            grpc::CreateChannel(target, grpc::InsecureChannelCredentials()))),
        stream_(stub_->Prefill(&context_)) {
    v1::PrefillRequest request;
    *request.mutable_begin() = begin;
    request.mutable_begin()->mutable_wire_version()->set_minor(1);  // it seals nothing
    stream_->Write(request);
    v1::PrefillResponse response;
    while (!response.has_ready() && stream_->Read(&response)) {
    }
    request.mutable_go()->set_transport("grpc");
    stream_->Write(request);
  }

  ~StalledClient() {
    context_.TryCancel();
    if (!finished_) ReadAll();
  }

  // Reads all that is left. The bytes of frames that came, and how the stream ended.
  std::pair<size_t, grpc::Status> ReadAll() {
    size_t num_bytes = 0;
    v1::PrefillResponse response;
    while (stream_->Read(&response)) {
      num_bytes += response.frame().payload().size();
      if (response.has_manifest()) manifest_ = response.manifest();
    }
    finished_ = true;
    return {num_bytes, stream_->Finish()};
  }
  // That came with what was left.
  const v1::PrefillManifest& manifest() const { return manifest_; }

 private:
  grpc::ClientContext context_;
  const std::unique_ptr<v1::PrefillService::Stub> stub_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::PrefillRequest, v1::PrefillResponse>> stream_;
  v1::PrefillManifest manifest_;
  bool finished_ = false;
};

}  // namespace kvship
