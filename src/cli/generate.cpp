// generate: one prompt, or a file of them.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/answer_file.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/prompt_file.h"
#include "cli/sampling.h"
#include "data/token_set.h"
#include "infer/text_stream.h"
#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/log.h"
#include "util/machine.h"
#include "util/progress.h"

namespace attune::cli {
namespace {

std::vector<int32_t> prompt_of(const GenerateArgs& args, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat) {
  if (!chat) return raw_prompt(*args.prompt, tokenizer);
  text::Conversation conversation;
  if (!args.system.empty()) conversation.messages.push_back({"system", args.system, 1, ""});
  conversation.messages.push_back({"user", *args.prompt, 1, ""});
  return data::tokenize_prompt(conversation, tokenizer, *chat);
}

int generate_one(const GenerateArgs& args, infer::GenerateOptions options) {
  const models::AdapterRequest adapters = adapters_of(args.adapters, args.use);
  const Quantization quantization = parse_quantization(args.quantization, "--quantization");
  note_base(adapters, quantization);
  infer::Generator generator(args.model, parse_dtype(args.compute, "--compute"), adapters, quantization, ops::choose_backend(args.device));
  const text::Tokenizer& tokenizer = generator.tokenizer();
  std::unique_ptr<text::ChatTemplate> chat;
  if (args.chat || !args.chat_template.empty()) chat = text::ChatTemplate::create(args.chat_template, tokenizer);
  const std::vector<int32_t> prompt = prompt_of(args, tokenizer, chat.get());
  options.stop_ids = generator.stop_ids(chat ? chat->stop_texts() : std::vector<std::string>{});
  infer::TextStream text(tokenizer, args.sampling.stop);
  const auto show = [&](const std::string& piece) {
    if (args.json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  const double begin = seconds_now();
  infer::Listener listener;
  listener.on_token = [&](size_t, int32_t id) {
    show(text.push(id));
    return !text.stopped();
  };
  const auto result = generator.generate(prompt, options, listener);
  const double seconds = seconds_now() - begin;
  show(text.finish() + "\n");
  if (args.json)
    fmt::print("{}\n", dump_json({{"text", infer::before_stop(tokenizer.decode(result.ids, true), args.sampling.stop)}, {"ids", result.ids}, {"prompt_ids", prompt},
                                  {"stopped", result.stopped}, {"tokens_per_second", static_cast<double>(result.ids.size()) / seconds}}));
  return 0;
}

// What answers are a function of: a job may only be resumed with the same.
Json settings_of(const GenerateArgs& args, const infer::GenerateOptions& o, const std::string& content) {
  return {{"model", args.model}, {"adapters", args.adapters}, {"use", args.use}, {"file", args.file}, {"content", fmt::format("{:016x}", hash64(content))}, {"compute", args.compute}, {"quantization", args.quantization},
          {"chat", args.chat}, {"template", args.chat_template}, {"system", args.system}, {"stop", args.sampling.stop}, {"samples", args.samples},
          {"max_new_tokens", o.max_new_tokens}, {"temperature", o.temperature}, {"top_k", o.top_k}, {"top_p", o.top_p}, {"min_p", o.min_p},
          {"repetition_penalty", o.repetition_penalty}, {"seed", o.seed}};
}

// Answers every row that has none yet.
class FileJob {
 public:
  FileJob(const GenerateArgs& args, infer::Generator& generator, const std::vector<PromptRow>& rows, AnswerFile& answers)
      : args_(args), generator_(generator), rows_(rows), answers_(answers), progress_("generate", answers.total()) {}

  // Rows that ask for the same adapter together, in the order in which the file first names it.
  void run(const infer::GenerateOptions& options) {
    std::vector<std::string> choices;
    for (const PromptRow& row : rows_)
      if (std::find(choices.begin(), choices.end(), row.adapter.value_or(args_.use)) == choices.end()) choices.push_back(row.adapter.value_or(args_.use));
    for (const std::string& choice : choices) {
      if (models::AdapterSet* adapters = generator_.adapters()) adapters->select(models::parse_weights(choice, adapters->adapters()));
      answer(choice, options);
    }
  }

  int64_t tokens() const { return tokens_; }  // generated

 private:
  void answer(const std::string& choice, const infer::GenerateOptions& options) {
    prompts_.clear();
    places_.clear();
    for (size_t i = 0; i < rows_.size(); ++i) {
      for (int64_t k = 0; k < args_.samples; ++k) {
        if (answers_.has(i, k) || rows_[i].adapter.value_or(args_.use) != choice) continue;
        if (!rows_[i].error.empty()) {
          answers_.add(i, k, {}, rows_[i].error);
          continue;
        }
        // Sample 0 of the first row draws what --prompt draws.
        places_.push_back({i, k});
        prompts_.push_back({rows_[i].ids, static_cast<uint64_t>(i) + (static_cast<uint64_t>(k) << 32)});
      }
    }
    infer::Listener listener;
    listener.on_answer = [this](size_t p, const infer::Generation& answer) { take(p, answer); };
    if (!args_.sampling.stop.empty())
      listener.on_token = [this](size_t p, int32_t id) {
        auto& text = texts_.try_emplace(p, generator_.tokenizer(), args_.sampling.stop).first->second;
        text.push(id);
        return !text.stopped();
      };
    generator_.generate_batch(prompts_, options, listener);
  }

  void take(size_t p, const infer::Generation& answer) {
    texts_.erase(p);
    answers_.add(places_[p].first, places_[p].second, infer::before_stop(generator_.tokenizer().decode(answer.ids, true), args_.sampling.stop), "");
    tokens_ += static_cast<int64_t>(answer.ids.size());
    const int64_t done = answers_.done();
    const std::string rate = fmt::format("{:.1f} tokens/s", static_cast<double>(tokens_) / std::max(1e-9, progress_.elapsed()));
    progress_.update(done, rate);
    // Without a terminal there is no bar: a line now and then.
    if (::isatty(STDERR_FILENO) == 1 || progress_.elapsed() - said_ < 30) return;
    said_ = progress_.elapsed();
    info("generate {}/{}: {}, {} left", done, answers_.total(), rate, format_seconds(progress_.remaining(done)));
  }

  const GenerateArgs& args_;
  infer::Generator& generator_;
  const std::vector<PromptRow>& rows_;
  AnswerFile& answers_;
  Progress progress_;
  std::vector<infer::Prompt> prompts_;
  std::vector<std::pair<size_t, int64_t>> places_;  // row and sample of each prompt
  std::map<size_t, infer::TextStream> texts_;
  int64_t tokens_ = 0;
  double said_ = 0;
};

// Of a row: the names, and whether they have a sum.
void check_choice(infer::Generator& generator, const std::string& choice) {
  models::AdapterSet* adapters = generator.adapters();
  if (!adapters) refuse("\"adapter\" is {}, and there is nothing to choose among: name adapters with --adapter NAME=DIRECTORY", choice);
  adapters->check(models::parse_weights(choice, adapters->adapters()));
}

void report_errors(const std::vector<PromptRow>& rows) {
  constexpr int64_t kShown = 10;
  int64_t errors = 0;
  for (const PromptRow& row : rows)
    if (!row.error.empty() && ++errors <= kShown) warn("{}", row.error);
  if (errors > kShown) warn("and {} rows more that have no answer; each says why in its \"error\"", errors - kShown);
}

int generate_file(const GenerateArgs& args, infer::GenerateOptions options) {
  if (args.samples > 1 && options.temperature == 0) refuse("--samples: at temperature 0 all answers to a prompt are the same; set --temperature");
  if (args.resume && args.out.empty()) refuse("--resume continues the file of --out, which is missing");
  if (!fs::exists(args.file)) refuse("--file: {} does not exist", args.file);
  if (!fs::is_regular_file(args.file)) refuse("--file: {} is not a regular file", args.file);
  const std::string content = read_file(args.file, uint64_t{1} << 40);
  AnswerFile answers(args.out, args.resume, settings_of(args, options, content));
  if (answers.complete()) {
    info("{} is complete already", args.out);
    return answers.failed() ? 1 : 0;
  }
  const models::AdapterRequest adapters = adapters_of(args.adapters, args.use, true);
  const Quantization quantization = parse_quantization(args.quantization, "--quantization");
  note_base(adapters, quantization);
  infer::Generator generator(args.model, parse_dtype(args.compute, "--compute"), adapters, quantization, ops::choose_backend(args.device));
  const text::Tokenizer& tokenizer = generator.tokenizer();
  const bool ask = args.chat || !args.chat_template.empty();
  std::unique_ptr<text::ChatTemplate> chat;
  if (ask || !tokenizer.chat_template().empty()) chat = text::ChatTemplate::create(args.chat_template, tokenizer);
  options.max_length = infer::context_length(generator.model().config());
  options.batch_size = args.batch_size;
  options.stop_ids = generator.stop_ids(chat ? chat->stop_texts() : std::vector<std::string>{});
  const auto check_adapter = [&](const std::string& choice) { check_choice(generator, choice); };
  const std::vector<PromptRow> rows = read_prompts(args.file, content, tokenizer, {chat.get(), ask, args.system, options.max_length, check_adapter});
  if (rows.empty()) refuse("--file: {} holds no prompt", args.file);
  if (std::all_of(rows.begin(), rows.end(), [](const PromptRow& r) { return !r.error.empty(); }))
    refuse("--file: none of the {} rows can be answered; the first: {}", rows.size(), rows[0].error);
  answers.expect(rows, args.samples);
  const double begin = seconds_now();
  const int64_t before = answers.done();
  if (before > 0) info("{} of {} answers are there already", before, answers.total());
  FileJob job(args, generator, rows, answers);
  job.run(options);
  answers.publish(rows);
  report_errors(rows);
  const double seconds = seconds_now() - begin;
  info("{} answers in {}, {:.1f} tokens/s{}", answers.done() - before, format_seconds(seconds), static_cast<double>(job.tokens()) / std::max(1e-9, seconds),
       args.out.empty() ? "" : ": " + args.out);
  return answers.failed() ? 1 : 0;
}

}  // namespace

int generate(const GenerateArgs& args) {
  const infer::GenerateOptions options = sampling_options(args.sampling, args.model, 128);
  if (args.prompt.has_value() == !args.file.empty()) refuse("name one of --prompt and --file");
  if (!args.file.empty()) {
    if (args.json) refuse("--json is for --prompt; the lines of --file are JSON anyway");
    return generate_file(args, options);
  }
  for (const auto& [given, name] : {std::pair{!args.out.empty(), "--out"}, {args.resume, "--resume"}, {args.samples != 1, "--samples"}})
    if (given) refuse("{} is for --file", name);
  return generate_one(args, options);
}

}  // namespace attune::cli
