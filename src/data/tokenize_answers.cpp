#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "data/file_rows.h"
#include "data/tokenize_row.h"

namespace attune::data {
namespace {

using text::Conversation;
using text::Message;

// Question and answer that get less than this, in tokens, say nothing.
constexpr size_t kLeast = 8;

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Questions and what tools gave: what of a prompt can lose its beginning.
bool is_input(const Message& m) { return m.role == "user" || m.role == "tool"; }

size_t characters(const Conversation& c, size_t prompt_messages) {
  size_t n = 0;
  for (size_t i = 0; i < prompt_messages; ++i)
    if (is_input(c.messages[i])) n += static_cast<size_t>(std::count_if(c.messages[i].content.begin(), c.messages[i].content.end(), [](char b) { return !continues_character(b); }));
  return n;
}

void leave_out_characters(Conversation& c, size_t prompt_messages, size_t n) {
  for (size_t i = 0; i < prompt_messages; ++i) {
    if (!is_input(c.messages[i])) continue;
    std::string& content = c.messages[i].content;
    size_t at = 0;
    for (; at < content.size() && n > 0; --n)
      for (++at; at < content.size() && continues_character(content[at]);) ++at;
    content.erase(0, at);
  }
}

// The smallest number in (low, high] for which `fits`; high where none of those before it does.
template <class Fits>
size_t fewest(size_t low, size_t high, Fits fits) {
  while (high > low + 1) {
    const size_t middle = low + (high - low) / 2;
    (fits(middle) ? high : low) = middle;
  }
  return high;
}

// One record with as much of its prompt as is wanted.
class Sides {
 public:
  Sides(const Record& record, const text::Tokenizer& tokenizer, const text::ChatTemplate& chat) : tokenizer_(tokenizer), chat_(chat) {
    sides_.push_back(record.conversation);
    if (record.is_pair()) sides_.push_back(record.rejected_conversation());
    prompt_messages_ = record.prompt_messages;
    read();
  }

  const std::vector<TokenizedRow>& rows() const { return rows_; }
  size_t prompt() const { return rows_[0].answers[0].begin; }  // tokens
  size_t longest_answer() const {
    size_t n = 0;
    for (const TokenizedRow& row : rows_) n = std::max(n, row.ids.size() - row.answers[0].begin);
    return n;
  }
  bool prompts_agree() const {
    return std::all_of(rows_.begin(), rows_.end(), [&](const TokenizedRow& row) {
      return row.answers[0].begin == prompt() && std::equal(row.ids.begin(), row.ids.begin() + static_cast<ptrdiff_t>(prompt()), rows_[0].ids.begin());
    });
  }

  // Shortens the prompt to `room` tokens, by as little as possible. Where system message and tools alone take more, question and
  // answer share what is left of `limit`. Returns what is left off (may be empty); nothing where what is left is too little.
  std::optional<std::string> shorten(size_t room, size_t limit) {
    const bool turns = leave_out_turns(room);
    const size_t all = characters(sides_[0], prompt_messages_), fixed = tokens_without(all);
    if (fixed + kLeast > limit) return std::nullopt;
    if (fixed > room) room = fixed + (limit - fixed) / 2;
    const bool beginning = tokens_without(0) > room;
    if (beginning) {
      const size_t n = fewest(0, all, [&](size_t c) { return tokens_without(c) <= room; });
      for (Conversation& side : sides_) leave_out_characters(side, prompt_messages_, n);
    }
    read();
    return turns && beginning ? "its first turns and the beginning of its question are" : turns ? "its first turns are" : beginning ? "the beginning of its question is" : "";
  }

 private:
  struct Part {
    Conversation conversation;
    size_t prompt_messages;
  };

  Conversation prompt_of(const Conversation& c) const {
    return {{c.messages.begin(), c.messages.begin() + static_cast<ptrdiff_t>(prompt_messages_)}, c.tools_json};
  }
  bool leave_out_turns(size_t room) {
    const size_t questions = count_questions(prompt_of(sides_[0]));
    if (questions < 2) return false;
    const auto fits = [&](size_t exchanges) { return prompt_tokens(later(sides_[0], exchanges)) <= room; };
    const size_t exchanges = fewest(0, questions - 1, fits), before = sides_[0].messages.size();
    for (Conversation& side : sides_) side = later(side, exchanges).conversation;
    prompt_messages_ -= before - sides_[0].messages.size();
    return true;
  }
  // Of the prompt, when its questions lose that many characters.
  size_t tokens_without(size_t characters) const {
    Conversation shorter = sides_[0];
    leave_out_characters(shorter, prompt_messages_, characters);
    return prompt_tokens({std::move(shorter), prompt_messages_});
  }
  // Without the first exchanges of the prompt; the answer stays, whatever is in it.
  Part later(const Conversation& c, size_t exchanges) const {
    Conversation shorter = without_first(prompt_of(c), exchanges);
    const size_t prompt_messages = shorter.messages.size();
    shorter.messages.insert(shorter.messages.end(), c.messages.begin() + static_cast<ptrdiff_t>(prompt_messages_), c.messages.end());
    return {std::move(shorter), prompt_messages};
  }
  TokenizedRow row_of(const Part& part) const {
    TokenizedRow row = tokenize_conversation(part.conversation, tokenizer_, chat_, false);
    std::erase_if(row.answers, [&](const auto& a) { return a.message < part.prompt_messages; });
    if (row.answers.empty()) throw BadRow{"the chat template leaves the answer out"};
    // What a template puts behind the last answer is no answer and conditions none.
    row.ids.resize(row.answers.back().end);
    row.weights.resize(row.ids.size());
    std::fill(row.weights.begin(), row.weights.begin() + static_cast<ptrdiff_t>(row.answers[0].begin), 0.0f);
    return row;
  }
  size_t prompt_tokens(const Part& part) const { return row_of(part).answers[0].begin; }
  void read() {
    rows_.clear();
    for (const Conversation& side : sides_) rows_.push_back(row_of({side, prompt_messages_}));
  }

  const text::Tokenizer& tokenizer_;
  const text::ChatTemplate& chat_;
  std::vector<Conversation> sides_;
  size_t prompt_messages_ = 0;
  std::vector<TokenizedRow> rows_;
};

// Prompt and answers into `limit` tokens: an answer of up to half of them stays whole, and so does a prompt.
std::vector<std::string> fit(Sides& sides, std::vector<TokenizedRow>& rows, size_t limit) {
  std::vector<std::string> reasons;
  const size_t answer = sides.longest_answer();
  if (sides.prompt() + answer > limit) {
    const size_t room = std::max(limit / 2, limit - std::min(limit, answer));
    if (sides.prompt() > room) {
      const auto what = sides.shorten(room, limit);
      if (!what) throw BadRow{"the prompt alone fills cutoff_len, no room is left for its answer"};
      if (!what->empty()) reasons.push_back("the prompt does not fit into cutoff_len: " + *what + " left off");
    }
  }
  rows = sides.rows();
  if (sides.prompt() + 2 > limit) throw BadRow{"the prompt alone fills cutoff_len, no room is left for its answer"};
  std::string cut;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].ids.size() <= limit) continue;
    cut_answer(rows[i], limit);
    cut += cut.empty() ? (rows.size() == 1 ? "the answer" : i == 0 ? "the chosen answer" : "the rejected answer") : " and the rejected answer";
  }
  if (!cut.empty())
    reasons.push_back(fmt::format("{} {} not fit into cutoff_len (cut before the closing token, which is kept)", cut, cut.find(" and ") == std::string::npos ? "does" : "do"));
  return reasons;
}

// LD-DPO: what stands behind the length of the shorter answer counts less.
void desensitize(std::vector<TokenizedRow>& rows, size_t prompt, float alpha) {
  const size_t shared = std::min(rows[0].ids.size(), rows[1].ids.size());
  for (TokenizedRow& row : rows)
    for (size_t i = std::max(prompt, shared); i < row.ids.size(); ++i) row.weights[i] *= alpha;
}

}  // namespace

void cut_answer(TokenizedRow& row, size_t limit) {
  row.ids[limit - 1] = row.ids.back();
  row.weights[limit - 1] = row.weights.back();
  row.ids.resize(limit);
  row.weights.resize(limit);
  std::erase_if(row.answers, [&](const auto& a) { return a.begin >= limit; });
  row.answers.back().end = limit;
}

RowResult tokenize_answers(const Record& record, const text::Tokenizer& tokenizer, const text::ChatTemplate& chat, const TokenizeOptions& options) {
  // It multiplies the loss of the row as a whole, not the log-probabilities that the loss compares.
  if (record.weight == 0) return RowResult::drop("its weight is 0");
  try {
    Sides sides(record, tokenizer, chat);
    const auto same = [](const std::vector<TokenizedRow>& rows) { return rows.size() == 2 && rows[0].ids == rows[1].ids; };
    if (same(sides.rows())) return RowResult::drop("chosen and rejected are the same");
    RowResult result;
    result.reasons = fit(sides, result.parts, static_cast<size_t>(options.cutoff_len));
    if (!sides.prompts_agree()) return RowResult::drop("the chat template writes the prompt in another way before the rejected answer: the sides cannot be compared");
    if (same(result.parts)) return RowResult::drop("chosen and rejected are the same within cutoff_len");
    if (record.is_pair()) desensitize(result.parts, sides.prompt(), options.ld_alpha);
    for (const TokenizedRow& row : result.parts) {
      if (std::none_of(row.weights.begin() + 1, row.weights.end(), [](float w) { return w != 0; })) return RowResult::drop("no token carries a label");
    }
    return result;
  } catch (const BadRow& bad) {
    return RowResult::drop(bad.reason);
  }
}

}  // namespace attune::data
