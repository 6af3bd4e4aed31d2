// Setting up a SentencePieceTokenizer from tokenizer.model and the files beside it.
#include <algorithm>

#include "text/pipeline_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/space_mark.h"
#include "text/tokenizer_config.h"
#include "util/error.h"

namespace attune::text {
void SentencePieceTokenizer::add_pieces() {
  vocabulary_.reserve(model_.pieces.size());
  std::fill(std::begin(of_byte_), std::end(of_byte_), -1);
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    const Piece& piece = model_.pieces[i];
    const auto id = static_cast<TokenId>(i);
    if (!vocabulary_.add(piece.text, id))
      fail("{}: pieces[{}]: \"{}\" stands there twice", model_.where, i, piece.text);
    if (piece.type == PieceType::unknown) unknown_ = id;
    if (piece.type == PieceType::byte) {
      const int byte = byte_of_token(piece.text);
      if (byte < 0)
        fail("{}: pieces[{}]: \"{}\" is no byte, expected <0x00> to <0xFF>", model_.where, i, piece.text);
      of_byte_[byte] = id;
    }
    const bool merges = piece.type == PieceType::normal || piece.type == PieceType::user_defined ||
                        piece.type == PieceType::unused;
    if (merges && reaches_over_words(piece.text)) words_are_separate_ = false;
  }
  if (model_.byte_fallback && std::count(std::begin(of_byte_), std::end(of_byte_), -1))
    fail("{}: some of the pieces <0x00> to <0xFF> are missing", model_.where);
  vocab_size_ = static_cast<int64_t>(model_.pieces.size());
  if (model_.is_unigram) make_unigram();
}

// Pieces of the types UNKNOWN, CONTROL, UNUSED and BYTE are not made out of text.
void SentencePieceTokenizer::make_unigram() {
  unigram_.emplace();
  words_are_separate_ = false;  // the sums of scores run over the whole text
  UnigramOptions& options = unigram_->options();
  options.unknown = unknown_;
  options.byte_fallback = model_.byte_fallback;
  options.as_sentencepiece = true;
  options.where = model_.where;
  unigram_->vocabulary().reserve(model_.pieces.size());
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    unigram_->vocabulary().add(model_.pieces[i].text, id);
    if (model_.pieces[i].type == PieceType::normal)
      unigram_->set_score(id, static_cast<double>(model_.pieces[i].score));
    else if (model_.pieces[i].type == PieceType::user_defined)
      unigram_->set_user_defined(id);
  }
}

// Control pieces are looked for in the text as the Hugging Face library does; then what the other files add.
void SentencePieceTokenizer::add_tokens(const TokenizerConfig& config) {
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    const PieceType type = model_.pieces[i].type;
    if (type != PieceType::control && type != PieceType::unknown) continue;
    AddedToken token;
    token.id = static_cast<TokenId>(i);
    token.content = model_.pieces[i].text;
    token.special = true;
    added_.add(token, model_.where);
  }
  std::vector<AddedToken> tokens;
  for (const auto& [text, id] : config.added_file) {
    AddedToken token;
    token.id = id;
    token.content = text;
    tokens.push_back(token);
  }
  tokens.insert(tokens.end(), config.added.begin(), config.added.end());
  for (AddedToken& token : tokens) {
    check_token_id(token.id, model_.pieces.size() + tokens.size(), config.where);
    const auto in_model = vocabulary_.find(token.content);
    if (in_model ? *in_model != token.id : vocabulary_.has(token.id))
      fail("{}: added token \"{}\" has id {}, which contradicts {}", config.where, token.content, token.id,
           model_.where);
    const bool is_control = added_.is_special(token.id);
    token.special |= is_control;
    token.normalized = false;  // spaces are escaped only behind this step
    vocab_size_ = std::max<int64_t>(vocab_size_, token.id + 1);
    added_.add(token, config.where);
  }
}

void SentencePieceTokenizer::set_prefix(const TokenizerConfig& config) {
  prefix_ = model_.add_dummy_prefix ? Prefix::always : Prefix::never;
  if (config.legacy == false && prefix_ == Prefix::always) {
    prefix_ = Prefix::first;
    prefix_only_if_missing_ = true;
  }
  strips_first_space_ = model_.add_dummy_prefix || model_.remove_extra_whitespaces;
  if (config.add_prefix_space != false) return;
  prefix_ = Prefix::never;
  strips_first_space_ = false;
}

void SentencePieceTokenizer::set_specials(const TokenizerConfig& config) {
  auto special = [&](bool named, const std::optional<std::string>& text,
                     const std::string& piece) -> std::optional<TokenId> {
    if (!named) {
      const auto id = vocabulary_.find(piece);
      return id && added_.is_special(*id) ? id : std::nullopt;
    }
    const auto id = text ? token_to_id(*text) : std::nullopt;
    if (id && !added_.is_special(*id)) {
      const AddedToken* known = added_.find(*id);
      AddedToken token = known ? *known : AddedToken{};
      token.id = *id;
      token.content = *text;
      token.special = true;
      added_.add(token, config.where);
    }
    return id;
  };
  bos_ = special(config.names_bos, config.bos, model_.bos_piece);
  eos_ = special(config.names_eos, config.eos, model_.eos_piece);
  pad_ = special(config.names_pad, config.pad, model_.pad_piece);
  unk_ = special(config.names_unk, config.unk, model_.pieces[static_cast<size_t>(unknown_)].text);
  for (const std::string& text : config.additional_special) special(true, text, "");
  auto role = [&](const std::optional<TokenId>& given, TokenId usual, const char* text) {
    const auto found = vocabulary_.find(text);
    const auto id = given ? given : found == usual ? found : std::nullopt;
    return id ? special(true, token_text(*id), "") : std::nullopt;
  };
  user_role_ = role(config.user_role, 195, "<reserved_106>");
  assistant_role_ = role(config.assistant_role, 196, "<reserved_107>");
  if (config.add_bos.value_or(true) && bos_) before_ = {*bos_};
  if (config.add_eos.value_or(false) && eos_) behind_ = {*eos_};
}

SentencePieceTokenizer::SentencePieceTokenizer(const std::filesystem::path& file,
                                               const TokenizerConfig& config)
    : model_(SentencePieceModel::read(file)) {
  add_pieces();
  add_tokens(config);
  set_prefix(config);
  set_specials(config);
  added_.finish([](const std::string& content) { return content; });
  // User-defined pieces stay whole. Those that a file beside the model made added tokens are found before.
  std::vector<TokenId> control;
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    if (added_.is_special(id)) control.push_back(id);
    if (model_.pieces[i].type != PieceType::user_defined || added_.is_special(id)) continue;
    AddedToken& token = user_defined_.emplace_back();
    token.id = id;
    token.content = model_.pieces[i].text;
    token.in_user_text = true;
    find_user_defined_.add(&token, token.content);
  }
  if (unigram_) unigram_->finish(control);
  chat_template_ = config.chat_template;
}

}  // namespace attune::text
