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
  absl::Duration compute_time() const { return prefill_time_ + compress_time_; }

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
  const absl::Duration queue_time_;
  const std::unique_ptr<Compressor> compressor_;
  PrefillRun run_;
  FrameCutter cutter_;
  absl::Duration prefill_time_;
  absl::Duration compress_time_;
  absl::Time last_progress_ = absl::InfinitePast();
  bool done_ = false;
};

}  // namespace kvship
