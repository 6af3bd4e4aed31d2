// Files of prompts: rows that training reads, with or without their answer, {"prompt": …}, and plain lines.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "text/chat.h"
#include "text/tokenizer.h"

namespace attune::cli {

struct PromptRow {
  std::string where;         // file:line
  std::string shown;         // the text, or the last user message
  std::string label;         // where the row has an answer
  bool has_label = false;
  std::optional<std::string> adapter;  // which the row asks for (models::parse_weights)
  std::string error;         // why the row cannot be answered; empty: it can
  std::vector<int32_t> ids;
};

struct PromptFileOptions {
  const text::ChatTemplate* chat = nullptr;  // none: only plain text can be continued
  bool ask = false;                          // plain text is a user message
  std::string system;                        // where a conversation has none
  int64_t context = 0;                       // longest prompt; 0: any
  std::function<void(const std::string& adapter)> check_adapter;  // refuses a choice that cannot be
};

// Rows in the order of the file, those that cannot be used with their error; blank lines of plain text are left out. Refuses
// what is no file of rows.
std::vector<PromptRow> read_prompts(const std::string& file, const std::string& content, const text::Tokenizer& tokenizer, const PromptFileOptions& options);

}  // namespace attune::cli
