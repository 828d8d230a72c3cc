// Streams the answer to a question: stream [SERVER] QUESTION
#include <iostream>

#include "client/generation_client.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "stream [SERVER] QUESTION\n";
    return 2;
  }
  kvship::GenerationClient client(argc > 2 ? argv[1] : "127.0.0.1:50050");
  kvship::v1::GenerateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(argv[argc - 1]);
  request.mutable_compression()->set_budget_ratio(0.25);

  const auto report =
      client.Generate(request, absl::Minutes(1), [](const kvship::v1::GenerateResponse& response) {
        std::cout << response.output().text() << std::flush;
      });
  if (!report.ok()) {
    std::cerr << report.status().message() << "\n";
    return 1;
  }
  std::cout << "\n" << report->kv().shipped_bytes() << " bytes of KV cache were shipped\n";
  return 0;
}
