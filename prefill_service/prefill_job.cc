#include "prefill_service/prefill_job.h"

#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

std::vector<PrefillPrompt> PromptsOf(const std::vector<PrefillShipment*>& shipments) {
  std::vector<PrefillPrompt> prompts;
  prompts.reserve(shipments.size());
  for (const PrefillShipment* shipment : shipments) {
    prompts.push_back({shipment->task().tokens, shipment->needs()});
  }
  return prompts;
}

}  // namespace

PrefillJob::PrefillJob(PrefillEngine& engine, PrefillMetrics& metrics,
                       std::vector<PrefillShipment*> shipments)
    : engine_(engine),
      metrics_(metrics),
      shipments_(std::move(shipments)),
      run_(engine, PromptsOf(shipments_)) {
  metrics_.run_requests.Observe(static_cast<double>(shipments_.size()));
}

absl::Status PrefillJob::Step() {
  const absl::Time begun = MonotonicNow();
  ASSIGN_OR_RETURN(const PrefillRun::Event event, run_.Step());
  compute_time_ += MonotonicNow() - begun;
  for (size_t i = 0; i < shipments_.size(); ++i) {
    if (shipments_[i] == nullptr) continue;
    shipments_[i]->SendProgress(run_.done() ? 1.0 : run_.fraction());
    if (event == PrefillRun::Event::kLayerDone) {
      RETURN_IF_ERROR(shipments_[i]->ShipLayer(engine_.backend(), run_.finished_layer(i)));
    }
  }
  if (run_.done()) {
    RETURN_IF_ERROR(SendManifests());
    done_ = true;
  }
  const absl::Duration taken = MonotonicNow() - begun;
  step_time_ += taken;
  metrics_.step_seconds.Observe(absl::ToDoubleSeconds(taken));
  return absl::OkStatus();
}

absl::Status PrefillJob::SendManifests() {
  Array<float> logits(engine_.model().config.vocab_tokens);
  for (size_t i = 0; i < shipments_.size(); ++i) {
    if (shipments_[i] == nullptr) continue;
    const absl::Time begun = MonotonicNow();
    RETURN_IF_ERROR(run_.Logits(i, shipments_[i]->task().tokens.size() - 1,
                                TensorView(logits.data(), {1, logits.size()})));
    const absl::Duration logits_time = MonotonicNow() - begun;
    RETURN_IF_ERROR(shipments_[i]->SendManifest(logits.span(), compute_time_ + logits_time));
  }
  return absl::OkStatus();
}

void PrefillJob::Forget(const PrefillShipment& shipment) {
  for (PrefillShipment*& known : shipments_) {
    if (known == &shipment) known = nullptr;
  }
}

}  // namespace kvship
