// tokenize, tokenizer train.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "text/bpe_trainer.h"
#include "text/tokenizer.h"
#include "util/error.h"
#include "util/files.h"
#include "util/json.h"
#include "util/log.h"

namespace attune::cli {

int tokenize(const TokenizeArgs& args) {
  const auto tokenizer = text::Tokenizer::load(args.model);
  const auto lines = read_lines(args.file);
  text::EncodeOptions options;
  options.add_special_tokens = args.add_special;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string where = fmt::format("{}:{}", args.file, i + 1);
    if (args.decode) {
      const auto ids = read_ids(lines[i], where, tokenizer->vocab_size());
      const std::string text = tokenizer->decode(ids);
      fmt::print("{}\n", args.jsonl ? dump_json(Json(text)) : text);
      continue;
    }
    std::string text = lines[i];
    if (args.jsonl) {
      const Json json = parse_json(lines[i], where);
      if (!json.is_string()) refuse("{}: expected a JSON string", where);
      text = json.get<std::string>();
    }
    fmt::print("{}\n", dump_json(Json(tokenizer->encode(text, options).ids)));
  }
  return 0;
}

int tokenizer_train(const TokenizerTrainArgs& args) {
  text::BpeTrainerOptions options;
  options.vocab_size = static_cast<int>(args.vocab_size);
  options.min_frequency = static_cast<int>(args.min_frequency);
  if (!args.special_tokens.empty()) options.special_tokens = args.special_tokens;
  options.pattern = args.pattern == "gpt2" ? text::WordPattern::gpt2 : text::WordPattern::qwen2;
  options.eos_token = args.eos.empty() ? options.special_tokens.at(0) : args.eos;
  options.pad_token = args.pad.empty() ? options.special_tokens.at(0) : args.pad;
  if (!args.bos.empty()) options.bos_token = args.bos;
  if (!args.chat_template.empty()) options.chat_template = read_file(args.chat_template);
  const auto result = text::train_byte_level_bpe({args.files.begin(), args.files.end()}, options, args.out);
  info("{}: {} entries, {} merges from {} bytes of text ({} distinct words)", args.out, result.vocab_size, result.merges,
       result.text_bytes, result.distinct_words);
  return 0;
}

}  // namespace attune::cli
