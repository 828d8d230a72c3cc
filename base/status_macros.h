// The project's only macros beside the list in kv/scorers.inc (docs/design.md): they return early
// with the error of a Status or StatusOr expression.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expr)                                                           \
  do {                                                                                  \
    if (absl::Status kvship_status = (expr); !kvship_status.ok()) return kvship_status; \
  } while (false)

#define KVSHIP_CONCAT_INNER(a, b) a##b
#define KVSHIP_CONCAT(a, b) KVSHIP_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(auto x, MakeX());
#define ASSIGN_OR_RETURN(lhs, expr) \
  KVSHIP_ASSIGN_OR_RETURN(KVSHIP_CONCAT(kvship_or_, __LINE__), lhs, expr)
#define KVSHIP_ASSIGN_OR_RETURN(tmp, lhs, expr)  \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = *std::move(tmp)
