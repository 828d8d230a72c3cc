// PrefillSide is a prefill node of the tiny golden model in the test's own process, without ports:
// channels are given to its service.
#pragma once

#include <prometheus/registry.h>

#include <memory>

#include "engine/model_identity.h"
#include "prefill_service/host_prompt_reader.h"
#include "prefill_service/prefill_rpc_service.h"
#include "tests/e2e/staging_reader.h"

namespace kvship {

struct PrefillSide {
  // `nccl` is borrowed; null: frames go over the channel alone.
  explicit PrefillSide(NcclService* nccl = nullptr) : nccl(nccl) {}

  NcclService* const nccl;
  std::unique_ptr<const Transformer> model = *LoadTransformer(KVSHIP_GOLDENS "/models/llama");
  prometheus::Registry registry;
  PrefillMetrics metrics{registry};
  Backend backend{1};
  HostPromptReader host{*model, backend, {.arithmetic = Arithmetic::kFloat32}};
  StagingReader reader{host};
  PrefillScheduler scheduler{reader, metrics, {}};
  const Callers callers{{}, nullptr};
  const Readiness readiness;
  Tracer tracer;
  PrefillRpcService service{{.callers = callers,
                             .model = model->config,
                             .identity = CombinedIdentity(model->identity, {}),
                             .scheduler = scheduler,
                             .metrics = metrics,
                             .tracer = tracer,
                             .readiness = readiness,
                             .nccl = nccl},
                            GrpcServerChannelOptions()};
};

}  // namespace kvship
