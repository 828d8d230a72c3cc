// The kvship-prefill program, after flag parsing: opens the ports, loads the model, serves until
// SIGTERM, drains. Called by main.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/compute_device.h"
#include "prefill_service/prefill_scheduler.h"
#include "service/port_security.h"
#include "service/process.h"

namespace kvship {

struct PrefillProgramOptions {
  std::string model;
  std::string listen = "127.0.0.1:50051";
  std::string admin = "127.0.0.1:9051";
  PortSecurity security;
  size_t num_threads = 0;  // 0: one per core
  bool float32 = false;
  ComputeDevice device;
  bool uses_nccl = false;         // requires a GPU
  size_t block_tokens = 0;        // queries per step; 0: 256 on the CPU, 8192 on a GPU
  size_t prefix_cache_bytes = 0;  // 0: no prefix cache
  PrefillScheduler::Options scheduler;
  std::string otlp_endpoint;  // of the trace collector; empty: none
  absl::Duration drain_timeout = absl::Seconds(30);

  // InvalidArgument naming the flag.
  absl::Status Validate() const;
};

// Runs until one of `signals` arrives; returns OK if all went well.
absl::Status RunPrefillProgram(const PrefillProgramOptions& options, StopSignals& signals);

}  // namespace kvship
