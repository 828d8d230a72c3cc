// Formats spans as the JSON body of an OTLP/HTTP request (opentelemetry-proto 1.3, trace/v1). Pure.
#pragma once

#include <span>
#include <string>

#include "absl/time/time.h"
#include "service/trace_span.h"

namespace kvship {

// `resource` describes their source. `to_wall_clock` is added to the spans' times.
std::string TraceJson(std::span<const TraceSpan::Attribute> resource,
                      std::span<const TraceSpan> spans, absl::Duration to_wall_clock);

}  // namespace kvship
