// What a Generation uses, over a tiny node: a decode loop and what is known of prefill nodes.
#pragma once

#include <prometheus/text_serializer.h>

#include <string>
#include <utility>
#include <vector>

#include "decode_service/generation.h"
#include "tests/decode_service/tiny_node.h"

namespace kvship {

struct GenerationParts {
  explicit GenerationParts(std::vector<std::string> prefill_targets = {},
                           size_t pool_bytes = 16 << 20, const KvPool::Writer& writer = nullptr)
      : node(pool_bytes, writer), nodes({.targets = std::move(prefill_targets)}, node.metrics) {}

  // In Prometheus' text format.
  std::string Metrics() const {
    return prometheus::TextSerializer().Serialize(node.registry.Collect());
  }

  TinyNode node;
  Backend backend{1};
  DecodeEngine engine{*node.model.transformer, backend, Arithmetic::kFast};
  DecodeLoop loop{engine, backend.threads(), node.metrics, 1};
  PrefillNodes nodes;
  ClientRequests client_requests{0};
  RecentRequests recent;
  Tracer tracer;
  WorkQueue compiler{/*num_threads=*/1, /*most_bytes=*/1 << 20};
  WorkQueue preparer{/*num_threads=*/1, /*most_bytes=*/1 << 20};
  const Generation::Options options;
  const Generation::Uses uses{.model = node.model,
                              .nodes = nodes,
                              .client_requests = client_requests,
                              .queue = node.queue,
                              .loop = loop,
                              .metrics = node.metrics,
                              .recent = recent,
                              .tracer = tracer,
                              .preparer = preparer,
                              .compiler = compiler,
                              .options = options};
};

}  // namespace kvship
