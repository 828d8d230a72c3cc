// PrefillShipment is one request's compact cache on its way out: it compresses each layer as soon
// as the layer is finished and sends it, so that of the full cache no more than one layer ever
// exists, and closes with the first token and the manifest. Belongs to the engine thread.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "compress/compressor.h"
#include "kernels/backend.h"
#include "kv/frames.h"
#include "kv/layer_view.h"
#include "prefill_service/prefill_metrics.h"
#include "prefill_service/prefill_task.h"
#include "prefill_service/prefill_totals.h"
#include "transport/channel.h"

namespace kvship {

class PrefillShipment {
 public:
  // Borrows metrics, task and channel. `queue_time` is what the request has waited.
  static absl::StatusOr<std::unique_ptr<PrefillShipment>> Create(const KvShape& shape,
                                                                 PrefillMetrics& metrics,
                                                                 const PrefillTask& task,
                                                                 Channel& channel,
                                                                 absl::Duration queue_time);

  const PrefillTask& task() const { return task_; }
  // What it has done so far.
  const PrefillTotals& totals() const { return totals_; }
  // What the engine has to deliver with each layer.
  LayerNeeds needs() const { return compressor_->needs(); }

  // Tells the reader now and then; 1 is always told: everything has been computed.
  void SendProgress(double fraction);
  absl::Status ShipLayer(Backend& backend, const LayerView& layer);
  // `logits` are those after the prompt's last token, `prefill_time` what the engine took.
  absl::Status SendManifest(std::span<const float> logits, absl::Duration prefill_time);

 private:
  PrefillShipment(PrefillMetrics& metrics, const PrefillTask& task, Channel& channel,
                  absl::Duration queue_time, std::unique_ptr<Compressor> compressor)
      : metrics_(metrics),
        task_(task),
        channel_(channel),
        compressor_(std::move(compressor)),
        totals_({.queue_time = queue_time, .compute_begin = MonotonicNow()}) {}

  PrefillMetrics& metrics_;
  const PrefillTask& task_;
  Channel& channel_;
  const std::unique_ptr<Compressor> compressor_;
  FrameCutter cutter_;
  PrefillTotals totals_;
  absl::Time last_progress_ = absl::InfinitePast();
};

}  // namespace kvship
