// PrefillShipment is one request's compact cache on its way out: it has each layer compressed as
// soon as the layer is finished and sends it, so that of the full cache no more than one layer ever
// exists, and closes with the first token and the manifest. Belongs to the engine thread.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kv/frames.h"
#include "prefill_service/prefill_metrics.h"
#include "prefill_service/prefill_task.h"
#include "prefill_service/prefill_totals.h"
#include "prefill_service/prompt_reader.h"
#include "transport/channel.h"

namespace kvship {

class PrefillShipment {
 public:
  // Borrows metrics, task and channel. `queue_time` is what the request has waited, `go_time` when
  // its client said Go, monotonic.
  PrefillShipment(PrefillMetrics& metrics, const PrefillTask& task, Channel& channel,
                  absl::Duration queue_time, absl::Time go_time)
      : metrics_(metrics),
        task_(task),
        channel_(channel),
        go_time_(go_time),
        totals_({.queue_time = queue_time, .compute_begin = MonotonicNow()}) {}

  const PrefillTask& task() const { return task_; }
  // What it has done so far.
  const PrefillTotals& totals() const { return totals_; }

  // For so long it was not read on, as its reader was slow.
  void AddReaderWait(absl::Duration waited) { reader_wait_ += waited; }
  // Tells the reader now and then; 1 is always told: everything has been computed.
  void SendProgress(double fraction);
  // The layer that `reading` has just finished, of its `prompt`-th prompt.
  absl::Status ShipLayer(PromptReading& reading, size_t prompt);
  // `reading` is done with its `prompt`-th prompt; `prefill_time` is what the engine took before.
  absl::Status SendManifest(PromptReading& reading, size_t prompt, absl::Duration prefill_time);

 private:
  PrefillMetrics& metrics_;
  const PrefillTask& task_;
  Channel& channel_;
  const absl::Time go_time_;
  FrameCutter cutter_;
  PrefillTotals totals_;
  absl::Time last_progress_ = absl::InfinitePast();
  absl::Time computed_time_;  // of the last layer
  absl::Duration reader_wait_;
};

}  // namespace kvship
