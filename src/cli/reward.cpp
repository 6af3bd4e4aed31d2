// score --reward.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "infer/generator.h"
#include "train/data_setup.h"
#include "util/error.h"
#include "util/json.h"
#include "util/log.h"

namespace attune::cli {
namespace {

Json number_or_list(const std::vector<float>& scores) { return scores.size() == 1 ? Json(scores[0]) : Json(scores); }

// Conversations or pairs, read and tokenised as training reads them.
data::TokenSet read_rows(const ScoreArgs& args, const std::string& stage, const std::string& tokenizer) {
  train::RunSetup setup;
  setup.config.stage = stage;
  setup.config.model_name_or_path = args.model;
  setup.config.chat_template = args.chat_template;
  setup.config.cutoff_len = 1 << 24;
  setup.config.token_cache = false;
  setup.tokenizer = text::Tokenizer::load(tokenizer);
  data::TokenSet set = train::read_set(setup, {args.file});
  for (const std::string& line : setup.report.summary()) warn("{}", line);
  return set;
}

// Told from the file's first row.
bool holds_pairs(const std::string& file) {
  data::Records first;
  data::DataReport report;
  try {
    data::read_records(data::find_data_set(file, ""), {data::RowKind::pair, 1, 0}, first, report);
  } catch (const Error&) {  // other rows, or none at all: reading them says so better
    return false;
  }
  return !first.rows.empty();
}

void score_lines(const ScoreArgs& args, infer::Generator& model) {
  const auto lines = read_lines(args.file);
  text::EncodeOptions encode;
  encode.add_special_tokens = true;
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto ids = args.ids ? read_ids(lines[i], fmt::format("{}:{}", args.file, i + 1), model.model().config().vocab_size)
                              : model.tokenizer().encode(lines[i], encode).ids;
    if (ids.empty()) refuse("{}:{}: the line is empty and the tokenizer has no token to begin with; a reward is that of a text", args.file, i + 1);
    fmt::print("{}\n", dump_json({{"reward", number_or_list(model.session().sequence_scores(ids))}}));
  }
}

void score_pairs(const data::TokenSet& set, infer::Generator& model) {
  double margins = 0;
  int64_t won = 0;
  for (int64_t i = 0; i + 1 < set.size(); i += 2) {
    float rewards[2];
    for (int64_t side = 0; side < 2; ++side) {
      const auto ids = set.ids(i + side);
      rewards[side] = model.session().sequence_scores({ids.begin(), ids.end()})[0];
    }
    margins += rewards[0] - rewards[1];
    won += rewards[0] > rewards[1];
    fmt::print("{}\n", dump_json({{"where", set.where(i)}, {"chosen", rewards[0]}, {"rejected", rewards[1]}, {"margin", rewards[0] - rewards[1]}}));
  }
  const double pairs = static_cast<double>(set.size()) / 2;
  if (pairs > 0) info("{} pairs: accuracy {:.1f} %, mean margin {:.4f}", set.size() / 2, 100 * static_cast<double>(won) / pairs, margins / pairs);
}

}  // namespace

int reward(const ScoreArgs& args) {
  const models::AdapterRequest adapters = adapters_of(args.adapters, args.use);
  const Quantization quantization = parse_quantization(args.quantization, "--quantization");
  note_base(adapters, quantization);
  infer::Generator model(args.model, parse_dtype(args.compute, "--compute"), adapters, quantization, ops::choose_backend(args.device));
  if (model.model().config().num_labels == 0)
    refuse("{} is a language model; rewards come from a model of stage: rm (…ForSequenceClassification)", args.model);
  if (args.ids || fs::path(args.file).extension() == ".txt") {
    if (!args.chat_template.empty()) refuse("--template: lines of text and ids are scored as they stand; it goes with conversations and pairs");
    score_lines(args, model);
    return 0;
  }
  const bool pairs = holds_pairs(args.file);
  const data::TokenSet set = read_rows(args, pairs ? "rm" : "sft", model.tokenizer_directory());
  if (pairs) {
    score_pairs(set, model);
    return 0;
  }
  for (int64_t i = 0; i < set.size(); ++i) {
    const auto ids = set.ids(i);
    fmt::print("{}\n", dump_json({{"where", set.where(i)}, {"reward", number_or_list(model.session().sequence_scores({ids.begin(), ids.end()}))}}));
  }
  return 0;
}

}  // namespace attune::cli
