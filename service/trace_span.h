// TraceSpan is one operation of a request, with its times. Plain data; docs/tracing.md lists the
// names and what they measure.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "service/trace_context.h"

namespace kvship {

struct TraceSpan {
  // As OTLP numbers them.
  enum class Kind { kInternal = 1, kServer = 2, kClient = 3 };

  struct Attribute {
    std::string name;
    std::variant<std::string, uint64_t, double> value;
  };

  std::string name;
  Kind kind = Kind::kInternal;
  TraceContext context;
  std::string parent_id = {};  // of the parent span; empty: none
  absl::Time begin;            // monotonic
  absl::Time end;
  std::vector<Attribute> attributes = {};
  absl::Status status = {};
};

}  // namespace kvship
