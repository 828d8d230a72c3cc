// Errors as they cross RPCs: an absl::Status carries google.rpc details as payloads (a BadRequest
// with the wrong fields, a RetryInfo, an ErrorInfo with a reason that programs compare), which
// transport/grpc_status.h puts on the wire. Pure functions.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvship {

// The same error with a BadRequest detail naming `field`, the path of the field in the request
// ("compression.window"); the message becomes the violation's description. OK stays OK.
absl::Status WithField(absl::Status status, absl::string_view field);

// InvalidArgument "FIELD is VALUE; wanted WANTED" naming the field so.
absl::Status WrongField(absl::string_view field, absl::string_view value, absl::string_view wanted);

// WrongField, if a text has more bytes than `most_bytes`.
absl::Status CheckMostBytes(absl::string_view field, absl::string_view text, size_t most_bytes);

// The same error with a RetryInfo detail.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);

// The same error with an ErrorInfo detail of domain "kvship".
absl::Status WithReason(absl::Status status, absl::string_view reason);

// Reasons of WithReason.
inline constexpr char kWireVersionMismatch[] = "WIRE_VERSION_MISMATCH";
inline constexpr char kModelMismatch[] = "MODEL_MISMATCH";
inline constexpr char kPlanMismatch[] = "PLAN_MISMATCH";
inline constexpr char kContextLengthExceeded[] = "CONTEXT_LENGTH_EXCEEDED";  // of the request
inline constexpr char kDeviceMismatch[] = "DEVICE_MISMATCH";  // nodes of another kind may serve
inline constexpr char kDraining[] = "DRAINING";               // the server is shutting down
inline constexpr char kNotReady[] = "NOT_READY";  // the server is there and cannot serve now

// What a decode node answers to requests that it takes no more: Unavailable with kDraining.
absl::Status RefusedWhileDraining();

// What a received error says; nothing where it has no such detail or a broken one.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);
std::string ReasonOf(const absl::Status& status);  // one of WithReason's
std::string FieldOf(const absl::Status& status);   // the first one

// The message as it may stand in a log: none of an InvalidArgument, which quotes the request.
absl::string_view LoggedMessage(const absl::Status& status);

}  // namespace kvship
