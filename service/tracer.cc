#include "service/tracer.h"

#include "base/status_macros.h"

namespace kvship {

absl::Status Tracer::Start(const std::string& service, const std::string& endpoint,
                           prometheus::Registry& registry) {
  if (endpoint.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(exporter_, TraceExporter::Create(service, endpoint, registry));
  return absl::OkStatus();
}

}  // namespace kvship
