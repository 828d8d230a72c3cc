// PrefillShipment sends one request's compact cache: it has each layer compressed and sends it as
// soon as the layer is computed, so that at most one full layer exists at a time, and ends with the
// first token and the manifest. Belongs to the engine thread.
#pragma once

#include "absl/status/status.h"
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
  // Borrows metrics, task and channel. `queue_time` is how long the request waited; `go_time`,
  // monotonic, is when its client sent Go.
  PrefillShipment(PrefillMetrics& metrics, const PrefillTask& task, FrameChannel& channel,
                  absl::Duration queue_time, absl::Time go_time)
      : metrics_(metrics),
        task_(task),
        channel_(channel),
        go_time_(go_time),
        totals_({.queue_time = queue_time, .compute_begin = MonotonicNow()}) {}

  const PrefillTask& task() const { return task_; }
  // Totals so far.
  const PrefillTotals& totals() const { return totals_; }

  // Adds time during which the request was paused for its slow reader.
  void AddReaderWait(absl::Duration waited) { reader_wait_ += waited; }
  // Sends progress, rate-limited, to the reader. Always sends 1: everything has been computed.
  void SendProgress(double fraction);
  // Compresses and sends the layer that `reading` has just finished, of its `prompt`-th prompt.
  absl::Status ShipLayer(PromptReading& reading, size_t prompt);
  // Ends the `prompt`-th prompt of `reading`, which is done. `prefill_time` is the engine's time
  // before. Where no first token can be drawn, only sets failed().
  absl::Status SendManifest(PromptReading& reading, size_t prompt, absl::Duration prefill_time);
  // Why this request must end, but not those that are read with it.
  const absl::Status& failed() const { return failed_; }

 private:
  PrefillMetrics& metrics_;
  const PrefillTask& task_;
  FrameChannel& channel_;
  const absl::Time go_time_;
  FrameCutter cutter_;
  PrefillTotals totals_;
  absl::Status failed_;
  absl::Time last_progress_ = absl::InfinitePast();
  absl::Time computed_time_;  // of the last layer
  absl::Duration reader_wait_;
};

}  // namespace kvship
