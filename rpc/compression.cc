#include "rpc/compression.h"

#include <cassert>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;

std::string FieldText(const v1::CompressionOptions& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(reflection.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrFormat("%.17g", reflection.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_INT32: return absl::StrCat(reflection.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_STRING: return reflection.GetString(message, &field);
    default: assert(false && "an option of a type that has no text form here"); return "";
  }
}

}  // namespace

void SetCompressionField(const FieldDescriptor& field, const std::string& text,
                         v1::CompressionOptions* message) {
  const Reflection& reflection = *message->GetReflection();
  uint32_t count = 0;
  int32_t position = 0;
  double number = 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      if (absl::SimpleAtoi(text, &count)) reflection.SetUInt32(message, &field, count);
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (absl::SimpleAtod(text, &number)) reflection.SetDouble(message, &field, number);
      break;
    case FieldDescriptor::CPPTYPE_INT32:
      if (absl::SimpleAtoi(text, &position)) reflection.SetInt32(message, &field, position);
      break;
    case FieldDescriptor::CPPTYPE_BOOL: reflection.SetBool(message, &field, text == "true"); break;
    case FieldDescriptor::CPPTYPE_STRING: reflection.SetString(message, &field, text); break;
    default: assert(false && "an option of a type that has no text form here");
  }
}

absl::StatusOr<CompressionOptions> CompressionFromProto(const v1::CompressionOptions& message,
                                                        const CompressionOptions& defaults) {
  CompressionOptions options = defaults;
  std::vector<const FieldDescriptor*> set_fields;
  message.GetReflection()->ListFields(message, &set_fields);
  for (const FieldDescriptor* field : set_fields) {
    const absl::Status status =
        SetCompressionOption(field->name(), FieldText(message, *field), &options);
    if (!status.ok()) return WithField(status, absl::StrCat("compression.", field->name()));
  }
  if (absl::Status status = options.Validate(); !status.ok()) {
    return WithField(std::move(status), "compression");
  }
  return options;
}

v1::CompressionOptions CompressionToProto(const CompressionOptions& options) {
  v1::CompressionOptions message;
  for (const auto& [name, text] : CompressionFields(options)) {
    const FieldDescriptor* field = v1::CompressionOptions::descriptor()->FindFieldByName(name);
    assert(field != nullptr && "an option that types.proto does not have");
    SetCompressionField(*field, text, &message);
  }
  return message;
}

}  // namespace kvship
