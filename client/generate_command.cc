#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands.h"
#include "client/progress_line.h"
#include "client/report_text.h"
#include "client/request_text.h"

namespace kvship {
namespace {

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Streams one answer to standard output where `print` says so.
absl::StatusOr<Answer> Ask(GenerationClient& client, const v1::GenerateRequest& request,
                           absl::Duration timeout, bool show_progress, bool print) {
  Answer answer;
  ProgressLine line(show_progress);
  auto report = client.Generate(request, timeout, [&](const v1::GenerateResponse& response) {
    if (response.has_progress()) return line.Show(response.progress());
    line.Clear();
    answer.text += response.output().text();
    const auto& tokens = response.output().tokens();
    answer.tokens.insert(answer.tokens.end(), tokens.begin(), tokens.end());
    if (print) Print(response.output().text());
  });
  line.Clear();
  RETURN_IF_ERROR(report.status());
  answer.report = *std::move(report);
  return answer;
}

}  // namespace

absl::Status GenerateCommand::Run(GenerationClient& client) const {
  const absl::StatusOr<Answer> answer = Ask(client, request, timeout, progress, !json);
  RETURN_IF_ERROR(answer.status());
  Print(json ? AnswerJson(*answer) + "\n" : "\n");
  if (report) std::fputs(ReportTable(answer->report).c_str(), stderr);
  if (report_file.empty()) return absl::OkStatus();
  std::ofstream file(report_file);
  file << AnswerJson(*answer) << "\n";
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("--report-file is '", report_file, "', which cannot be written"));
}

absl::Status ChatCommand::Run(GenerationClient& client) const {
  v1::GenerateRequest conversation = request;
  std::string line;
  char* text = nullptr;
  size_t capacity = 0;
  while (std::fputs("> ", stderr), getline(&text, &capacity, stdin) > 0) {
    line = text;
    while (!line.empty() && line.back() == '\n') line.pop_back();
    if (line.empty()) continue;
    if (const absl::Status status = CheckUtf8("the line", line); !status.ok()) {
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      continue;
    }
    v1::ChatMessage& user = *conversation.mutable_chat()->add_messages();
    user.set_role("user");
    user.set_content(line);
    const absl::StatusOr<Answer> answer =
        Ask(client, conversation, timeout, progress, /*print=*/true);
    if (!answer.ok()) {
      std::free(text);
      return answer.status();
    }
    Print("\n");
    v1::ChatMessage& assistant = *conversation.mutable_chat()->add_messages();
    assistant.set_role("assistant");
    assistant.set_content(answer->text);
  }
  std::free(text);
  std::fputs("\n", stderr);
  return absl::OkStatus();
}

absl::Status RunModels(GenerationClient& client, absl::Duration timeout, bool json) {
  ASSIGN_OR_RETURN(const v1::ModelInfo model, client.GetModelInfo(timeout));
  Print(json ? ModelJson(model) + "\n" : ModelTable(model));
  return absl::OkStatus();
}

}  // namespace kvship
