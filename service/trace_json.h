// Spans as the body of an OTLP/HTTP request in JSON (opentelemetry-proto 1.3, trace/v1). Pure.
#pragma once

#include <span>
#include <string>

#include "absl/time/time.h"
#include "service/trace_span.h"

namespace kvship {

// `resource` says what made them. `to_wall_clock` is what makes the wall clock's time of the spans'
// times.
std::string TraceJson(std::span<const TraceSpan::Attribute> resource,
                      std::span<const TraceSpan> spans, absl::Duration to_wall_clock);

}  // namespace kvship
