#include "prefill_service/prefill_job.h"

#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"

namespace kvship {

PrefillJob::PrefillJob(PrefillMetrics& metrics, std::unique_ptr<PromptReading> reading,
                       std::vector<PrefillShipment*> shipments)
    : metrics_(metrics), reading_(std::move(reading)), shipments_(std::move(shipments)) {
  for (size_t i = 0; i < shipments_.size(); ++i) {
    const size_t num_tokens = shipments_[i]->task().tokens.size();
    num_tokens_ += num_tokens;
    tokens_to_read_ += num_tokens - reading_->reused_tokens(i);
  }
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
    RETURN_IF_ERROR(shipments_[i]->SendManifest(*reading_, i, compute_time_));
  }
  return absl::OkStatus();
}

void PrefillJob::Forget(const PrefillShipment& shipment) {
  for (PrefillShipment*& known : shipments_) {
    if (known == &shipment) known = nullptr;
  }
}

}  // namespace kvship
