#include <cstdio>

#include "base/status_macros.h"
#include "client/commands.h"
#include "client/plan_model.h"
#include "client/plan_text.h"

namespace kvship {

absl::Status PlanCommand::Run() const {
  PlanRecord record = {.load = load, .compression = compression};
  ASSIGN_OR_RETURN(record.model, ReadPlannedModel(model));
  ASSIGN_OR_RETURN(record.gpu, ParseGpu(gpu));
  ASSIGN_OR_RETURN(const CompressionOptions options,
                   ParseCompression(compression, DefaultCompression(record.model.shape.head_dim)));
  ASSIGN_OR_RETURN(record.plan, PlanCapacity(record.model, record.gpu, options, load));
  std::fputs((json ? PlanJson(record) : PlanTable(record)).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace kvship
