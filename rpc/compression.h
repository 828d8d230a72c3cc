// Converts compression options between protobuf and the plain struct. Both have the same field
// names, and conversion goes by name through the text form, so that an option added to the struct
// and to types.proto needs no code here. Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kv/compression_options.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// Returns `defaults` overlaid with the message's set fields, validated. Errors: InvalidArgument
// with a BadRequest detail as of WithCompressionField.
absl::StatusOr<CompressionOptions> CompressionFromProto(const v1::CompressionOptions& message,
                                                        const CompressionOptions& defaults);

// Adds a BadRequest detail to an error of CompressionOptions::Validate or MakePlan:
// "compression.<name>" for the option that the message begins with, "compression" for several.
absl::Status WithCompressionField(const absl::Status& status);

// Sets every field, and of the budget the one in use. `options` must be valid.
v1::CompressionOptions CompressionToProto(const CompressionOptions& options);

// Sets one option from its name and value as text. Errors: as SetCompressionOption; InvalidArgument
// if the option, or an equivalent one, is set already; with a BadRequest detail
// "compression.<name>".
absl::Status AddCompressionOption(const std::string& name, const std::string& value,
                                  v1::CompressionOptions* message);

// Parses options such as "scorer=snapkv,budget_tokens=512"; others stay unset, for the server to
// fill in. Errors: as AddCompressionOption.
absl::StatusOr<v1::CompressionOptions> CompressionFromText(absl::string_view text);

}  // namespace kvship
