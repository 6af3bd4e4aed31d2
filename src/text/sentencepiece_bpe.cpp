#include "text/sentencepiece_bpe.h"

#include <algorithm>
#include <queue>

#include "text/tokenizer_config.h"
#include "util/error.h"

namespace attune::text {
namespace {

constexpr std::string_view kSpace = "\u2581";  // "▁" stands for a space

}  // namespace

// Spaces become "▁"; one is put before the text where the model wants it.
const Section& SentencePieceBpe::normalized(const Section& section, bool with_prefix,
                                            Sections& sections) const {
  const std::string_view text = section.text();
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  Alignment alignment;
  const bool squeeze = model_.remove_extra_whitespaces;
  size_t at = 0;
  while (squeeze && at < text.size() && text[at] == ' ') ++at;
  if (at > 0) alignment.add({0, 0}, {0, at});
  const bool has_space = text.substr(at).starts_with(' ') || text.substr(at).starts_with(kSpace);
  if (with_prefix && at < text.size() && !(prefix_only_if_missing_ && has_space)) {
    alignment.add({0, kSpace.size()}, {at, at});
    out += kSpace;
  }
  bool after_space = false;
  for (; at < text.size(); ++at) {
    if (text[at] != ' ') {
      out += text[at];
      after_space = false;
      continue;
    }
    const size_t begin = out.size();
    if (!(squeeze && after_space)) out += kSpace;
    alignment.add({begin, out.size()}, {at, at + 1});
    after_space = true;
  }
  while (squeeze && out.ends_with(kSpace)) out.resize(out.size() - kSpace.size());
  return sections.emplace_back(section, std::move(out), std::move(alignment));
}

// The id of a piece that merging may make, or -1.
TokenId SentencePieceBpe::mergeable(std::string_view piece) const {
  const auto id = vocabulary_.find(piece);
  if (!id) return -1;
  const PieceType type = model_.pieces[static_cast<size_t>(*id)].type;
  return type == PieceType::normal || type == PieceType::user_defined || type == PieceType::unused ? *id : -1;
}

// A finished symbol: its piece, or (for UNUSED pieces) the two it was made of, or its bytes.
void SentencePieceBpe::emit_symbol(std::string_view word, ByteRange range,
                                   const std::unordered_map<std::string_view, size_t>& unmerge,
                                   std::vector<BpeToken>& out) const {
  std::vector<ByteRange> stack{range};
  while (!stack.empty()) {
    const ByteRange part = stack.back();
    stack.pop_back();
    const std::string_view piece = word.substr(part.begin, part.end - part.begin);
    const auto begin = static_cast<uint32_t>(part.begin), bytes = static_cast<uint32_t>(piece.size());
    const TokenId id = mergeable(piece);
    if (id >= 0 && model_.pieces[static_cast<size_t>(id)].type == PieceType::unused) {
      if (const auto found = unmerge.find(piece); found != unmerge.end()) {
        stack.push_back({part.begin + found->second, part.end});
        stack.push_back({part.begin, part.begin + found->second});
        continue;
      }
    }
    if (id >= 0) {
      out.push_back({id, begin, bytes});
    } else if (model_.byte_fallback) {
      for (uint32_t i = 0; i < bytes; ++i)
        out.push_back({of_byte_[static_cast<uint8_t>(piece[i])], begin + i, 1});
    } else {
      out.push_back({unknown_, begin, bytes});
    }
  }
}

void SentencePieceBpe::encode_word(std::string_view word, std::vector<BpeToken>& out) const {
  struct Symbol {
    uint32_t begin, bytes, previous, next;
  };
  struct Candidate {
    float score;
    uint32_t left, bytes;
    bool operator<(const Candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  constexpr uint32_t none = UINT32_MAX;
  std::vector<Symbol> symbols;
  for (uint32_t at = 0; at < word.size();) {
    const uint32_t bytes = code_point_at(word, at).bytes;
    const auto index = static_cast<uint32_t>(symbols.size());
    at += bytes;
    symbols.push_back(
        {at - bytes, bytes, index == 0 ? none : index - 1, at < word.size() ? index + 1 : none});
  }
  std::unordered_map<std::string_view, size_t> unmerge;
  std::priority_queue<Candidate> queue;
  auto push = [&](uint32_t left) {
    if (left == none || symbols[left].next == none) return;
    const uint32_t bytes = symbols[left].bytes + symbols[symbols[left].next].bytes;
    const std::string_view piece = word.substr(symbols[left].begin, bytes);
    const TokenId id = mergeable(piece);
    if (id < 0) return;
    const Piece& known = model_.pieces[static_cast<size_t>(id)];
    queue.push({known.score, left, bytes});
    if (known.type == PieceType::unused) unmerge[piece] = symbols[left].bytes;
  };
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) push(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.left];
    if (left.bytes == 0 || left.next == none || left.bytes + symbols[left.next].bytes != top.bytes) continue;
    Symbol& right = symbols[left.next];
    left.bytes = top.bytes;
    left.next = right.next;
    right.bytes = 0;
    if (left.next != none) symbols[left.next].previous = top.left;
    push(left.previous);
    push(top.left);
  }
  for (uint32_t i = symbols.empty() ? none : 0; i != none; i = symbols[i].next)
    emit_symbol(word, {symbols[i].begin, symbols[i].begin + symbols[i].bytes}, unmerge, out);
}

void SentencePieceBpe::encode_plain(const Section& section, ByteRange range, Encoding& out) const {
  const std::string_view text = section.text();
  std::vector<BpeToken> tokens;
  for (size_t begin = range.begin; begin < range.end;) {
    size_t end = range.end;
    if (words_are_separate_) {  // up to a space that follows something else
      end = begin;
      while (text.substr(end, range.end - end).starts_with(kSpace)) end += kSpace.size();
      end = std::min(range.end, text.find(kSpace, end));
    }
    const std::string_view word = text.substr(begin, end - begin);
    tokens.clear();
    with_word_cache(instance_, word, tokens, [&] { encode_word(word, tokens); });
    for (const BpeToken& token : tokens) {
      const ByteRange source = section.to_source({begin + token.begin, begin + token.begin + token.bytes});
      // A run of unknown characters is one unknown token.
      if (token.id == unknown_ && !out.ids.empty() && out.ids.back() == unknown_ &&
          out.offsets.back().end == source.begin) {
        out.offsets.back().end = source.end;
        continue;
      }
      out.ids.push_back(token.id);
      out.offsets.push_back(source);
    }
    begin = end;
  }
}

void SentencePieceBpe::encode_section(const Section& section, bool with_prefix,
                                      std::span<const ByteRange> user_text, Sections& sections,
                                      Encoding& out) const {
  const Section& normal = normalized(section, with_prefix, sections);
  for (const AddedSpan& span : find_user_defined_.split(normal, user_text)) {
    if (!span.token) {
      encode_plain(normal, span.range, out);
      continue;
    }
    out.ids.push_back(span.token->id);
    out.offsets.push_back(normal.to_source(span.range));
  }
}

Encoding SentencePieceBpe::encode(std::string_view text, const EncodeOptions& options) const {
  using Prefix = SentencePieceHints::Prefix;
  Encoding out;
  if (options.add_special_tokens)
    for (TokenId id : surround_.before) out.ids.push_back(id), out.offsets.push_back({0, 0});
  Sections sections;
  const Section& whole = valid_section(text, sections, Replacement::per_byte);
  for (const AddedSpan& span : added_.in_raw().split(whole, options.user_text)) {
    if (span.token) {
      out.ids.push_back(span.token->id);
      out.offsets.push_back(whole.to_source(span.range));
      continue;
    }
    const bool at_start = span.range.begin == 0;
    const bool with_prefix = (prefix_ == Prefix::always || (prefix_ == Prefix::first && at_start)) &&
                             !(options.continuation && at_start);
    encode_section(sections.emplace_back(whole, span.range), with_prefix, options.user_text, sections, out);
  }
  if (options.add_special_tokens)
    for (TokenId id : surround_.after)
      out.ids.push_back(id), out.offsets.push_back({text.size(), text.size()});
  return out;
}

bool SentencePieceBpe::is_byte(TokenId id) const {
  return static_cast<size_t>(id) < model_.pieces.size() &&
         model_.pieces[static_cast<size_t>(id)].type == PieceType::byte;
}

const std::string& SentencePieceBpe::token_text(TokenId id) const {
  if (const AddedToken* token = added_.find(id)) return token->content;
  if (!vocabulary_.has(id))
    fail("{}: token id {} is not in the vocabulary of {} tokens", model_.where, id, vocab_size_);
  return vocabulary_.token(id);
}

std::string SentencePieceBpe::token_bytes(TokenId id) const {
  const std::string& token = token_text(id);
  if (is_byte(id)) return {static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16))};
  if (added_.find(id)) return token;
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const bool is_space = std::string_view(token).substr(at).starts_with(kSpace);
    out += is_space ? ' ' : token[at];
    at += is_space ? kSpace.size() : 1;
  }
  return out;
}

std::string SentencePieceBpe::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  StreamDecoder decoder(*this, skip_special_tokens);
  std::string out;
  for (TokenId id : ids) out += decoder.push(id);
  return out + decoder.finish();
}

std::optional<TokenId> SentencePieceBpe::token_to_id(std::string_view token) const {
  if (const AddedToken* added = added_.find(token)) return added->id;
  return vocabulary_.find(token);
}

std::string SentencePieceBpe::id_to_token(TokenId id) const {
  return token_text(id);
}

}  // namespace attune::text
