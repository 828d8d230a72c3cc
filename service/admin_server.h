// AdminServer is the plaintext HTTP port for people and machines that watch a server:
//   /metrics   Prometheus text format
//   /healthz   200 while the process runs
//   /readyz    200 when Readiness is, else 503 with the reason
//   /          the program's name and state, for a browser
// It is for the cluster's inside: nothing on it is secret, nothing changes anything.
#pragma once

#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/readiness.h"

namespace kvship {

class AdminServer {
 public:
  // Listens on `address` ("host:port"; the flag's name is for messages) and serves until destroyed.
  // `certificate`: the PEM file of the other ports, which /metrics tells the end of; empty: none.
  // Borrows registry and readiness. Errors: InvalidArgument (no address), Unavailable (port in
  // use).
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& program,
                                                            const std::string& address,
                                                            prometheus::Registry& registry,
                                                            const Readiness& readiness,
                                                            const std::string& certificate = "");
  ~AdminServer();

  int port() const;

 private:
  struct Server;
  explicit AdminServer(std::unique_ptr<Server> server);

  std::unique_ptr<Server> server_;
};

}  // namespace kvship
