// AdminServer is the plaintext HTTP port for people and machines that watch a server:
//   /metrics      Prometheus text format
//   /healthz      200 while the process runs, 503 once only a new one helps: its GPU is lost, or
//                 it has been in one step for too long
//   /readyz       200 when Readiness is, else 503 with the reason
//   /status.json  what the program is doing (docs/status.md)
//   /             the same for people: a page that reads /status.json every two seconds
// It is for the cluster's inside: nothing on it is secret, nothing changes anything.
#pragma once

#include <prometheus/collectable.h>

#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/http_server.h"
#include "service/readiness.h"

namespace kvship {

class AdminServer {
 public:
  // What a program tells of itself in /status.json: an object. Called from any thread.
  using StatusSource = std::function<nlohmann::ordered_json()>;

  // What /metrics tells, in this order.
  using Metrics = std::vector<const prometheus::Collectable*>;

  // Listens on `address` ("host:port"; the flag's name is for messages) and serves until destroyed.
  // Borrows metrics and readiness. Errors: as HttpServer::Listen.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& program,
                                                            const std::string& address,
                                                            const Metrics& metrics,
                                                            const Readiness& readiness);
  ~AdminServer();

  int port() const { return http_.port(); }

  // What `source` gives is in /status.json from now on; null: nothing is, and the last source has
  // been called for the last time when this returns.
  void ShowStatus(StatusSource source);

 private:
  explicit AdminServer(const std::string& program);
  void AddHandlers(const Metrics& metrics, const Readiness& readiness);
  // Adds what all programs say of themselves, and what this one does.
  nlohmann::ordered_json Status(const Readiness& readiness);

  const std::string program_;
  const absl::Time started_;
  std::mutex mutex_;
  StatusSource source_;
  HttpServer http_;
};

}  // namespace kvship
