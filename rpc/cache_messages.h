// Converts the messages of the Prefill stream that describe a compact cache (plan, layer header,
// manifest) between protobuf and plain structs. Pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "kv/frames.h"
#include "kv/manifest.h"
#include "kv/plan.h"
#include "kvship/v1/prefill.pb.h"

namespace kvship {

v1::KvPlan PlanToProto(const KvPlan& plan);

// Checks that the peer computed the same plan. FailedPrecondition with reason PLAN_MISMATCH, naming
// the first difference, if not.
absl::Status CheckPlan(const v1::KvPlan& theirs, const KvPlan& ours);

v1::LayerHeader LayerHeaderToProto(const LayerHeader& header);
LayerHeader LayerHeaderFromProto(const v1::LayerHeader& message);

// Writes and reads the fields of KvManifest. DataLoss if the digest is not 32 bytes long.
void ManifestToProto(const KvManifest& manifest, v1::PrefillManifest* message);
absl::StatusOr<KvManifest> ManifestFromProto(const v1::PrefillManifest& message);

}  // namespace kvship
