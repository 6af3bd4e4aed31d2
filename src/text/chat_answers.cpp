#include "text/chat_answers.h"

#include <algorithm>
#include <optional>

#include "text/jinja_unicode.h"
#include "util/error.h"

namespace attune::text {
namespace {

using jinja::Piece;
using jinja::Rendered;
using jinja::Source;
using jinja::Value;

bool blank(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return jinja::is_space(c); });
}

class AnswerFinder {
 public:
  AnswerFinder(const AnswerContext& context, size_t message)
      : c_(context), text_(context.rendered.text.bytes()), message_(static_cast<int>(message)) {}

  std::optional<RenderedChat::Answer> find() {
    if (!locate()) return std::nullopt;
    RenderedChat::Answer answer;
    answer.message = message_;
    answer.range.begin = behind_prompt();
    answer.range.end = turn_end(answer.range.begin, answer.closed);
    return answer;
  }

 private:
  [[noreturn]] void undetermined(const std::string& why) const {
    refuse(
        "chat template {}: cannot tell which bytes of message {} (assistant) the model must produce: {}. "
        "Mark them in the template with {{% generation %}} … {{% endgeneration %}}, or choose a built-in "
        "template "
        "(template: chatml, qwen, llama3, alpaca, default)",
        c_.template_name, message_, why);
  }

  bool own(const jinja::Origin& origin) const {
    return origin.source == Source::message && origin.message == message_;
  }

  // The bytes that were written while this message was rendered. False: the template left it out.
  bool locate() {
    bool other_between = false;
    for (const Piece& piece : c_.rendered.pieces) {
      if (piece.message == message_) {
        if (found_ && other_between) undetermined("the template writes this message in more than one place");
        if (!found_) begin_ = piece.begin;
        found_ = true;
        end_ = piece.end;
      } else if (found_) {
        other_between = true;
      }
    }
    size_t at = 0;
    first_own_ = end_;
    bool elsewhere = false;
    for (const jinja::Run& run : c_.rendered.text.runs()) {
      if (own(run.origin)) {
        if (found_ && at >= begin_ && at < end_) {
          first_own_ = std::min(first_own_, at);
          last_own_ = std::min(run.end, end_);
        } else if (!found_) {
          if (!elsewhere) begin_ = first_own_ = at;
          elsewhere = true;
          last_own_ = end_ = run.end;
        }
      }
      at = run.end;
    }
    if (elsewhere) return true;
    if (!found_) return false;
    return last_own_ > 0 || !blank(std::string_view(text_).substr(begin_, end_ - begin_));
  }

  // Parts of the conversation to ask for a generation prompt with, the cheapest first: the last exchange,
  // everything before this message, a stand-in.
  std::vector<std::vector<Value>> probes() const {
    const auto& all = c_.messages;
    std::vector<std::vector<Value>> out;
    const bool has_system = !all.empty() && c_.roles[0] == "system";
    size_t from = message_;
    while (from > 0 && c_.roles[from - 1] != "user") --from;
    if (from > 0) {
      std::vector<Value> last(all.begin() + from - 1, all.begin() + message_);
      if (has_system && from - 1 > 0) last.insert(last.begin(), all[0]);
      out.push_back(std::move(last));
    }
    if (message_ > 0) out.emplace_back(all.begin(), all.begin() + message_);
    std::vector<Value> made{c_.stand_in};
    if (has_system && message_ > 0) made.insert(made.begin(), all[0]);
    out.push_back(std::move(made));
    // Templates that write the first question outside of their loop show a prompt only behind a later one.
    out.emplace_back(all.begin(), all.begin() + message_ + 1);
    out.back().push_back(c_.stand_in);
    return out;
  }

  // What the template writes behind the last message when it asks for an answer.
  std::string prompt() const {
    for (const std::vector<Value>& probe : probes()) {
      try {
        const Rendered rendered = c_.with_prompt(probe);
        for (size_t i = rendered.pieces.size(); i-- > 0;)
          if (rendered.pieces[i].message >= 0) return rendered.text.bytes().substr(rendered.pieces[i].end);
      } catch (const Error&) {
        continue;  // the template does not take this part alone
      }
    }
    return "";
  }

  size_t behind_prompt() const {
    if (!found_) return behind_whole_prefix();
    const std::string_view head = std::string_view(text_).substr(begin_, first_own_ - begin_);
    const std::string prompt = this->prompt();
    if (prompt.empty()) {
      // No prompt is written: the answer begins where the message does, behind a header if there is one.
      if (blank(head)) return begin_;
      if (first_own_ < end_) return first_own_;
      undetermined("the template writes no generation prompt and the message is empty");
    }
    if (const size_t at = head.find(prompt); at != std::string_view::npos) return begin_ + at + prompt.size();
    // A template may put BOS before its first message; where BOS opens every turn it belongs to the prompt.
    for (const size_t skip : {size_t{0}, head.starts_with(c_.bos) ? c_.bos.size() : size_t{0}})
      if (const size_t common = common_prompt(head.substr(skip), prompt, begin_ + skip))
        return begin_ + skip + common;
    undetermined(
        "the message does not begin with the generation prompt that the template writes before an answer");
  }

  // A prompt that goes on differently from the message (an opened <think>): what both have in common, back to
  // the last place where something ends.
  size_t common_prompt(std::string_view head, std::string_view prompt, size_t offset) const {
    const size_t limit = std::min(head.size(), prompt.size());
    size_t common = std::mismatch(head.begin(), head.begin() + limit, prompt.begin()).first - head.begin();
    if (common == head.size() && first_own_ < end_) return common;
    for (; common > 0; --common) {
      const char before = head[common - 1];
      if (before == '\n' || before == '>' || before == ']' || before == ' ') return common;
      for (const Piece& piece : c_.rendered.pieces)
        if (piece.begin == offset + common) return common;
    }
    return 0;
  }

  // For templates that do not loop over the messages.
  size_t behind_whole_prefix() const {
    std::string before;
    try {
      before = c_.with_prompt({c_.messages.begin(), c_.messages.begin() + message_}).text.bytes();
    } catch (const Error& error) {
      undetermined(std::string("it is not written by a loop over the messages, and what precedes it cannot "
                               "be rendered alone (") +
                   error.what() + ")");
    }
    if (!text_.starts_with(before) || before.size() > first_own_)
      undetermined(
          "it is not written by a loop over the messages, and what precedes it is rendered differently "
          "alone");
    return before.size();
  }

  bool literal(size_t begin, size_t end) const {
    for (size_t at = begin; at < end; ++at)
      if (c_.rendered.text.origin_at(at).from_user()) return false;
    return true;
  }

  // End of the last special token in [begin, end), or 0.
  size_t last_special(size_t begin, size_t end) const {
    const std::string_view tail = std::string_view(text_).substr(begin, end - begin);
    size_t best = 0;
    for (const std::string& token : c_.special_tokens) {
      const size_t at = tail.rfind(token);
      if (at != std::string_view::npos && literal(begin + at, begin + at + token.size()))
        best = std::max(best, begin + at + token.size());
    }
    return best;
  }

  // The token that begins at `at`, as the end of a turn in templates where the next speaker ends it.
  size_t special_at(size_t at) const {
    size_t best = 0;
    for (const std::string& token : c_.special_tokens)
      if (token != c_.bos && std::string_view(text_).substr(at).starts_with(token) &&
          literal(at, at + token.size()))
        best = std::max(best, at + token.size());
    return best;
  }

  size_t next_user_byte(size_t from) const {
    size_t at = 0;
    for (const jinja::Run& run : c_.rendered.text.runs()) {
      if (run.end > from && run.origin.from_user()) return std::max(at, from);
      at = run.end;
    }
    return text_.size();
  }

  size_t turn_end(size_t begin, bool& closed) const {
    const size_t behind = std::max(begin, last_own_);
    if (!found_) {
      // Only the first special token behind it can be its own.
      const size_t limit = next_user_byte(behind);
      for (size_t at = behind; at < limit; ++at)
        if (const size_t end = special_at(at)) return end;
      closed = false;
      return behind;
    }
    if (const size_t end = last_special(behind, end_)) return end;
    if (const size_t end = special_at(end_)) return end;
    std::string_view tail = std::string_view(text_).substr(behind, end_ - behind);
    while (!tail.empty() && jinja::is_space(static_cast<unsigned char>(tail.back()))) tail.remove_suffix(1);
    closed = !tail.empty();
    return behind + tail.size();
  }

  const AnswerContext& c_;
  const std::string& text_;
  const int message_;
  bool found_ = false;                   // written by a loop over the messages
  size_t begin_ = 0, end_ = 0;           // all bytes written for the message
  size_t first_own_ = 0, last_own_ = 0;  // those that came out of the message itself
};

}  // namespace

std::vector<RenderedChat::Answer> structural_answers(const AnswerContext& context) {
  std::vector<RenderedChat::Answer> answers;
  for (size_t i = 0; i < context.messages.size(); ++i) {
    if (context.roles[i] != "assistant") continue;
    if (auto answer = AnswerFinder(context, i).find()) answers.push_back(*answer);
  }
  for (size_t i = 1; i < answers.size(); ++i)
    if (answers[i].range.begin < answers[i - 1].range.end)
      refuse(
          "chat template {}: the bytes of messages {} and {} overlap, so the answers cannot be told apart; "
          "mark them "
          "in the template with {{% generation %}} … {{% endgeneration %}}",
          context.template_name, answers[i - 1].message, answers[i].message);
  return answers;
}

std::vector<RenderedChat::Answer> generation_answers(const AnswerContext& context) {
  std::vector<RenderedChat::Answer> answers;
  for (const Piece& span : context.rendered.generated) {
    if (span.begin == span.end) continue;
    int message = span.message;
    for (size_t at = span.begin; message < 0 && at < span.end; ++at)
      message = context.rendered.text.origin_at(at).message;
    // A span that names no message belongs to the answer before it (an EOS behind the loop).
    if (message < 0 && !answers.empty()) message = static_cast<int>(answers.back().message);
    if (message < 0)
      refuse(
          "chat template {}: a {{% generation %}} block writes text that belongs to no message; put it "
          "inside of the "
          "loop over the messages",
          context.template_name);
    if (!answers.empty() && answers.back().range.end == span.begin &&
        answers.back().message == static_cast<size_t>(message)) {
      answers.back().range.end = span.end;
    } else {
      answers.push_back({{span.begin, span.end}, static_cast<size_t>(message), true});
    }
  }
  return answers;
}

}  // namespace attune::text
