#include <algorithm>
#include <exception>

#include "data/tokenize_row.h"
#include "util/error.h"

namespace attune::data {
namespace {

using text::ByteRange;

// Encodes text[begin, end) with the user ranges that fall into it.
void encode_part(const text::RenderedChat& chat, ByteRange part, bool first, const text::Tokenizer& tokenizer,
                 std::vector<int32_t>& ids) {
  if (part.begin >= part.end) return;
  std::vector<ByteRange> user;
  for (const ByteRange& r : chat.user_text) {
    const size_t b = std::max(r.begin, part.begin), e = std::min(r.end, part.end);
    if (b < e) user.push_back({b - part.begin, e - part.begin});
  }
  text::EncodeOptions options;
  options.add_special_tokens = first && chat.add_special_tokens;
  options.user_text = user;
  options.continuation = !first;
  const text::Encoding encoding =
      tokenizer.encode(std::string_view(chat.text).substr(part.begin, part.end - part.begin), options);
  ids.insert(ids.end(), encoding.ids.begin(), encoding.ids.end());
}

// Fits a conversation into `limit` tokens: whole turns are left off the end; a first answer that is too long loses its
// middle-to-end but keeps the token that closes it. Returns the reason it was cut, or empty; sets ids empty to drop.
std::string fit(TokenizedRow& row, size_t limit) {
  if (row.ids.size() <= limit) return "";
  const auto keep = [&](size_t n) {
    row.ids.resize(n);
    row.weights.resize(n);
  };
  size_t end = 0;
  for (const auto& answer : row.answers)
    if (answer.end <= limit) end = answer.end;
  if (end > 0) {
    keep(end);
    return "the last turns do not fit into cutoff_len";
  }
  if (row.answers.empty() || row.answers[0].begin + 2 > limit) {
    row.ids.clear();
    return "the prompt alone fills cutoff_len, no room is left for its answer";
  }
  const size_t last = row.answers[0].end - 1;
  row.ids[limit - 1] = row.ids[last];
  row.weights[limit - 1] = row.weights[last];
  keep(limit);
  return "the answer does not fit into cutoff_len (cut before its closing token, which is kept)";
}

RowResult tokenize_text(const Record& record, const text::Tokenizer& tokenizer, const TokenizeOptions& options) {
  if (record.weight == 0) return RowResult::drop("its weight is 0");
  text::EncodeOptions encode;
  encode.add_special_tokens = true;
  const ByteRange all{0, record.text.size()};
  encode.user_text = {&all, 1};
  std::vector<int32_t> ids = tokenizer.encode(record.text, encode).ids;
  if (tokenizer.eos_id() && (ids.empty() || ids.back() != *tokenizer.eos_id())) ids.push_back(*tokenizer.eos_id());
  RowResult result;
  if (ids.size() < 2) return RowResult::drop("a text of one token teaches nothing");
  const auto limit = static_cast<size_t>(options.cutoff_len);
  for (size_t at = 0; at < ids.size(); at += limit) {
    TokenizedRow part;
    part.ids.assign(ids.begin() + static_cast<ptrdiff_t>(at), ids.begin() + static_cast<ptrdiff_t>(std::min(ids.size(), at + limit)));
    if (part.ids.size() < 2 && at > 0) {
      // One token alone predicts nothing: let the piece before lend it one.
      part.ids.insert(part.ids.begin(), ids[at - 1]);
    }
    part.weights.assign(part.ids.size(), record.weight);
    result.parts.push_back(std::move(part));
  }
  return result;
}

// As few of the first turns left off as the last answer, the only one that is learnt, needs to fit.
TokenizedRow tokenize_last_answer(const Record& record, const text::Tokenizer& tokenizer, const text::ChatTemplate& chat,
                                  const TokenizeOptions& options, std::string& reason) {
  const auto limit = static_cast<size_t>(options.cutoff_len);
  const auto at = [&](size_t exchanges) { return tokenize_conversation(without_first(record.conversation, exchanges), tokenizer, chat, options.train_on_prompt); };
  TokenizedRow row = at(0);
  if (row.ids.size() > limit) {
    size_t low = 0, high = count_questions(record.conversation) - 1;  // `low` is too long; fewer turns are never longer
    while (high > low + 1) {
      const size_t middle = (low + high) / 2;
      (at(middle).ids.size() > limit ? low : high) = middle;
    }
    if (high > 0) row = at(high), reason = "the first turns do not fit into cutoff_len";
  }
  if (!options.train_on_prompt)
    for (size_t i = 0; i + 1 < row.answers.size(); ++i)
      std::fill(row.weights.begin() + static_cast<ptrdiff_t>(row.answers[i].begin), row.weights.begin() + static_cast<ptrdiff_t>(row.answers[i].end), 0.0f);
  return row;
}

}  // namespace

text::Conversation without_first(const text::Conversation& conversation, size_t exchanges) {
  text::Conversation out;
  out.tools_json = conversation.tools_json;
  size_t questions = 0;
  for (const text::Message& m : conversation.messages) {
    if (m.role == "user") ++questions;
    if (questions > exchanges || (questions == 0 && m.role == "system")) out.messages.push_back(m);
  }
  return out;
}

size_t count_questions(const text::Conversation& conversation) {
  return static_cast<size_t>(std::count_if(conversation.messages.begin(), conversation.messages.end(), [](const auto& m) { return m.role == "user"; }));
}

RowResult tokenize_row(const Record& record, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat, const TokenizeOptions& options) {
  if (!record.is_conversation()) return tokenize_text(record, tokenizer, options);
  if (group_size_of(options.kind) == 2) return tokenize_answers(record, tokenizer, *chat, options);
  RowResult result;
  std::string first_turns;
  TokenizedRow row = options.mask_history ? tokenize_last_answer(record, tokenizer, *chat, options, first_turns)
                                          : tokenize_conversation(record.conversation, tokenizer, *chat, options.train_on_prompt);
  for (float& w : row.weights) w *= record.weight;
  const std::string cut = fit(row, static_cast<size_t>(options.cutoff_len));
  if (row.ids.empty()) return RowResult::drop(cut);
  if (std::none_of(row.weights.begin() + 1, row.weights.end(), [](float w) { return w != 0; })) return RowResult::drop("no token carries a label");
  if (const std::string& reason = cut.empty() ? first_turns : cut; !reason.empty()) result.reasons.push_back(reason);
  result.parts.push_back(std::move(row));
  return result;
}

TokenizedRow tokenize_conversation(const text::Conversation& conversation, const text::Tokenizer& tokenizer,
                                   const text::ChatTemplate& chat, bool train_on_prompt) {
  const text::RenderedChat rendered = chat.render(conversation);
  TokenizedRow row;
  size_t at = 0;
  bool first = true;
  // Each answer begins a piece of its own: in use, the prompt is tokenised without knowing what will follow.
  for (const auto& answer : rendered.answers) {
    encode_part(rendered, {at, answer.range.begin}, first, tokenizer, row.ids);
    first = first && answer.range.begin == 0;
    row.weights.resize(row.ids.size(), train_on_prompt ? 1.0f : 0.0f);
    const size_t begin = row.ids.size();
    encode_part(rendered, answer.range, first, tokenizer, row.ids);
    first = false;
    // A template that puts nothing behind the turn would teach the model never to stop.
    if (!answer.closed && tokenizer.eos_id()) row.ids.push_back(*tokenizer.eos_id());
    row.weights.resize(row.ids.size(), train_on_prompt ? 1.0f : conversation.messages[answer.message].weight);
    row.answers.push_back({begin, row.ids.size(), answer.message});
    at = answer.range.end;
  }
  encode_part(rendered, {at, rendered.text.size()}, first, tokenizer, row.ids);
  row.weights.resize(row.ids.size(), train_on_prompt ? 1.0f : 0.0f);
  return row;
}

std::vector<int32_t> tokenize_prompt(const text::Conversation& conversation, const text::Tokenizer& tokenizer,
                                     const text::ChatTemplate& chat) {
  const text::RenderedChat rendered = chat.render(conversation, true);
  std::vector<int32_t> ids;
  size_t at = 0;
  bool first = true;
  for (const auto& answer : rendered.answers) {
    encode_part(rendered, {at, answer.range.begin}, first, tokenizer, ids);
    first = false;
    encode_part(rendered, answer.range, first, tokenizer, ids);
    at = answer.range.end;
  }
  encode_part(rendered, {at, rendered.text.size()}, first, tokenizer, ids);
  return ids;
}

SetTokenizer::SetTokenizer(const text::Tokenizer& tokenizer, const TokenizeOptions& options) : tokenizer_(tokenizer), options_(options) {
  if (options.cutoff_len < 2) refuse("cutoff_len: {} is too short; at least 2 tokens are needed", options.cutoff_len);
  set_.set_group_size(group_size_of(options.kind));
}

void SetTokenizer::add(const Records& records, const text::ChatTemplate* chat) {
  // Results wait for their turn: not many of them.
  constexpr size_t kBlock = 2048;
  for (size_t at = 0; at < records.rows.size(); at += kBlock) add_block(records, at, std::min(at + kBlock, records.rows.size()), chat);
}

void SetTokenizer::add_block(const Records& records, size_t begin, size_t end, const text::ChatTemplate* chat) {
  std::vector<RowResult> results(end - begin);
  std::vector<std::exception_ptr> refused(end - begin);
#pragma omp parallel for schedule(dynamic, 8)
  for (size_t i = 0; i < results.size(); ++i) {
    const Record& record = records.rows[begin + i];
    try {
      results[i] = tokenize_row(record, tokenizer_, chat, options_);
    } catch (const Error& e) {
      // The template refuses this conversation: the others are not hidden by it.
      results[i] = RowResult::drop(e.what());
      refused[i] = std::make_exception_ptr(Error(e.blame(), records.where(record.source) + ": " + e.what()));
    } catch (...) {
      refused[i] = std::current_exception();
    }
  }
  for (size_t i = 0; i < results.size(); ++i) {
    RowResult& r = results[i];
    if (refused[i] && !r.dropped) std::rethrow_exception(refused[i]);
    ++rows_;
    refused_ += refused[i] != nullptr;
    if (!first_refusal_) first_refusal_ = refused[i];
    const Source& source = records.rows[begin + i].source;
    const std::string where = records.where(source);
    for (const std::string& reason : r.reasons)
      report_.add(r.dropped ? DataReport::Action::dropped : DataReport::Action::cut, reason, where);
    if (r.parts.empty()) continue;
    const Record& record = records.rows[begin + i];
    if (options_.kind == RowKind::judged) add_judged({std::move(r.parts[0]), where, records.data_set(source), record.desirable.value_or(true), record.weight});
    else for (const TokenizedRow& part : r.parts) set_.add(part.ids, part.weights, where, records.data_set(source));
    if (options_.kind != RowKind::pair) continue;
    for (int64_t side : {2, 1}) {
      if (record.margin) set_.set_side(kMargin, set_.size() - side, *record.margin);
      if (record.weight != 1) set_.set_side(kExtraWeight, set_.size() - side, record.weight - 1);
    }
  }
}

void SetTokenizer::add_judged(Judged row) {
  if (waiting_) add_with_answer_of(*waiting_, row.tokens);
  else first_ = row.tokens;
  waiting_ = std::move(row);
}

void SetTokenizer::add_with_answer_of(const Judged& row, const TokenizedRow& other) {
  const size_t prompt = row.tokens.answers[0].begin;
  TokenizedRow mismatched;
  mismatched.ids.assign(row.tokens.ids.begin(), row.tokens.ids.begin() + static_cast<ptrdiff_t>(prompt));
  mismatched.ids.insert(mismatched.ids.end(), other.ids.begin() + static_cast<ptrdiff_t>(other.answers[0].begin), other.ids.end());
  mismatched.weights.resize(prompt, 0.0f);
  mismatched.weights.resize(mismatched.ids.size(), 1.0f);
  mismatched.answers = {{prompt, mismatched.ids.size()}};
  if (static_cast<int64_t>(mismatched.ids.size()) > options_.cutoff_len) cut_answer(mismatched, static_cast<size_t>(options_.cutoff_len));
  for (const TokenizedRow* part : std::initializer_list<const TokenizedRow*>{&row.tokens, &mismatched}) {
    set_.add(part->ids, part->weights, row.where, row.source);
    set_.set_side(kDesirable, set_.size() - 1, row.desirable ? 1.0f : 0.0f);
    if (row.weight != 1) set_.set_side(kExtraWeight, set_.size() - 1, row.weight - 1);
  }
}

void SetTokenizer::close_circle() {
  if (!waiting_) return;
  if (set_.size() == 0) report_.add(DataReport::Action::dropped, "it is the only row: KTO sets each prompt beside the answer of another row, too", waiting_->where);
  else add_with_answer_of(*waiting_, first_);
  waiting_.reset();
}

TokenSet SetTokenizer::finish(const Records& records, DataReport& report) {
  if (rows_ > 0 && refused_ == rows_) std::rethrow_exception(first_refusal_);
  close_circle();
  report.add(report_);
  set_.set_sources(records.data_sets);
  return std::move(set_);
}

TokenSet tokenize(const Records& records, const text::Tokenizer& tokenizer, const text::ChatTemplate* chat,
                  const TokenizeOptions& options, DataReport& report) {
  SetTokenizer tokenization(tokenizer, options);
  tokenization.add(records, chat);
  return tokenization.finish(records, report);
}

}  // namespace attune::data
