// eval.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "data/token_set.h"
#include "eval/evaluation.h"
#include "train/data_setup.h"
#include "train/evaluate.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::cli {
namespace {

// What one call evaluates, whichever way it was asked for.
struct Request {
  std::string model;
  models::AdapterRequest adapters;
  DType compute = DType::f32;
  Quantization quantization;
  const ops::Backend* backend = &ops::cpu_backend();
  eval::AskOptions ask;
  std::vector<fs::path> files;
  fs::path output;  // empty: nothing is written
};

void print_scores(const eval::Scores& scores) {
  std::string line = fmt::format("{} questions", scores.questions);
  for (const auto& [name, value] : scores.numbers)
    line += name == "loss" || name == "perplexity" ? fmt::format(", {} {:.4g}", name, value) : fmt::format(", {} {:.1f} %", name, 100 * value);
  fmt::print("{}{}\n", scores.data_set.empty() ? "" : scores.data_set + ": ", line);
}

// Results of training (eval_loss …) stay in the file.
void write_results(const fs::path& output, const eval::Evaluation& evaluation, const Json& json) {
  const fs::path results = output / "eval_results.json";
  Json merged = fs::exists(results) ? read_json(results) : Json::object();
  if (!merged.is_object()) merged = Json::object();
  merged.update(json);
  fs::create_directories(output);
  const bool asked = !evaluation.questions.empty();  // answers of before are not those of a call that asks nothing
  if (asked) write_file_atomic(output / "generated_predictions.jsonl", evaluation.predictions_jsonl());
  write_file_atomic(results, merged.dump(2) + "\n");
  info("{} {} written", results.string(), asked ? "and generated_predictions.jsonl are" : "is");
}

// Loss, perplexity and token accuracy of what a configuration holds out, or of the answers in files.
Json losses_of(infer::Generator& generator, const Request& request, const train::Config* config, const data::Records& records) {
  if (!request.ask.prompt_column.empty()) return Json::object();
  const int64_t batch = config ? config->per_device_eval_batch_size : 8;
  const auto losses = [&](const data::TokenSet& set) {
    train::check_ids(set, generator.model().config().vocab_size, request.model);
    return train::evaluate_model(generator.model(), set, request.compute, batch);
  };
  if (config && request.files.empty()) return losses(*train::held_out_set(*config, generator.tokenizer_directory()));
  const auto chat = text::ChatTemplate::create(request.ask.chat_template, generator.tokenizer());
  data::DataReport report;
  data::TokenizeOptions options;
  options.cutoff_len = generator.model().config().max_position_embeddings;
  data::TokenSet set = data::tokenize(records, generator.tokenizer(), chat.get(), options, report);
  for (const std::string& line : report.summary()) warn("{}", line);
  return set.size() == 0 ? Json::object() : losses(set);
}

// Numbers of answers and of the loss side by side, of each data set and of all.
void join_losses(eval::Evaluation& evaluation, const Json& losses) {
  for (const char* name : {"loss", "perplexity", "accuracy"}) {
    if (losses.contains(fmt::format("eval_{}", name))) evaluation.join("", name, losses[fmt::format("eval_{}", name)].get<double>());
    for (const std::string& set : evaluation.data_sets)
      if (const std::string key = fmt::format("eval_{}_{}", train::short_name(set), name); losses.contains(key))
        evaluation.join(set, name, losses[key].get<double>());
  }
}

Request request_of(const EvalArgs& args, std::optional<train::Config>& config) {
  Request r;
  r.ask = {args.chat_template, args.prompt_column, args.max_new_tokens > 0 ? args.max_new_tokens : 32, args.batch_size > 0 ? args.batch_size : 8};
  r.files.assign(args.files.begin(), args.files.end());
  r.model = args.model;
  r.adapters = adapters_of(args.adapters, args.use);
  r.quantization = parse_quantization(args.quantization, "--quantization");
  r.backend = &ops::choose_backend(args.device);
  if (args.arguments.empty()) {
    if (r.model.empty()) refuse("name a model with --model and questions with --file, or a configuration");
    if (r.files.empty()) refuse("--file is missing: questions with answers");
    return r;
  }
  config = read_config(args.arguments);
  if (r.model.empty()) {
    r.model = eval::evaluated_model(*config);
    if (r.adapters.empty() && r.model == config->model_name_or_path) r.adapters.chain = eval::evaluated_adapters(*config);
  }
  r.compute = config->compute();
  if (args.device == "auto") r.backend = &ops::choose_backend(config->device);
  // As training held it: below an adapter, the base model alone.
  if (!r.quantization.on() && r.model == config->model_name_or_path) r.quantization = config->quantization();
  r.output = config->output_dir;
  if (r.ask.chat_template.empty()) r.ask.chat_template = config->chat_template;
  if (args.batch_size == 0) r.ask.batch_size = config->per_device_eval_batch_size;
  if (args.max_new_tokens == 0) r.ask.max_new_tokens = config->max_new_tokens;
  info("model: {}{}", r.model, r.model == config->output_dir ? " (the result in output_dir)" : "");
  if (!r.adapters.empty()) info("adapter: {}{}", fmt::join(r.adapters.directories(), ", "), r.adapters.use.empty() ? "" : fmt::format(" (--use {})", r.adapters.use));
  if (r.quantization.on()) info("the layers' weights are held as {}", text_of(r.quantization));
  return r;
}

}  // namespace

int evaluate(const EvalArgs& args) {
  std::optional<train::Config> config;
  const Request request = request_of(args, config);
  if (const auto kind = config ? config->row_kind() : data::RowKind::conversation; request.files.empty() && (kind == data::RowKind::pair || kind == data::RowKind::judged))
    refuse("stage {} learns from {}, which are no questions with one right answer. Figures of what the run held out are in {}; to ask its model, name questions "
           "with --file", config->stage, data::description_of(kind), (fs::path(config->output_dir) / "eval_results.json").string());
  const double begin = seconds_now();
  const bool asks = !config || (config->predict_with_generate && !config->pretraining());
  data::Records records;
  if (!request.files.empty()) records = eval::read_questions(request.files, args.max_samples);
  else if (asks) records = eval::held_out_records(*config);
  note_base(request.adapters, request.quantization);
  infer::Generator generator(request.model, request.compute, request.adapters, request.quantization, *request.backend);
  const Json losses = losses_of(generator, request, config ? &*config : nullptr, records);
  eval::Evaluation evaluation;
  if (asks) evaluation = eval::evaluate(generator, records, request.ask);
  join_losses(evaluation, losses);
  Json json = evaluation.json();
  if (!args.baseline_from.empty()) {
    if (request.files.empty()) refuse("--baseline-from needs questions from --file");
    json["majority_baseline"] = eval::majority_baseline({args.baseline_from.begin(), args.baseline_from.end()}, request.files);
  }
  json["model"] = request.model;
  if (!request.adapters.empty()) json["adapters"] = request.adapters.directories();
  if (!request.adapters.use.empty()) json["use"] = request.adapters.use;
  json["duration_seconds"] = seconds_now() - begin;
  if (!args.predictions.empty()) write_file_atomic(args.predictions, evaluation.predictions_jsonl());
  if (!request.output.empty()) write_results(request.output, evaluation, json);
  if (args.json) {
    fmt::print("{}\n", dump_json(json));
    return 0;
  }
  if (evaluation.each.size() > 1)
    for (const eval::Scores& scores : evaluation.each) print_scores(scores);
  print_scores(evaluation.all);
  if (json.contains("majority_baseline")) fmt::print("always the most frequent answer: {:.1f} %\n", 100 * json["majority_baseline"].get<double>());
  return 0;
}

}  // namespace attune::cli
