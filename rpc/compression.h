// Compression options between their protobuf form and the plain struct. Both have the same field
// names, and conversion goes by name through the text form, so that an option added to the struct
// and to types.proto needs no code here. Pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "kv/compression_options.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// `defaults` overlaid with the fields that are set, validated. Errors: InvalidArgument with a
// BadRequest detail "compression.<name>".
absl::StatusOr<CompressionOptions> CompressionFromProto(const v1::CompressionOptions& message,
                                                        const CompressionOptions& defaults);

// Every field set, with the budget as the one that counts.
v1::CompressionOptions CompressionToProto(const CompressionOptions& options);

// Sets one field from the text form of a value that SetCompressionOption has taken.
void SetCompressionField(const google::protobuf::FieldDescriptor& field, const std::string& text,
                         v1::CompressionOptions* message);

}  // namespace kvship
