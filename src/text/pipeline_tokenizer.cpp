#include "text/pipeline_tokenizer.h"

#include <algorithm>

#include "util/error.h"

namespace attune::text {

Encoding PipelineTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  Encoding out;
  if (options.add_special_tokens)
    for (TokenId id : surround_.before) out.ids.push_back(id), out.offsets.push_back({0, 0});

  Sections sections;
  const Section& whole = valid_section(text, sections);
  auto emit = [&](const Section& section, const AddedSpan& span) {
    out.ids.push_back(span.token->id);
    out.offsets.push_back(section.to_source(span.range));
  };
  bool first = true;  // nothing of the text has been passed yet
  for (const AddedSpan& span : added_.in_raw().split(whole, options.user_text)) {
    const bool continues = options.continuation && first;
    first = false;
    if (span.token) {
      emit(whole, span);
      continue;
    }
    const Section& raw = sections.emplace_back(whole, span.range);
    const Section& normal = normalizer_.apply(raw, continues, sections);
    if (added_.in_normalized().empty()) {
      encode_section(normal, continues, sections, out);
      continue;
    }
    for (const AddedSpan& inner : added_.in_normalized().split(normal, options.user_text)) {
      if (inner.token)
        emit(normal, inner);
      else
        encode_section(sections.emplace_back(normal, inner.range), continues && inner.range.begin == 0,
                       sections, out);
    }
  }
  if (options.add_special_tokens)
    for (TokenId id : surround_.after)
      out.ids.push_back(id), out.offsets.push_back({text.size(), text.size()});
  return out;
}

void PipelineTokenizer::encode_section(const Section& section, bool continuation, Sections& sections,
                                       Encoding& out) const {
  std::vector<ByteRange> words;
  const Section& cut = pre_tokenizer_.split(section, continuation, sections, words);
  std::vector<WordToken> tokens;
  for (const ByteRange& word : words) {
    tokens.clear();
    model_->encode_word(cut.text().substr(word.begin, word.end - word.begin), tokens);
    for (const WordToken& token : tokens) {
      out.ids.push_back(token.id);
      const size_t begin = word.begin + token.begin;
      out.offsets.push_back(cut.to_source({begin, begin + token.bytes}));
    }
  }
}

const std::string& PipelineTokenizer::token_text(TokenId id) const {
  if (const AddedToken* token = added_.find(id)) return token->content;
  if (!model_->vocabulary().has(id))
    fail("{}: token id {} is not in the vocabulary of {} tokens", where_, id, vocab_size_);
  return model_->vocabulary().token(id);
}

std::string PipelineTokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  for (TokenId id : ids) {
    const std::string& token = token_text(id);
    if (!skip_special_tokens || !is_special(id)) tokens.push_back(token);
  }
  return decoder_.decode(std::move(tokens));
}

std::string PipelineTokenizer::token_bytes(TokenId id) const {
  return decoder_.token_bytes(token_text(id), false);
}

std::string PipelineTokenizer::first_token_bytes(TokenId id) const {
  return decoder_.token_bytes(token_text(id), true);
}

std::optional<TokenId> PipelineTokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = added_.find(token)) return added->id;
  return model_->vocabulary().find(token);
}

std::string PipelineTokenizer::id_to_token(TokenId id) const {
  return token_text(id);
}

}  // namespace attune::text
