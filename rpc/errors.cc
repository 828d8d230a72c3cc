#include "rpc/errors.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "google/rpc/error_details.pb.h"

namespace kvship {
namespace {

// Beside the status' own message there is little room in gRPC's trailers.
constexpr size_t kMostDescriptionBytes = 512;

// Of an ErrorInfo, so that its reason is one of rpc/errors.h.
constexpr char kDomain[] = "kvship";

std::string TypeUrl(const google::protobuf::Message& message) {
  return absl::StrCat("type.googleapis.com/", message.GetDescriptor()->full_name());
}

absl::Status WithDetail(absl::Status status, const google::protobuf::Message& detail) {
  if (!status.ok()) status.SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
  return status;
}

template <class Detail>
std::optional<Detail> DetailOf(const absl::Status& status) {
  Detail detail;
  const absl::optional<absl::Cord> payload = status.GetPayload(TypeUrl(detail));
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

}  // namespace

absl::Status WithField(absl::Status status, absl::string_view field) {
  google::rpc::BadRequest detail;
  auto* violation = detail.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(std::string(CutUtf8(status.message(), kMostDescriptionBytes)));
  return WithDetail(std::move(status), detail);
}

absl::Status WrongField(absl::string_view field, absl::string_view value,
                        absl::string_view wanted) {
  return WithField(
      absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; wanted ", wanted)), field);
}

absl::Status CheckMostBytes(absl::string_view field, absl::string_view text, size_t most_bytes) {
  if (text.size() <= most_bytes) return absl::OkStatus();
  return WrongField(field, absl::StrCat("a text of ", text.size(), " bytes"),
                    absl::StrCat("at most ", most_bytes));
}

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo detail;
  const int64_t nanos = absl::ToInt64Nanoseconds(delay);
  detail.mutable_retry_delay()->set_seconds(nanos / 1'000'000'000);
  detail.mutable_retry_delay()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  return WithDetail(std::move(status), detail);
}

absl::Status WithReason(absl::Status status, absl::string_view reason) {
  google::rpc::ErrorInfo detail;
  detail.set_reason(std::string(reason));
  detail.set_domain(kDomain);
  return WithDetail(std::move(status), detail);
}

absl::Status RefusedWhileDraining() {
  return WithReason(
      absl::UnavailableError(
          "the server is shutting down; send the request again, to one that takes its place"),
      kDraining);
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const auto detail = DetailOf<google::rpc::RetryInfo>(status);
  if (!detail.has_value()) return std::nullopt;
  return absl::Seconds(detail->retry_delay().seconds()) +
         absl::Nanoseconds(detail->retry_delay().nanos());
}

std::string ReasonOf(const absl::Status& status) {
  const auto detail = DetailOf<google::rpc::ErrorInfo>(status);
  // What stands between two nodes may have reasons of its own.
  return detail.has_value() && detail->domain() == kDomain ? detail->reason() : "";
}

std::string FieldOf(const absl::Status& status) {
  const auto detail = DetailOf<google::rpc::BadRequest>(status);
  return detail.has_value() && detail->field_violations_size() > 0
             ? detail->field_violations(0).field()
             : "";
}

absl::string_view LoggedMessage(const absl::Status& status) {
  return absl::IsInvalidArgument(status) ? "" : status.message();
}

}  // namespace kvship
