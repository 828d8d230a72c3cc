#include "rpc/compression.h"

#include <cassert>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
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

// Sets a field from the text form of a value that SetCompressionOption has taken. InvalidArgument
// if the field's type does not hold it.
absl::Status SetField(const FieldDescriptor& field, const std::string& text,
                      v1::CompressionOptions* message) {
  const Reflection& reflection = *message->GetReflection();
  uint32_t count = 0;
  int32_t position = 0;
  double number = 0;
  bool read = true;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      read = absl::SimpleAtoi(text, &count);
      reflection.SetUInt32(message, &field, count);
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      read = absl::SimpleAtod(text, &number);
      reflection.SetDouble(message, &field, number);
      break;
    case FieldDescriptor::CPPTYPE_INT32:
      read = absl::SimpleAtoi(text, &position);
      reflection.SetInt32(message, &field, position);
      break;
    case FieldDescriptor::CPPTYPE_BOOL: reflection.SetBool(message, &field, text == "true"); break;
    case FieldDescriptor::CPPTYPE_STRING: reflection.SetString(message, &field, text); break;
    default: assert(false && "an option of a type that has no text form here");
  }
  if (read) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("compression option ", field.name(), " is '", text,
                                                 "'; wanted a number of type ",
                                                 field.cpp_type_name()));
}

}  // namespace

absl::Status WithCompressionField(const absl::Status& status) {
  absl::string_view name = status.message();
  if (!absl::ConsumePrefix(&name, "compression option ")) return WithField(status, "compression");
  return WithField(status, absl::StrCat("compression.", name.substr(0, name.find(' '))));
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
  RETURN_IF_ERROR(WithCompressionField(options.Validate()));
  return options;
}

v1::CompressionOptions CompressionToProto(const CompressionOptions& options) {
  v1::CompressionOptions message;
  for (const auto& [name, text] : CompressionFields(options)) {
    const FieldDescriptor* field = v1::CompressionOptions::descriptor()->FindFieldByName(name);
    assert(field != nullptr && "an option that types.proto does not have");
    const absl::Status set = SetField(*field, text, &message);
    assert(set.ok() && "an option that is not valid");
  }
  return message;
}

absl::Status AddCompressionOption(const std::string& name, const std::string& value,
                                  v1::CompressionOptions* message) {
  const std::string path = absl::StrCat("compression.", name);
  CompressionOptions scratch;
  RETURN_IF_ERROR(WithField(SetCompressionOption(name, value, &scratch), path));
  // The text form's names are those of the message's fields.
  const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
  assert(field != nullptr && "an option that types.proto does not have");
  // Each is in a oneof: a budget's two forms in one, every other option by itself.
  if (message->GetReflection()->HasOneof(*message, field->containing_oneof())) {
    return WithField(absl::InvalidArgumentError(absl::StrCat(
                         "compression option ", name, " is given twice; wanted it, or another ",
                         "form of it, once")),
                     path);
  }
  return WithField(SetField(*field, value, message), path);
}

absl::StatusOr<v1::CompressionOptions> CompressionFromText(absl::string_view text) {
  v1::CompressionOptions message;
  for (const auto& [name, value] : SplitCompression(text)) {
    RETURN_IF_ERROR(AddCompressionOption(name, value, &message));
  }
  return message;
}

}  // namespace kvship
