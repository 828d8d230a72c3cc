// PrefillJob carries one prompt through the engine, or several short ones packed into one run, and
// ships each prompt's cache layer by layer. Belongs to the engine thread.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/prefill.h"
#include "prefill_service/prefill_shipment.h"

namespace kvship {

class PrefillJob {
 public:
  // Borrows all; `shipments` are at least one, for the engine's model.
  PrefillJob(PrefillEngine& engine, PrefillMetrics& metrics,
             std::vector<PrefillShipment*> shipments);

  // Computes one block of queries of one layer; at a layer's end compresses and sends it; at the
  // end draws the first tokens and sends the manifests. Not to be called once done().
  absl::Status Step();

  // Uses a shipment no more, whose request has ended; the others are read on.
  void Forget(const PrefillShipment& shipment);

  bool done() const { return done_; }
  // Prompt tokens still to be read, layers not yet computed counted as shares of them.
  double remaining_tokens() const { return (1 - run_.fraction()) * run_.num_tokens(); }
  bool is_packed() const { return shipments_.size() > 1; }
  size_t num_tokens() const { return run_.num_tokens(); }
  // Of all steps, compression counted.
  absl::Duration step_time() const { return step_time_; }

 private:
  absl::Status SendManifests();

  PrefillEngine& engine_;
  PrefillMetrics& metrics_;
  std::vector<PrefillShipment*> shipments_;  // null: forgotten
  PrefillRun run_;
  absl::Duration compute_time_;
  absl::Duration step_time_;
  bool done_ = false;
};

}  // namespace kvship
