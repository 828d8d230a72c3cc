// PrefillJob runs one prompt, or a pack of several short ones, through the reader, and ships each
// prompt's cache layer by layer. Belongs to the engine thread.
#pragma once

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "prefill_service/prefill_shipment.h"
#include "prefill_service/prompt_reader.h"

namespace kvship {

class PrefillJob {
 public:
  // Borrows metrics and shipments, at least one, of the tasks that `reading` was begun with.
  PrefillJob(PrefillMetrics& metrics, std::unique_ptr<PromptReading> reading,
             std::vector<PrefillShipment*> shipments);

  // Computes one block of queries of one layer. At a layer's end, compresses and sends it; at the
  // last layer's end, samples the first tokens and sends the manifests, or notes in a shipment why
  // there is none. Must not be called once done().
  absl::Status Step();

  // Stops using the shipment of a request that has ended; the other prompts continue.
  void Forget(const PrefillShipment& shipment);

  bool done() const { return done_; }
  // Prompt tokens still to be read: num_tokens() times the share of the work that is left.
  double remaining_tokens() const { return (1 - reading_->fraction()) * num_tokens(); }
  bool is_packed() const { return shipments_.size() > 1; }
  size_t num_tokens() const { return num_tokens_; }
  // Prompt tokens that are not in the prefix cache.
  size_t tokens_to_read() const { return tokens_to_read_; }
  // Time of all steps, compression included.
  absl::Duration step_time() const { return step_time_; }

 private:
  absl::Status SendManifests();

  PrefillMetrics& metrics_;
  const std::unique_ptr<PromptReading> reading_;
  std::vector<PrefillShipment*> shipments_;  // null: forgotten
  size_t num_tokens_ = 0;                    // of all prompts
  size_t tokens_to_read_ = 0;
  absl::Duration compute_time_;
  absl::Duration step_time_;
  bool done_ = false;
};

}  // namespace kvship
