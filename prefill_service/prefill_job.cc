#include "prefill_service/prefill_job.h"

#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"

namespace kvship {

PrefillJob::PrefillJob(PrefillMetrics& metrics, std::unique_ptr<PromptReading> reading,
                       std::vector<PrefillShipment*> shipments)
    : metrics_(metrics), reading_(std::move(reading)), shipments_(std::move(shipments)) {
  for (const PrefillShipment* shipment : shipments_) num_tokens_ += shipment->task().tokens.size();
  metrics_.run_requests.Observe(static_cast<double>(shipments_.size()));
}

absl::Status PrefillJob::Step() {
  const absl::Time begun = MonotonicNow();
  ASSIGN_OR_RETURN(const PromptReading::Event event, reading_->Step());
  compute_time_ += MonotonicNow() - begun;
  for (size_t i = 0; i < shipments_.size(); ++i) {
    if (shipments_[i] == nullptr) continue;
    shipments_[i]->SendProgress(reading_->done() ? 1.0 : reading_->fraction());
    if (event == PromptReading::Event::kLayerDone) {
      RETURN_IF_ERROR(shipments_[i]->ShipLayer(*reading_, i));
    }
  }
  if (reading_->done()) {
    RETURN_IF_ERROR(SendManifests());
    done_ = true;
  }
  const absl::Duration taken = MonotonicNow() - begun;
  step_time_ += taken;
  metrics_.step_seconds.Observe(absl::ToDoubleSeconds(taken));
  return absl::OkStatus();
}

absl::Status PrefillJob::SendManifests() {
  for (size_t i = 0; i < shipments_.size(); ++i) {
    if (shipments_[i] == nullptr) continue;
    const absl::Time begun = MonotonicNow();
    ASSIGN_OR_RETURN(const Array<float> logits, reading_->Logits(i));
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
