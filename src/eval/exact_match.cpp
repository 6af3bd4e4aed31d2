#include "eval/exact_match.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "data/readers.h"
#include "data/token_set.h"
#include "util/error.h"
#include "util/log.h"
#include "util/progress.h"

namespace attune::eval {
namespace {

std::string trimmed(std::string text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::string first_sentence(const std::string& text) {
  size_t end = text.size();
  for (const char* mark : {".", "。", "\n", "<"}) end = std::min(end, text.find(mark));
  return text.substr(0, end);
}

data::Records read_all(const std::vector<fs::path>& files, int64_t max_samples) {
  data::Records records;
  data::DataReport report;
  for (const fs::path& file : files) data::read_records(file, {false, max_samples}, records, report);
  for (const std::string& line : report.summary()) warn("{}", line);
  return records;
}

const text::Message* last_answer(const data::Record& record) {
  const auto& messages = record.conversation.messages;
  return !messages.empty() && messages.back().role == "assistant" ? &messages.back() : nullptr;
}

// Lines of the files that one evaluation reads, by index into its Records::files.
using FileLines = std::map<int32_t, std::vector<std::string>>;

// The column's text, from the file itself: records hold only what training needs.
std::string column_of(const data::Records& records, const data::Record& record, const std::string& column, FileLines& lines) {
  auto& file = lines[record.source.file];
  if (file.empty()) {
    std::string content = read_file(records.files[static_cast<size_t>(record.source.file)]), line;
    for (char c : content)
      if (c == '\n') file.push_back(std::move(line)), line.clear();
      else line += c;
    file.push_back(line);
  }
  const std::string where = records.where(record.source);
  const Json row = parse_json(file.at(static_cast<size_t>(record.source.line - 1)), where + " (--prompt-column needs JSONL, one row a line)");
  if (!row.is_object() || !row.contains(column) || !row[column].is_string()) refuse("{}: has no text column \"{}\"", where, column);
  return row[column].get<std::string>();
}

}  // namespace

ExactMatchResult exact_match(infer::Generator& generator, const std::vector<fs::path>& files, const ExactMatchOptions& options) {
  const data::Records records = read_all(files, options.max_samples);
  const text::Tokenizer& tokenizer = generator.tokenizer();
  const bool raw = !options.prompt_column.empty();
  const auto chat = raw ? nullptr : text::ChatTemplate::create(options.chat_template, tokenizer);
  infer::GenerateOptions generate;
  generate.max_new_tokens = options.max_new_tokens;
  generate.stop_ids = generator.stop_ids(chat ? chat->stop_texts() : std::vector<std::string>{});
  ExactMatchResult result;
  FileLines lines;
  Progress progress("eval", static_cast<int64_t>(records.rows.size()));
  for (const data::Record& record : records.rows) {
    const text::Message* answer = last_answer(record);
    if (!answer) refuse("{}: a question for exact match ends with its answer", records.where(record.source));
    std::vector<int32_t> prompt;
    std::string shown;
    if (raw) {
      shown = column_of(records, record, options.prompt_column, lines);
      text::EncodeOptions encode;
      encode.add_special_tokens = true;
      prompt = tokenizer.encode(shown, encode).ids;
      if (prompt.size() > 1 && tokenizer.eos_id() && prompt.back() == *tokenizer.eos_id()) prompt.pop_back();
    } else {
      text::Conversation question = record.conversation;
      question.messages.pop_back();
      shown = question.messages.empty() ? "" : question.messages.back().content;
      prompt = data::tokenize_prompt(question, tokenizer, *chat);
    }
    const auto ids = generator.generate(prompt, generate).ids;
    std::string prediction = tokenizer.decode(ids, true);
    if (raw) prediction = first_sentence(prediction);
    prediction = trimmed(prediction);
    ++result.questions;
    result.matches += prediction == trimmed(answer->content);
    result.prompts.push_back(shown);
    result.predictions.push_back(prediction);
    result.references.push_back(trimmed(answer->content));
    progress.update(result.questions, fmt::format("exact match {:.1f} %", 100 * result.rate()));
  }
  return result;
}

double majority_baseline(const std::vector<fs::path>& train, const std::vector<fs::path>& test) {
  std::map<std::string, int64_t> counts;
  for (const data::Record& r : read_all(train, 0).rows)
    if (const auto* answer = last_answer(r)) ++counts[trimmed(answer->content)];
  std::string most;
  for (const auto& [answer, n] : counts)
    if (most.empty() || n > counts[most]) most = answer;
  int64_t total = 0, equal = 0;
  for (const data::Record& r : read_all(test, 0).rows)
    if (const auto* answer = last_answer(r)) ++total, equal += trimmed(answer->content) == most;
  return total ? static_cast<double>(equal) / static_cast<double>(total) : 0;
}

}  // namespace attune::eval
