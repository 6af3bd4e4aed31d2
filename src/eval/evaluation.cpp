#include "eval/evaluation.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/readers.h"
#include "data/token_set.h"
#include "eval/metrics.h"
#include "formats/peft.h"
#include "train/setup.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"
#include "util/progress.h"

namespace attune::eval {
namespace {

std::string first_sentence(const std::string& text) {
  size_t end = text.size();
  for (const char* mark : {".", "。", "\n", "<"}) end = std::min(end, text.find(mark));
  return text.substr(0, end);
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

std::vector<int32_t> raw_prompt(const std::string& text, const text::Tokenizer& tokenizer) {
  text::EncodeOptions encode;
  encode.add_special_tokens = true;
  std::vector<int32_t> prompt = tokenizer.encode(text, encode).ids;
  // A tokenizer that adds EOS would end the text before it is continued.
  if (prompt.size() > 1 && tokenizer.eos_id() && prompt.back() == *tokenizer.eos_id()) prompt.pop_back();
  return prompt;
}

// An answer that calls a tool has its text from the template.
std::string label_of(const text::Conversation& conversation, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat) {
  const text::Message& answer = conversation.messages.back();
  if (!answer.content.empty() || !chat) return trimmed(answer.content);
  const data::TokenizedRow row = data::tokenize_conversation(conversation, tokenizer, *chat, false);
  if (row.answers.empty()) return "";
  return trimmed(tokenizer.decode(std::span(row.ids).subspan(row.answers.back().begin, row.answers.back().end - row.answers.back().begin), true));
}

std::vector<Question> ask(const data::Records& records, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat, const std::string& column) {
  std::vector<Question> questions;
  FileLines lines;
  for (const data::Record& record : records.rows) {
    if (!last_answer(record)) refuse("{}: a question ends with its answer; this row has none", records.where(record.source));
    Question q;
    q.label = label_of(record.conversation, tokenizer, chat);
    q.data_set = records.data_set(record.source);
    if (chat) {
      text::Conversation before = record.conversation;
      before.messages.pop_back();
      const auto user = std::find_if(before.messages.rbegin(), before.messages.rend(), [](const auto& m) { return m.role == "user"; });
      if (user != before.messages.rend()) q.shown = user->content;
      q.prompt = data::tokenize_prompt(before, tokenizer, *chat);
    } else {
      q.shown = column_of(records, record, column, lines);
      q.prompt = raw_prompt(q.shown, tokenizer);
    }
    questions.push_back(std::move(q));
  }
  return questions;
}

// The scores of one data set as they add up.
class Sums {
 public:
  void add(const Question& q) {
    const Rouge r = rouge(q.prediction, q.label);
    const double values[] = {exact_match(q.prediction, q.label) ? 1.0 : 0.0, token_f1(q.prediction, q.label), r.rouge_1, r.rouge_2, r.rouge_l, sentence_bleu_4(q.prediction, q.label)};
    for (size_t i = 0; i < std::size(values); ++i) sums_[i] += values[i];
    bleu_.add(q.prediction, q.label);
    ++count_;
  }
  void write(Scores& scores) const {
    constexpr const char* kNames[] = {"exact_match", "f1", "rouge_1", "rouge_2", "rouge_l", "bleu_4"};
    scores.questions = count_;
    for (size_t i = 0; i < std::size(kNames); ++i) scores.set(kNames[i], count_ ? sums_[i] / static_cast<double>(count_) : 0);
    scores.set("corpus_bleu_4", bleu_.score());
  }

 private:
  double sums_[6] = {};
  CorpusBleu bleu_;
  int64_t count_ = 0;
};

Json scores_json(const Scores& scores) {
  Json out = Json::object();
  for (const auto& [name, value] : scores.numbers) out[name] = value;
  out["questions"] = scores.questions;
  out["matches"] = static_cast<int64_t>(std::llround(scores.at("exact_match") * static_cast<double>(scores.questions)));
  return out;
}

}  // namespace

void Scores::set(const std::string& name, double value) {
  for (auto& [known, number] : numbers)
    if (known == name) {
      number = value;
      return;
    }
  numbers.push_back({name, value});
}

double Scores::at(const std::string& name) const {
  for (const auto& [known, number] : numbers)
    if (known == name) return number;
  return 0;
}

void Evaluation::join(const std::string& data_set, const std::string& name, double value) {
  if (data_set.empty()) return all.set(name, value);
  for (Scores& scores : each)
    if (scores.data_set == data_set) return scores.set(name, value);
  each.push_back({data_set, 0, {{name, value}}});
}

void Evaluation::score() {
  Sums total;
  std::vector<Sums> sums(data_sets.size());
  for (const Question& q : questions) {
    total.add(q);
    sums.at(static_cast<size_t>(q.data_set)).add(q);
  }
  total.write(all);
  for (size_t s = 0; s < data_sets.size(); ++s) {
    Scores scores{data_sets[s], 0, {}};
    sums[s].write(scores);
    each.push_back(std::move(scores));
  }
}

Json Evaluation::json() const {
  Json out = scores_json(all);
  if (each.size() < 2) return out;
  out["data_sets"] = Json::object();
  for (const Scores& scores : each) out["data_sets"][scores.data_set] = scores_json(scores);
  return out;
}

std::string Evaluation::predictions_jsonl() const {
  std::string out;
  for (const Question& q : questions) out += dump_json({{"prompt", q.shown}, {"predict", q.prediction}, {"label", q.label}}) + "\n";
  return out;
}

Evaluation evaluate(infer::Generator& generator, const data::Records& records, const AskOptions& options) {
  const text::Tokenizer& tokenizer = generator.tokenizer();
  const auto chat = options.prompt_column.empty() ? text::ChatTemplate::create(options.chat_template, tokenizer) : nullptr;
  Evaluation evaluation;
  evaluation.data_sets = records.data_sets;
  evaluation.questions = ask(records, tokenizer, chat.get(), options.prompt_column);
  infer::GenerateOptions generate;
  generate.max_new_tokens = options.max_new_tokens;
  generate.batch_size = options.batch_size;
  generate.stop_ids = generator.stop_ids(chat ? chat->stop_texts() : std::vector<std::string>{});
  const auto total = static_cast<int64_t>(evaluation.questions.size());
  Progress progress("eval", total);
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  int64_t done = 0, tokens = 0, matches = 0;
  double said = progress.elapsed();
  const auto take = [&](size_t i, const infer::Generation& answer) {
    Question& q = evaluation.questions[i];
    std::string prediction = tokenizer.decode(answer.ids, true);
    if (!chat) prediction = first_sentence(prediction);
    q.prediction = trimmed(prediction);
    tokens += static_cast<int64_t>(answer.ids.size());
    matches += exact_match(q.prediction, q.label);
    const double seconds = std::max(1e-9, progress.elapsed());
    const std::string note = fmt::format("{:.1f} tokens/s, exact match {:.1f} %", static_cast<double>(tokens) / seconds, 100.0 * static_cast<double>(matches) / static_cast<double>(++done));
    progress.update(done, note);
    // Without a terminal there is no bar: a line now and then.
    if (!terminal && seconds - said > 30) info("eval {}/{}: {}, {} left", done, total, note, format_seconds(progress.remaining(done))), said = seconds;
  };
  std::vector<infer::Prompt> prompts;
  for (const Question& q : evaluation.questions) prompts.push_back({q.prompt, 0});
  infer::Listener listener;
  listener.on_answer = take;
  generator.generate_batch(prompts, generate, listener);
  evaluation.score();
  return evaluation;
}

data::Records read_questions(const std::vector<fs::path>& files, int64_t max_samples) {
  data::Records records;
  data::DataReport report;
  for (const fs::path& file : files) data::read_records(file, {data::RowKind::conversation, max_samples}, records, report);
  for (const std::string& line : report.summary()) warn("{}", line);
  return records;
}

data::Records held_out_records(const train::Config& config) {
  if (config.pretraining()) refuse("stage pt has no questions to answer; only its loss can be evaluated");
  data::DataReport report;
  data::Records records;
  if (!config.eval_dataset.empty()) {
    records = train::read_data_sets(config, config.eval_dataset, report);
  } else {
    if (config.val_size <= 0) refuse("nothing is held out: set eval_dataset or val_size, or name files with --file");
    if (config.streaming)
      refuse("streaming: answers are asked for of eval_dataset, or of files with --file; of the rows that val_size holds out only the loss is told "
             "(predict_with_generate: false)");
    const train::RunSetup setup = train::prepare(config);
    std::set<std::string> held, trained;
    for (int64_t i = 0; i < setup.eval_set->size(); ++i) held.insert(setup.eval_set->where(i));
    for (int64_t i = 0; i < setup.train_set->size(); ++i) trained.insert(setup.train_set->where(i));
    records = train::read_data_sets(config, config.dataset, report);
    // A row that `name#500` repeats may stand on both sides; it is not held out then. Of a held-out one, once is enough.
    std::erase_if(records.rows, [&](const data::Record& r) {
      const std::string where = records.where(r.source);
      return trained.count(where) || !held.erase(where);
    });
    if (records.rows.empty()) refuse("val_size: every held-out row is also trained on (repeated by #)");
  }
  for (const std::string& line : report.summary()) warn("{}", line);
  return records;
}

std::string evaluated_model(const train::Config& config) {
  const fs::path output = config.output_dir;
  const bool result = fs::exists(output / "config.json") && (fs::exists(output / "model.safetensors") || fs::exists(output / "model.safetensors.index.json"));
  return result ? output.string() : config.model_name_or_path;
}

std::vector<std::string> evaluated_adapters(const train::Config& config) {
  std::vector<std::string> adapters = config.adapter_name_or_path;
  if (config.finetuning_type != "lora" || !formats::is_adapter(config.output_dir)) return adapters;
  if (!adapters.empty() && !config.create_new_adapter) adapters.pop_back();
  adapters.push_back(config.output_dir);
  return adapters;
}

double majority_baseline(const std::vector<fs::path>& train, const std::vector<fs::path>& test) {
  std::map<std::string, int64_t> counts;
  for (const data::Record& r : read_questions(train, 0).rows)
    if (const auto* answer = last_answer(r)) ++counts[trimmed(answer->content)];
  std::string most;
  for (const auto& [answer, n] : counts)
    if (most.empty() || n > counts[most]) most = answer;
  int64_t total = 0, equal = 0;
  for (const data::Record& r : read_questions(test, 0).rows)
    if (const auto* answer = last_answer(r)) ++total, equal += trimmed(answer->content) == most;
  return total ? static_cast<double>(equal) / static_cast<double>(total) : 0;
}

}  // namespace attune::eval
