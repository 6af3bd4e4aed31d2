// Reading tokenizer.json into a PipelineTokenizer.
#include <algorithm>

#include "text/json_node.h"
#include "text/pipeline_tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/word_piece_model.h"
#include "util/files.h"

namespace attune::text {
namespace {

constexpr uint64_t kLargestFile = 512u << 20;
constexpr size_t kDeepest = 64;

TokenId token_id(const JsonNode& node) {
  const int64_t id = node.integer();
  if (id < 0 || id > INT32_MAX) fail("{}: {} is not a token id", node.where(), id);
  return static_cast<TokenId>(id);
}

}  // namespace

void check_token_id(int64_t id, size_t tokens_in_file, const std::string& where) {
  if (id < 0 || static_cast<uint64_t>(id) > 65536 + 8 * static_cast<uint64_t>(tokens_in_file))
    fail("{}: id {} is out of proportion to the {} tokens of the file", where, id, tokens_in_file);
}

AddedToken read_added_token(const JsonNode& node) {
  AddedToken token;
  token.id = token_id(node.at("id"));
  token.content = node.at("content").string();
  token.special = node.flag("special", false);
  token.normalized = node.flag("normalized", !token.special);
  token.single_word = node.flag("single_word", false);
  token.lstrip = node.flag("lstrip", false);
  token.rstrip = node.flag("rstrip", false);
  return token;
}

void Surround::add(const JsonNode& node) {
  const std::string_view type = node.type();
  if (type == "Sequence") {
    for (const JsonNode& item : node.at("processors").items()) add(item);
  } else if (type == "TemplateProcessing") {
    const JsonNode specials = node.at("special_tokens");
    std::vector<TokenId> front, back;
    bool passed = false;
    for (const JsonNode& part : node.at("single").items()) {
      if (part.find("Sequence")) {
        if (passed) refuse("{}: a template that repeats its text is not supported", part.where());
        passed = true;
        continue;
      }
      const JsonNode special = specials.at(part.at("SpecialToken").at("id").string());
      for (const JsonNode& id : special.at("ids").items()) (passed ? back : front).push_back(token_id(id));
    }
    if (!passed) refuse("{}: a template without the text is not supported", node.where());
    before.insert(before.begin(), front.begin(), front.end());
    after.insert(after.end(), back.begin(), back.end());
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    auto id = [&](const char* key) {
      const auto pair = node.at(key).items();
      if (pair.size() != 2) fail("{}: {}: expected [token, id]", node.where(), key);
      return token_id(pair[1]);
    };
    before.insert(before.begin(), id("cls"));
    after.push_back(id("sep"));
  } else if (type != "ByteLevel") {  // ByteLevel only trims offsets
    refuse("{}: post_processor type \"{}\" is not supported", node.where(), type);
  }
}

void PipelineTokenizer::add_tokens(std::vector<AddedToken> tokens, const TokenizerConfig& config) {
  const size_t from_json = tokens.size();
  tokens.insert(tokens.end(), config.added.begin(), config.added.end());
  const size_t count = static_cast<size_t>(model_->vocabulary().size()) + tokens.size();
  vocab_size_ = model_->vocabulary().size();
  for (size_t i = 0; i < tokens.size(); ++i) {
    AddedToken& token = tokens[i];
    const std::string where =
        i < from_json ? where_ + ": added_tokens" : config.where + ": added_tokens_decoder";
    check_token_id(token.id, count, where);
    const auto in_model = model_->vocabulary().find(token.content);
    if (in_model && *in_model != token.id)
      fail("{}: \"{}\" has id {}, but the vocabulary says {}", where, token.content, token.id, *in_model);
    if (!in_model && model_->vocabulary().has(token.id))
      fail("{}: \"{}\" has id {}, which is \"{}\" in the vocabulary", where, token.content, token.id,
           model_->vocabulary().token(token.id));
    vocab_size_ = std::max<int64_t>(vocab_size_, token.id + 1);
    added_.add(token, where);
  }
}

// Tokens that the configuration calls special are so, even where they stand in the vocabulary only.
void PipelineTokenizer::name_specials(const TokenizerConfig& config) {
  auto special = [&](const std::optional<std::string>& text) -> std::optional<TokenId> {
    if (!text) return std::nullopt;
    const auto id = token_to_id(*text);
    if (!id) return std::nullopt;
    const AddedToken* known = added_.find(*id);
    if (!known || !known->special) {
      AddedToken token = known ? *known : AddedToken{};
      token.id = *id;
      token.content = *text;
      token.special = true;
      added_.add(token, config.where);
    }
    return id;
  };
  bos_ = special(config.bos);
  eos_ = special(config.eos);
  pad_ = special(config.pad);
  unk_ = special(config.unk);
  for (const std::string& text : config.additional_special) special(text);
  if (config.user_role) user_role_ = special(token_text(*config.user_role));
  if (config.assistant_role) assistant_role_ = special(token_text(*config.assistant_role));
  if (!config.add_bos && !config.add_eos) return;
  surround_ = {};  // the configuration's own switches replace the post-processor
  if (config.add_bos.value_or(false) && bos_) surround_.before = {*bos_};
  if (config.add_eos.value_or(false) && eos_) surround_.after = {*eos_};
}

// Once everything is read.
void PipelineTokenizer::finish(const TokenizerConfig& config) {
  name_specials(config);
  for (const std::vector<TokenId>* ids : {&surround_.before, &surround_.after})
    for (TokenId id : *ids) token_text(id);
  std::vector<TokenId> forbidden;
  for (const AddedToken& token : added_.all())
    if (token.special) forbidden.push_back(token.id);
  model_->finish(forbidden);
  added_.finish([&](const std::string& content) { return normalizer_.apply(content); });
  chat_template_ = config.chat_template;
}

std::unique_ptr<PipelineTokenizer> PipelineTokenizer::load_json(const fs::path& file,
                                                                const TokenizerConfig& config) {
  const std::string text = read_file(file, kLargestFile);
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  auto error = parser.allocate(std::max<size_t>(text.size(), 64), kDeepest);
  if (!error) error = parser.parse(text).get(document);
  if (error) fail("{}: not valid JSON: {}", file.string(), simdjson::error_message(error));
  const JsonNode root(document, file.string());
  auto out = std::make_unique<PipelineTokenizer>();
  out->where_ = file.string();
  if (const auto normalizer = root.find("normalizer")) out->normalizer_.add(*normalizer);
  if (const auto pre = root.find("pre_tokenizer")) out->pre_tokenizer_.add(*pre);
  if (const auto post = root.find("post_processor")) out->surround_.add(*post);
  if (const auto decoder = root.find("decoder")) out->decoder_.add(*decoder);
  out->model_ = read_word_model(root.at("model"), out->pre_tokenizer_.has_byte_level());
  std::vector<AddedToken> added;
  if (const auto tokens = root.find("added_tokens"))
    for (const JsonNode& item : tokens->items()) added.push_back(read_added_token(item));
  out->add_tokens(std::move(added), config);
  out->finish(config);
  return out;
}

std::unique_ptr<PipelineTokenizer> PipelineTokenizer::load_bert(const fs::path& file,
                                                                const TokenizerConfig& config) {
  auto out = std::make_unique<PipelineTokenizer>();
  out->where_ = file.string();
  auto model = std::make_unique<WordPieceModel>();
  const std::string text = read_file(file, kLargestFile);
  TokenId next = 0;
  for (size_t at = 0; at < text.size(); ++next) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = std::string_view(text).substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    at = end + 1;
    if (!is_valid_utf8(line)) fail("{}:{}: is not UTF-8", file.string(), next + 1);
    if (!model->vocabulary().add(line, next))
      fail("{}:{}: \"{}\" stands there twice", file.string(), next + 1, line);
  }
  std::vector<AddedToken> specials;
  for (const auto& [content, given] :
       {std::pair{"[PAD]", &config.pad}, std::pair{"[UNK]", &config.unk}, std::pair{"[CLS]", &config.cls},
        std::pair{"[SEP]", &config.sep}, std::pair{"[MASK]", &config.mask}}) {
    const auto id = model->vocabulary().find(given->value_or(content));
    if (!id)
      fail("{}: the token {} is missing; is this the vocabulary of a BERT model?", file.string(),
           given->value_or(content));
    AddedToken token;
    token.id = *id;
    token.content = given->value_or(content);
    token.special = true;
    specials.push_back(token);
  }
  model->options().unknown = specials[1].id;
  out->surround_.before = {specials[2].id};
  out->surround_.after = {specials[3].id};
  out->model_ = std::move(model);
  const bool lowercase = config.do_lower_case.value_or(true);
  out->normalizer_.add_bert({true, config.tokenize_chinese_chars.value_or(true),
                             config.strip_accents.value_or(lowercase), lowercase});
  out->pre_tokenizer_.add_bert();
  out->decoder_.add_word_piece("##", true);
  const TokenId pad = specials[0].id, unknown = specials[1].id;
  out->add_tokens(std::move(specials), config);
  out->finish(config);
  if (!config.names_pad) out->pad_ = pad;
  if (!config.names_unk) out->unk_ = unknown;
  return out;
}

}  // namespace attune::text
