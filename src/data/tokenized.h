// Data sets → tokens, in one go: what a run trains on, and everything that decides it.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/readers.h"
#include "data/token_set.h"

namespace attune::data {

// All that decides the tokens but the tokenizer, which is a function of files. Nothing else reaches the reader, so that what
// `key_of` leaves out cannot change the result.
struct TokenRequest {
  std::vector<DataSet> sets;
  ReadOptions read;
  TokenizeOptions tokenize;
  std::string chat_template, tool_format;  // text::ChatTemplate::create
};

struct TokenizedData {
  TokenSet set;
  DataReport report;
  std::vector<std::string> files;  // that were read
  int64_t rows_read = 0;
  bool conversations = false;      // whether a chat template was needed
};

// Gives the chat template of the request when the first conversation is met.
using ChatSource = std::function<const text::ChatTemplate&()>;

// Reads and tokenises block by block: beside the tokens, memory holds the rest of the file that is being read.
TokenizedData tokenize_data_sets(const TokenRequest& request, const text::Tokenizer& tokenizer, const ChatSource& chat);

// 32 hexadecimal digits over every byte that decides the result: the request, the content of its data files and of the
// tokenizer's, and this program itself. `tokenizer`: the directory it is loaded from.
std::string key_of(const TokenRequest& request, const std::filesystem::path& tokenizer);

}  // namespace attune::data
