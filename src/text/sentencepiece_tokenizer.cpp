#include "text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <queue>

#include "text/space_mark.h"
#include "util/error.h"

namespace attune::text {
// One pass over a text: rewriting rules, spaces become "▁".
struct SentencePieceTokenizer::Rewriter {
  const SentencePieceTokenizer& tokenizer;
  std::string_view text;
  std::string out = {};
  Alignment alignment = {};
  bool after_space = false;

  // What the next characters become; `bytes` of the text are used up.
  std::string_view next(size_t at, size_t& bytes) const {
    const auto& charsmap = tokenizer.model_.charsmap;
    bytes = code_point_at(text, at).bytes;
    if (!charsmap) return text.substr(at, bytes);
    size_t end = 0;
    if (tokenizer.find_user_defined_.longest(text, at, end)) {
      bytes = end - at;
      return text.substr(at, bytes);
    }
    const Charsmap::Rule rule = charsmap->longest(text.substr(at));
    if (rule.bytes == 0) return text.substr(at, bytes);
    bytes = rule.bytes;
    return rule.replacement;
  }

  void put(std::string_view changed, ByteRange source) {
    const bool squeeze = tokenizer.model_.remove_extra_whitespaces;
    while (squeeze && after_space && changed.starts_with(' ')) changed.remove_prefix(1);
    const size_t begin = out.size();
    for (char c : changed) c == ' ' ? out += kSpaceMark : out += c;
    if (std::string_view(out).substr(begin) != text.substr(source.begin, source.end - source.begin))
      alignment.add({begin, out.size()}, source);
    if (!changed.empty()) after_space = changed.ends_with(' ');
  }
};

// One "▁" is put before the text where the model wants it.
const Section& SentencePieceTokenizer::normalized(const Section& section, bool with_prefix,
                                                  Sections& sections) const {
  const std::string_view text = section.text();
  const bool squeeze = model_.remove_extra_whitespaces;
  Rewriter rewriter{*this, text};
  rewriter.out.reserve(text.size() + text.size() / 2);
  size_t at = 0, bytes = 0;
  while (squeeze && at < text.size() && rewriter.next(at, bytes) == " ") at += bytes;
  if (at > 0) rewriter.alignment.add({0, 0}, {0, at});
  const bool has_space = text.substr(at).starts_with(' ') || text.substr(at).starts_with(kSpaceMark);
  if (with_prefix && at < text.size() && !(prefix_only_if_missing_ && has_space)) {
    rewriter.alignment.add({0, kSpaceMark.size()}, {at, at});
    rewriter.out += kSpaceMark;
  }
  rewriter.after_space = squeeze;
  for (; at < text.size(); at += bytes) {
    const std::string_view changed = rewriter.next(at, bytes);
    rewriter.put(changed, {at, at + bytes});
  }
  std::string& out = rewriter.out;
  while (squeeze && out.ends_with(kSpaceMark)) out.resize(out.size() - kSpaceMark.size());
  return sections.emplace_back(section, std::move(out), std::move(rewriter.alignment));
}

// The id of a piece that merging may make, or -1.
TokenId SentencePieceTokenizer::mergeable(std::string_view piece) const {
  const auto id = vocabulary_.find(piece);
  if (!id) return -1;
  const PieceType type = model_.pieces[static_cast<size_t>(*id)].type;
  return type == PieceType::normal || type == PieceType::user_defined || type == PieceType::unused ? *id : -1;
}

// A finished symbol: its piece, or (for UNUSED pieces) the two it was made of, or its bytes.
void SentencePieceTokenizer::emit_symbol(std::string_view word, ByteRange range,
                                         const std::unordered_map<std::string_view, size_t>& unmerge,
                                         std::vector<WordToken>& out) const {
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

void SentencePieceTokenizer::encode_word(std::string_view word, std::vector<WordToken>& out) const {
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

// `section_begin`: how many tokens there were before the section.
void SentencePieceTokenizer::encode_plain(const Section& section, ByteRange range, size_t section_begin,
                                          Encoding& out) const {
  const std::string_view text = section.text();
  std::vector<WordToken> tokens;
  for (size_t begin = range.begin; begin < range.end;) {
    size_t end = range.end;
    if (words_are_separate_) end = begin + end_of_marked_word(text.substr(begin, range.end - begin), 0);
    const std::string_view word = text.substr(begin, end - begin);
    tokens.clear();
    if (unigram_)
      unigram_->encode_word(word, tokens);
    else
      with_word_cache(instance_, word, tokens, [&] { encode_word(word, tokens); });
    for (const WordToken& token : tokens) {
      const ByteRange source = section.to_source({begin + token.begin, begin + token.begin + token.bytes});
      // A run of unknown characters is one unknown token.
      if (token.id == unknown_ && out.ids.size() > section_begin && out.ids.back() == unknown_) {
        out.offsets.back().end = std::max(out.offsets.back().end, source.end);
        continue;
      }
      out.ids.push_back(token.id);
      out.offsets.push_back(source);
    }
    begin = end;
  }
}

void SentencePieceTokenizer::encode_section(const Section& section, bool with_prefix,
                                            std::span<const ByteRange> user_text, Sections& sections,
                                            Encoding& out) const {
  const Section& normal = normalized(section, with_prefix, sections);
  const size_t begin = out.ids.size();
  if (unigram_) return encode_plain(normal, {0, normal.text().size()}, begin, out);
  for (const AddedSpan& span : find_user_defined_.split(normal, user_text)) {
    if (!span.token) {
      encode_plain(normal, span.range, begin, out);
      continue;
    }
    out.ids.push_back(span.token->id);
    out.offsets.push_back(normal.to_source(span.range));
  }
}

Encoding SentencePieceTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  Encoding out;
  if (options.add_special_tokens)
    for (TokenId id : before_) out.ids.push_back(id), out.offsets.push_back({0, 0});
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
    for (TokenId id : behind_) out.ids.push_back(id), out.offsets.push_back({text.size(), text.size()});
  return out;
}

bool SentencePieceTokenizer::is_byte(TokenId id) const {
  return static_cast<size_t>(id) < model_.pieces.size() &&
         model_.pieces[static_cast<size_t>(id)].type == PieceType::byte;
}

const std::string& SentencePieceTokenizer::token_text(TokenId id) const {
  if (const AddedToken* token = added_.find(id)) return token->content;
  if (!vocabulary_.has(id))
    fail("{}: token id {} is not in the vocabulary of {} tokens", model_.where, id, vocab_size_);
  return vocabulary_.token(id);
}

std::string SentencePieceTokenizer::token_bytes(TokenId id) const {
  const std::string& token = token_text(id);
  if (is_byte(id)) return {static_cast<char>(byte_of_token(token))};
  if (added_.find(id)) return token;
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const bool is_space = std::string_view(token).substr(at).starts_with(kSpaceMark);
    out += is_space ? ' ' : token[at];
    at += is_space ? kSpaceMark.size() : 1;
  }
  return out;
}

std::string SentencePieceTokenizer::first_token_bytes(TokenId id) const {
  std::string bytes = token_bytes(id);
  if (strips_first_space_ && !added_.find(id) && token_text(id).starts_with(kSpaceMark)) bytes.erase(0, 1);
  return bytes;
}

std::string SentencePieceTokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  StreamDecoder decoder(*this, skip_special_tokens);
  std::string out;
  for (TokenId id : ids) out += decoder.push(id);
  return out + decoder.finish();
}

std::optional<TokenId> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = added_.find(token)) return added->id;
  return vocabulary_.find(token);
}

std::string SentencePieceTokenizer::id_to_token(TokenId id) const {
  return token_text(id);
}

}  // namespace attune::text
