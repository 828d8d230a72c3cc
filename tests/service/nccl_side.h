// NCCL in a process of the tests' own: a faked GPU, and staging in host memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/match.h"
#include "base/crc32c.h"
#include "kvship/v1/prefill.pb.h"
#include "service/nccl_service.h"
#include "tests/eventually.h"
#include "tests/transport/fake_nccl.h"
#include "transport/channel.h"

namespace kvship {

// Only what hangs takes as long.
inline constexpr absl::Duration kHangs = absl::Seconds(60);
// Of one transfer: late ones are waited for.
inline constexpr absl::Duration kTimeout = absl::Seconds(1);

inline bool Becomes(const std::function<bool()>& condition) {
  return Eventually(condition, kHangs);
}

// NCCL in one of the processes. Its device memory is the host's.
struct NcclSide {
  static constexpr size_t kFrames = 8;

  NcclSide(FakeNccl& network, const std::string& program, absl::Duration timeout = kTimeout,
           absl::Duration connect_timeout = NcclOptions().connect_timeout)
      : metrics(program), gpu(network.NewGpu(program)) {
    staging = FrameStaging::Create(
        device, host,
        {.copy =
             [this](std::byte* to, const std::byte* from, size_t num_bytes) {
               if (copies_fail) return absl::InternalError("the device is lost");
               std::memcpy(to, from, num_bytes);
               return absl::OkStatus();
             },
         .checksum = [this](std::span<const std::byte> bytes) { return Crc32c(bytes) ^ damages; }});
    service = NcclService::Create(
                  gpu, staging,
                  {.connect_timeout = connect_timeout, .min_backoff = absl::Milliseconds(20)},
                  timeout, metrics)
                  .value();
  }

  NcclSnapshot Snapshot() const { return service->endpoint().executor->Snapshot(); }
  bool IsReady() const {
    const NcclSnapshot now = Snapshot();
    return now.num_closing == 0 &&
           std::any_of(now.peers.begin(), now.peers.end(),
                       [](const auto& peer) { return peer.state == NcclState::kReady; });
  }
  // What a metric says, the sum over its labels but for those of another `reason`.
  double Metric(const std::string& name, const std::string& reason = "") const {
    double sum = 0;
    for (const auto& family : metrics.Collect()) {
      if (!absl::EndsWith(family.name, name)) continue;
      for (const auto& metric : family.metric) {
        if (reason.empty() || metric.label.at(0).value == reason) sum += metric.counter.value;
      }
    }
    return sum;
  }

  std::vector<std::byte> device = std::vector<std::byte>(kFrames * kMostFrameBytes);
  std::vector<std::byte> host = std::vector<std::byte>(kFrames * kMostFrameBytes);
  std::atomic<bool> damages = false;  // what arrives
  std::atomic<bool> copies_fail = false;
  NcclMetrics metrics;
  std::shared_ptr<FakeNccl::Gpu> gpu;
  std::shared_ptr<FrameStaging> staging;
  std::unique_ptr<NcclService> service;
};

// The channel under one end; its other end is the test. `Said` is what that end says of NCCL:
// NcclAnswer or NcclNotice.
template <class Said>
class NcclTestChannel final : public FrameChannel {
 public:
  void SendMessage(std::string message) override {
    Said said;
    if constexpr (std::is_same_v<Said, v1::NcclAnswer>) {
      v1::PrefillRequest request;
      request.ParseFromString(message);
      said = request.nccl();
    } else {
      v1::PrefillResponse response;
      response.ParseFromString(message);
      said = response.nccl();
    }
    if (before_said) before_said(said);
    const std::lock_guard lock(mutex_);
    said_.push_back(said);
    unsent_bytes_ += message.size();
  }
  void SendFrame(const FrameHeader& header, SharedBytes payload) override {
    const std::lock_guard lock(mutex_);
    frames_.push_back(header);
    payloads_.emplace_back(payload.bytes.begin(), payload.bytes.end());
    unsent_bytes_ += payload.bytes.size();
  }
  size_t unsent_bytes() const override {
    const std::lock_guard lock(mutex_);
    return unsent_bytes_;
  }
  void Close(absl::Status status) override {
    const std::lock_guard lock(mutex_);
    if (!closed_) closed_ = std::move(status);
  }

  // May take its time.
  std::function<void(const Said&)> before_said;

  // The network takes all that was sent.
  void TakeAll() {
    const std::lock_guard lock(mutex_);
    unsent_bytes_ = 0;
  }
  std::vector<Said> said() const {
    const std::lock_guard lock(mutex_);
    return said_;
  }
  std::vector<FrameHeader> frames() const {
    const std::lock_guard lock(mutex_);
    return frames_;
  }
  std::vector<std::vector<std::byte>> payloads() const {
    const std::lock_guard lock(mutex_);
    return payloads_;
  }
  std::optional<absl::Status> closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Said> said_;
  std::vector<FrameHeader> frames_;
  std::vector<std::vector<std::byte>> payloads_;  // theirs
  size_t unsent_bytes_ = 0;
  std::optional<absl::Status> closed_;
};

}  // namespace kvship
