#include "rpc/message_json.h"

#include "absl/strings/escaping.h"

namespace kvship {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

Json MessageFields(const Message& message, bool only_set) {
  Json fields = Json::object();
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (field->is_repeated() || (only_set && !reflection.HasField(message, field))) continue;
    Json& value = fields[field->name()];
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_UINT32: value = reflection.GetUInt32(message, field); break;
      case FieldDescriptor::CPPTYPE_INT32: value = reflection.GetInt32(message, field); break;
      case FieldDescriptor::CPPTYPE_BOOL: value = reflection.GetBool(message, field); break;
      case FieldDescriptor::CPPTYPE_UINT64: value = reflection.GetUInt64(message, field); break;
      case FieldDescriptor::CPPTYPE_FLOAT: value = reflection.GetFloat(message, field); break;
      case FieldDescriptor::CPPTYPE_DOUBLE: value = reflection.GetDouble(message, field); break;
      case FieldDescriptor::CPPTYPE_STRING:
        value = field->type() == FieldDescriptor::TYPE_BYTES
                    ? absl::BytesToHexString(reflection.GetString(message, field))
                    : reflection.GetString(message, field);
        break;
      case FieldDescriptor::CPPTYPE_MESSAGE:
        value = MessageFields(reflection.GetMessage(message, field), /*only_set=*/true);
        break;
      default: fields.erase(field->name());
    }
  }
  return fields;
}

}  // namespace kvship
