// Setting up a SentencePieceBpe from tokenizer.model and the files beside it.
#include <algorithm>
#include <cctype>

#include "text/sentencepiece_bpe.h"
#include "text/tokenizer_config.h"
#include "util/error.h"

namespace attune::text {
namespace {

constexpr std::string_view kSpace = "\u2581";

// The byte of "<0x0A>", or -1.
int byte_of(const std::string& piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  if (!std::isxdigit(static_cast<uint8_t>(piece[3])) || !std::isxdigit(static_cast<uint8_t>(piece[4])))
    return -1;
  return std::stoi(piece.substr(3, 2), nullptr, 16);
}

bool reaches_over_words(const std::string& piece) {
  size_t at = 0;
  while (std::string_view(piece).substr(at).starts_with(kSpace)) at += kSpace.size();
  return at < piece.size() && piece.find(kSpace, at) != std::string::npos;
}

}  // namespace

void SentencePieceBpe::add_pieces() {
  vocabulary_.reserve(model_.pieces.size());
  std::fill(std::begin(of_byte_), std::end(of_byte_), -1);
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    const Piece& piece = model_.pieces[i];
    const auto id = static_cast<TokenId>(i);
    if (!vocabulary_.add(piece.text, id))
      fail("{}: pieces[{}]: \"{}\" stands there twice", model_.where, i, piece.text);
    if (piece.type == PieceType::unknown) unknown_ = id;
    if (piece.type == PieceType::byte) {
      const int byte = byte_of(piece.text);
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
}

// Control pieces are looked for in the text as the Hugging Face library does; then what the other files add.
void SentencePieceBpe::add_tokens(const TokenizerConfig& config, const SentencePieceHints& hints) {
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
  tokens.insert(tokens.end(), hints.added.begin(), hints.added.end());
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

void SentencePieceBpe::set_prefix(const TokenizerConfig& config, const SentencePieceHints& hints) {
  using Prefix = SentencePieceHints::Prefix;
  prefix_ = hints.prefix;
  prefix_only_if_missing_ = hints.metaspace;
  if (prefix_ == Prefix::unknown) {
    prefix_ = model_.add_dummy_prefix ? Prefix::always : Prefix::never;
    if (config.legacy == false && prefix_ == Prefix::always) {
      prefix_ = Prefix::first;
      prefix_only_if_missing_ = true;
    }
  }
  if (config.add_prefix_space == false) prefix_ = Prefix::never;
  strips_first_space_ = prefix_ != Prefix::never;
}

void SentencePieceBpe::set_specials(const TokenizerConfig& config, const SentencePieceHints& hints) {
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
  if (hints.has_surround && !config.add_bos && !config.add_eos) {
    surround_ = hints.surround;
    for (const std::vector<TokenId>* ids : {&surround_.before, &surround_.after})
      for (TokenId id : *ids) token_text(id);
    return;
  }
  if (config.add_bos.value_or(true) && bos_) surround_.before = {*bos_};
  if (config.add_eos.value_or(false) && eos_) surround_.after = {*eos_};
}

SentencePieceBpe::SentencePieceBpe(const std::filesystem::path& file, const TokenizerConfig& config,
                                   const SentencePieceHints& hints)
    : model_(SentencePieceModel::read(file)) {
  add_pieces();
  add_tokens(config, hints);
  set_prefix(config, hints);
  set_specials(config, hints);
  added_.finish([](const std::string& content) { return content; });
  // User-defined pieces stay whole. Those that a file beside the model made added tokens are found before.
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    if (model_.pieces[i].type != PieceType::user_defined || added_.is_special(id)) continue;
    AddedToken& token = user_defined_.emplace_back();
    token.id = id;
    token.content = model_.pieces[i].text;
    token.in_user_text = true;
    find_user_defined_.add(&token, token.content);
  }
  chat_template_ = config.chat_template;
}

}  // namespace attune::text
