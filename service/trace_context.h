// TraceContext identifies a span and its trace, in the form of W3C's Trace Context
// (https://www.w3.org/TR/trace-context/), which clients and nodes pass on as HTTP headers or gRPC
// metadata of the same names. A value.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace kvship {

inline constexpr char kTraceParent[] = "traceparent";
inline constexpr char kTraceState[] = "tracestate";
// Tells a client the trace of its request.
inline constexpr char kTraceResponse[] = "traceresponse";

struct TraceContext {
  std::string trace_id = {};  // 32 lower-case hex digits; empty: no trace
  std::string span_id = {};   // 16 of them
  bool sampled = false;       // the spans are to be recorded
  std::string state = {};     // other systems' data, passed on unchanged

  bool is_set() const { return !trace_id.empty(); }
  // "00-<trace_id>-<span_id>-01", or -00 if not sampled; only if is_set().
  std::string TraceParent() const;
  // Names and values to send with a call; empty without a trace.
  std::vector<std::pair<std::string, std::string>> Metadata() const;
};

// Not set if `trace_parent` is empty or malformed: a new trace then begins here. Drops a state that
// is too long or has control characters.
TraceContext ParseTraceContext(absl::string_view trace_parent, absl::string_view trace_state);

// As ParseTraceContext, from a call's metadata or a request's headers, a multimap of texts. Ignores
// several trace parents; joins several states into one list.
template <class Headers>
TraceContext TraceContextOf(const Headers& headers) {
  if (headers.count(kTraceParent) != 1) return {};
  const auto text = [](const auto& value) { return absl::string_view(value.data(), value.size()); };
  std::vector<absl::string_view> states;
  const auto [begin, end] = headers.equal_range(kTraceState);
  for (auto at = begin; at != end; ++at) states.push_back(text(at->second));
  return ParseTraceContext(text(headers.find(kTraceParent)->second), absl::StrJoin(states, ","));
}

// Makes a context for a new span: in the trace of `parent` or, if there is none, in a new sampled
// one.
TraceContext NewSpan(const TraceContext& parent);

}  // namespace kvship
