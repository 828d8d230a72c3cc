// PrefillJob carries one task through the engine: it computes step by step, compresses each layer
// as soon as it is finished, and sends it, so that of the full cache no more than one layer ever
// exists. Belongs to the engine thread.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "compress/compressor.h"
#include "engine/prefill.h"
#include "kv/frames.h"
#include "prefill_service/prefill_metrics.h"
#include "prefill_service/prefill_task.h"
#include "transport/channel.h"

namespace kvship {

class PrefillJob {
 public:
  // What it has done so far.
  struct Totals {
    double kept_tokens = 0;  // per head, the mean over heads and layers
    size_t shipped_bytes = 0;
    absl::Duration queue_time = {};
    absl::Duration prefill_time = {};  // without compress_time
    absl::Duration compress_time = {};
  };

  // Borrows engine, metrics, task and channel. `queue_time` is what the request has waited.
  static absl::StatusOr<std::unique_ptr<PrefillJob>> Create(PrefillEngine& engine,
                                                            PrefillMetrics& metrics,
                                                            const PrefillTask& task,
                                                            Channel& channel,
                                                            absl::Duration queue_time);

  // Computes one block of queries of one layer; at a layer's end compresses and sends it; at the
  // prompt's end draws the first token and sends the manifest. Not to be called once done().
  absl::Status Step();

  bool done() const { return done_; }
  const Totals& totals() const { return totals_; }

 private:
  PrefillJob(PrefillEngine& engine, PrefillMetrics& metrics, const PrefillTask& task,
             Channel& channel, absl::Duration queue_time, std::unique_ptr<Compressor> compressor);
  void SendProgress();
  absl::Status ShipLayer();
  absl::StatusOr<OutputToken> FirstToken();
  void SendManifest(const OutputToken& first_token);

  PrefillEngine& engine_;
  PrefillMetrics& metrics_;
  const PrefillTask& task_;
  Channel& channel_;
  const std::unique_ptr<Compressor> compressor_;
  PrefillRun run_;
  FrameCutter cutter_;
  Totals totals_;
  absl::Time last_progress_ = absl::InfinitePast();
  bool done_ = false;
};

}  // namespace kvship
