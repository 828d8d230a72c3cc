// Formats a capacity plan: the table of `kvship plan`, and its --json. Pure functions.
#pragma once

#include <string>

#include "client/capacity_plan.h"

namespace kvship {

struct PlanRecord {
  PlannedModel model = {};
  Gpu gpu = {};
  PlannedLoad load = {};
  std::string compression = {};  // as given; empty: the default
  CapacityPlan plan = {};
};

// A table of whole and compact cache side by side, and one sentence for each of the two link
// speeds.
std::string PlanTable(const PlanRecord& record);

// One object: "model", "gpu", "load", "whole", "compact", "hiding_gbps", "break_even_gbps". Times
// in milliseconds, speeds of links in Gbit/s.
std::string PlanJson(const PlanRecord& record);

}  // namespace kvship
