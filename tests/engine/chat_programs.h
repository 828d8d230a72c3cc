// Small chat templates for tests, as models have them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/chat_template.h"
#include "engine/chat_template_source.h"
#include "tests/temp_folder.h"

namespace kvship {

inline ChatTemplateSource ChatSource(std::string program,
                                     std::vector<std::string> special_tokens = {}) {
  return {.where = "the template",
          .program = std::move(program),
          .begin_token = "<s>",
          .end_token = "</s>",
          .special_tokens = std::move(special_tokens)};
}

// Of a published model, as it comes with llama.cpp's engine.
inline std::string PublishedProgram(const std::string& name) {
  return ReadBytes(KVSHIP_CHAT_TEMPLATES "/" + name + ".jinja");
}

// "T" and the tools, each message by its role's first letter, calls, and where the answer begins.
inline std::string ProgramWithCalls(const std::string& before_name,
                                    const std::string& before_arguments, const std::string& after) {
  return "{%- if tools %}T{{ tools | tojson }}{% endif -%}"
         "{%- for m in messages %}{{ m.role[0] | upper }}{{ m.content }}"
         "{%- for call in m.tool_calls %}" +
         before_name + "{{ call.function.name }}" + before_arguments +
         "{{ call.function.arguments | tojson }}" + after + "{%- endfor %}{%- endfor %}{{ 'A' }}";
}
inline std::string HermesProgram() {
  return ProgramWithCalls("{{ '<tool_call>\n{\"name\": \"' }}",
                          "\", \"arguments\": ", "}{{ '\n</tool_call>' }}");
}
inline std::string Llama3Program() {
  return ProgramWithCalls("{\"name\": \"", "\", \"parameters\": ", "}");
}

inline std::string MistralProgram() { return ProgramWithCalls("[TOOL_CALLS]", "[ARGS]", ""); }
// As Mistral 7B v0.3's, of one call a message.
inline std::string MistralSpacedListProgram() {
  return ProgramWithCalls("[TOOL_CALLS] [{\"name\": \"",
                          "\", \"arguments\": ", ", \"id\": \"{{ call.id }}\"}]");
}

}  // namespace kvship
