// TraceSpan is one thing that was done for a request, and when. Plain data; the names and what they
// measure are in docs/tracing.md.
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
  std::string parent_id = {};  // of the span above; empty: there is none
  absl::Time begin;            // of the monotonic clock
  absl::Time end;
  std::vector<Attribute> attributes = {};
  absl::Status status = {};
};

}  // namespace kvship
