// Reading tokenizer.json into a ByteLevelBpe.
#include <algorithm>

#include "text/byte_level_bpe.h"
#include "text/json_node.h"
#include "text/tokenizer_config.h"
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

bool any_type(const JsonNode& node, std::string_view wanted) {
  if (node.type() == wanted) return true;
  for (std::string_view list : {"pretokenizers", "decoders", "normalizers"})
    if (const auto items = node.find(list))
      for (const JsonNode& item : items->items())
        if (any_type(item, wanted)) return true;
  return false;
}

// The first decoder that is no ByteLevel (Fuse changes nothing behind it); empty where all is well.
std::string foreign_decoder(const JsonNode& node) {
  const std::string_view type = node.type();
  if (type == "ByteLevel" || type == "Fuse") return "";
  if (type != "Sequence") return std::string(type);
  for (const JsonNode& item : node.at("decoders").items())
    if (std::string foreign = foreign_decoder(item); !foreign.empty()) return foreign;
  return "";
}

// Names the first component that only other kinds of tokenizers have.
std::string foreign_component(const JsonNode& root) {
  const JsonNode model = root.at("model");
  // Files from before 2021 leave out the type of a BPE model.
  const std::string type = model.text("type", model.find("merges") ? "BPE" : "unknown");
  if (type != "BPE") return fmt::format("model type \"{}\"", type);
  if (model.flag("byte_fallback", false)) return "model option \"byte_fallback\"";
  const auto pre = root.find("pre_tokenizer");
  if (!pre) return "a BPE model without pre_tokenizer";
  if (any_type(*pre, "Metaspace")) return "pre_tokenizer type \"Metaspace\"";
  if (!any_type(*pre, "ByteLevel"))
    return fmt::format("pre_tokenizer type \"{}\" without ByteLevel", pre->type());
  const auto decoder = root.find("decoder");
  if (!decoder) return "a byte-level model without decoder";
  if (std::string foreign = foreign_decoder(*decoder); !foreign.empty())
    return fmt::format("decoder type \"{}\"", foreign);
  return "";
}

SentencePieceHints::Prefix prefix_of(const JsonNode& root) {
  using Prefix = SentencePieceHints::Prefix;
  if (const auto pre = root.find("pre_tokenizer"); pre && pre->type() == "Metaspace") {
    const std::string scheme =
        pre->text("prepend_scheme", pre->flag("add_prefix_space", true) ? "always" : "never");
    return scheme == "always" ? Prefix::always : scheme == "first" ? Prefix::first : Prefix::never;
  }
  if (const auto normalizer = root.find("normalizer"))
    return any_type(*normalizer, "Prepend") ? Prefix::always : Prefix::never;
  return Prefix::unknown;
}

void read_hints(const JsonNode& root, SentencePieceHints& hints) {
  hints.prefix = prefix_of(root);
  if (const auto pre = root.find("pre_tokenizer")) hints.metaspace = pre->type() == "Metaspace";
  if (const auto added = root.find("added_tokens"))
    for (const JsonNode& item : added->items()) hints.added.push_back(read_added_token(item));
  if (const auto post = root.find("post_processor")) {
    hints.surround.add(*post);
    hints.has_surround = true;
  }
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

void ByteLevelBpe::read_vocabulary(const JsonNode& vocab) {
  const simdjson::dom::object entries = vocab.object();
  size_t count = 0;
  for (auto entry = entries.begin(); entry != entries.end(); ++entry) ++count;
  model_.vocabulary().reserve(count);
  for (const auto& [token, value] : entries) {
    int64_t id = -1;
    if (value.get(id) != simdjson::SUCCESS) fail("{}: \"{}\": expected an integer", vocab.where(), token);
    check_token_id(id, count, vocab.where());
    if (!model_.vocabulary().add(token, static_cast<TokenId>(id)))
      fail("{}: token \"{}\" or its id {} stands there twice", vocab.where(), token, id);
  }
}

void ByteLevelBpe::read_merges(const JsonNode& merges) {
  const simdjson::dom::array entries = merges.array();
  size_t count = 0;
  for (auto entry = entries.begin(); entry != entries.end(); ++entry) ++count;
  model_.reserve_merges(count);
  const Vocabulary& vocabulary = model_.vocabulary();
  std::string merged;
  uint32_t rank = 0;
  auto id_of = [&](std::string_view token) {
    const auto id = vocabulary.find(token);
    if (!id) fail("{}[{}]: token \"{}\" is not in the vocabulary", merges.where(), rank, token);
    return *id;
  };
  for (simdjson::dom::element entry : entries) {
    std::string_view left, right;
    simdjson::dom::array pair;
    if (entry.get(left) == simdjson::SUCCESS) {  // "a b"
      const size_t space = left.find(' ');
      if (space == std::string_view::npos || left.find(' ', space + 1) != std::string_view::npos)
        fail("{}[{}]: expected two tokens with a space between them", merges.where(), rank);
      right = left.substr(space + 1);
      left = left.substr(0, space);
    } else if (entry.get(pair) != simdjson::SUCCESS || pair.size() != 2 ||
               pair.at(0).get(left) != simdjson::SUCCESS || pair.at(1).get(right) != simdjson::SUCCESS) {
      fail("{}[{}]: expected \"a b\" or [\"a\", \"b\"]", merges.where(), rank);
    }
    merged.assign(left).append(right);
    model_.add_merge(id_of(left), id_of(right), rank, id_of(merged));
    ++rank;
  }
}

void ByteLevelBpe::read_model(const JsonNode& model) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.text(key, "").empty()) refuse("{}: model option \"{}\" is not supported", model.where(), key);
  if (const auto dropout = model.find("dropout"))
    if (double rate = 0; dropout->element().get(rate) != simdjson::SUCCESS || rate != 0)
      refuse("{}: BPE dropout is not supported; set it to null", dropout->where());
  read_vocabulary(model.at("vocab"));
  read_merges(model.at("merges"));
  BpeOptions& options = model_.options();
  options.ignore_merges = model.flag("ignore_merges", false);
  options.fuse_unknown = model.flag("fuse_unk", false);
  if (const auto unknown = model.find("unk_token")) {
    options.unknown = model_.vocabulary().find(unknown->string());
    if (!options.unknown)
      fail("{}: token \"{}\" is not in the vocabulary", unknown->where(), unknown->string());
  }
}

void ByteLevelBpe::add_tokens(const JsonNode& root, const TokenizerConfig& config) {
  std::vector<AddedToken> tokens;
  if (const auto added = root.find("added_tokens"))
    for (const JsonNode& item : added->items()) tokens.push_back(read_added_token(item));
  const size_t from_json = tokens.size();
  tokens.insert(tokens.end(), config.added.begin(), config.added.end());
  const size_t count = static_cast<size_t>(model_.vocabulary().size()) + tokens.size();
  vocab_size_ = model_.vocabulary().size();
  for (size_t i = 0; i < tokens.size(); ++i) {
    AddedToken& token = tokens[i];
    const std::string where =
        i < from_json ? where_ + ": added_tokens" : config.where + ": added_tokens_decoder";
    check_token_id(token.id, count, where);
    const auto in_model = model_.vocabulary().find(token.content);
    if (in_model && *in_model != token.id)
      fail("{}: \"{}\" has id {}, but the vocabulary says {}", where, token.content, token.id, *in_model);
    if (!in_model && model_.vocabulary().has(token.id))
      fail("{}: \"{}\" has id {}, which is \"{}\" in the vocabulary", where, token.content, token.id,
           model_.vocabulary().token(token.id));
    vocab_size_ = std::max<int64_t>(vocab_size_, token.id + 1);
    added_.add(token, where);
  }
}

// Tokens that the configuration calls special are so, even where they stand in the vocabulary only.
void ByteLevelBpe::name_specials(const TokenizerConfig& config) {
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
  if (!config.add_bos && !config.add_eos) return;
  surround_ = {};  // the configuration's own switches replace the post-processor
  if (config.add_bos.value_or(false) && bos_) surround_.before = {*bos_};
  if (config.add_eos.value_or(false) && eos_) surround_.after = {*eos_};
}

std::unique_ptr<ByteLevelBpe> ByteLevelBpe::load(const fs::path& file, const TokenizerConfig& config,
                                                 std::string& reason, SentencePieceHints& hints) {
  const std::string text = read_file(file, kLargestFile);
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  auto error = parser.allocate(std::max<size_t>(text.size(), 64), kDeepest);
  if (!error) error = parser.parse(text).get(document);
  if (error) fail("{}: not valid JSON: {}", file.string(), simdjson::error_message(error));
  const JsonNode root(document, file.string());
  if (reason = foreign_component(root); !reason.empty()) {
    read_hints(root, hints);
    return nullptr;
  }
  auto out = std::make_unique<ByteLevelBpe>();
  out->where_ = file.string();
  if (const auto normalizer = root.find("normalizer")) out->normalizer_.add(*normalizer);
  out->pre_tokenizer_.add(root.at("pre_tokenizer"));
  if (const auto post = root.find("post_processor")) out->surround_.add(*post);
  out->read_model(root.at("model"));
  out->add_tokens(root, config);
  out->name_specials(config);
  for (const std::vector<TokenId>* ids : {&out->surround_.before, &out->surround_.after})
    for (TokenId id : *ids) out->token_text(id);
  std::vector<TokenId> forbidden;
  for (const AddedToken& token : out->added_.all())
    if (token.special) forbidden.push_back(token.id);
  out->model_.finish(forbidden);
  out->added_.finish([&](const std::string& content) { return out->normalizer_.apply(content); });
  out->chat_template_ = config.chat_template;
  return out;
}

}  // namespace attune::text
