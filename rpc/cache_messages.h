// The messages of the Prefill stream that describe a compact cache, between their protobuf and
// plain forms: plan, layer header, manifest. Pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "kv/frames.h"
#include "kv/manifest.h"
#include "kv/plan.h"
#include "kvship/v1/prefill.pb.h"

namespace kvship {

v1::KvPlan PlanToProto(const KvPlan& plan);

// Whether the peer computed the same plan. FailedPrecondition with reason PLAN_MISMATCH, naming the
// first difference, if not.
absl::Status CheckPlan(const v1::KvPlan& theirs, const KvPlan& ours);

v1::LayerHeader LayerHeaderToProto(const LayerHeader& header);
LayerHeader LayerHeaderFromProto(const v1::LayerHeader& message);

// Sets, or reads, the fields that KvManifest has. DataLoss if the digest has not 32 bytes.
void ManifestToProto(const KvManifest& manifest, v1::PrefillManifest* message);
absl::StatusOr<KvManifest> ManifestFromProto(const v1::PrefillManifest& message);

}  // namespace kvship
