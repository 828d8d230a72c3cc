// Error responses in the form of OpenAI's API. All but AnswerErrors are for handlers.
#pragma once

#include <httplib.h>

#include "decode_service/http/openai_error.h"
#include "service/http_server.h"

namespace kvship {

// Fills `response` with the error.
void Respond(const OpenAiError& error, httplib::Response& response);

// For requests whose body is not fully read.
void RespondAndClose(const OpenAiError& error, httplib::Response& response);

// Has `server` answer so where a request cannot be read, or its handler threw, such as for lack of
// memory for a body. Call before Listen.
void AnswerErrors(HttpServer& server);

}  // namespace kvship
