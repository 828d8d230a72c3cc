// Compression options between their protobuf form and the plain struct. Both have the same field
// names, and conversion goes by name through the text form, so that an option added to the struct
// and to types.proto needs no code here. Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kv/compression_options.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// `defaults` overlaid with the fields that are set, validated. Errors: InvalidArgument with a
// BadRequest detail as of WithCompressionField.
absl::StatusOr<CompressionOptions> CompressionFromProto(const v1::CompressionOptions& message,
                                                        const CompressionOptions& defaults);

// An error of CompressionOptions::Validate or MakePlan with a BadRequest detail:
// "compression.<name>" for the option that it begins with, "compression" where it is about several.
absl::Status WithCompressionField(const absl::Status& status);

// Every field set, with the budget as the one that counts. `options` are valid.
v1::CompressionOptions CompressionToProto(const CompressionOptions& options);

// Sets one option from the text form of its name and value. Errors: as SetCompressionOption, and
// InvalidArgument where it, or another way to say the same, is set already; with a BadRequest
// detail "compression.<name>".
absl::Status AddCompressionOption(const std::string& name, const std::string& value,
                                  v1::CompressionOptions* message);

// The options named in "scorer=snapkv,budget_tokens=512"; those left out stay unset, for the server
// to fill in. Errors: as AddCompressionOption.
absl::StatusOr<v1::CompressionOptions> CompressionFromText(absl::string_view text);

}  // namespace kvship
