// chat: a conversation on a terminal, or with the lines of a pipe.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/sampling.h"
#include "data/convert.h"
#include "data/token_set.h"
#include "infer/text_stream.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// Ctrl-C: a running answer stops; reading returns.
class InterruptGuard {
 public:
  InterruptGuard() {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    ::sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { ::sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// Lines of stdin. Not std::getline: it cannot tell an interrupted read from the end.
class LineReader {
 public:
  enum class Got { line, end, interrupted };
  Got read(std::string& line) {
    for (;;) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        if (!line.empty() && line.back() == '\r') line.pop_back();
        return Got::line;
      }
      char piece[4096];
      const ssize_t n = ::read(STDIN_FILENO, piece, sizeof piece);
      if (n > 0) {
        buffer_.append(piece, static_cast<size_t>(n));
      } else if (n < 0 && errno == EINTR) {
        buffer_.clear();
        return Got::interrupted;
      } else {
        if (buffer_.empty()) return Got::end;
        buffer_ += '\n';
      }
    }
  }

 private:
  std::string buffer_;
};

// Colours only where somebody sees them (no-color.org).
struct Style {
  bool terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  bool colours = false;
  Style() {
    const char *no = std::getenv("NO_COLOR"), *term = std::getenv("TERM");
    colours = terminal && !(no && *no) && !(term && std::strcmp(term, "dumb") == 0);
  }
  std::string prompt() const { return !terminal ? "" : colours ? "\x1b[1;32m> \x1b[0m" : "> "; }
};

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

constexpr const char* kHelp =
    "/help             this\n"
    "/reset            forget the conversation; the system message stays\n"
    "/system TEXT      set the system message (without TEXT: none) and begin again\n"
    "/history          what was said\n"
    "/undo             take back the last question and its answer\n"
    "/retry            answer the last question again\n"
    "/adapter          which adapters there are; /adapter NAME, none, or a sum as in 0.7*law+0.3*tone chooses\n"
    "/save FILE        append the conversation to FILE as a ShareGPT row, ready for training\n"
    "/exit             end (as Ctrl-D). Ctrl-C stops an answer\n"
    "//…               a message that begins with /";

class Chat {
 public:
  explicit Chat(const ChatArgs& args)
      : options_(sampling_options(args.sampling, args.model, 1024)), generator_(args.model, parse_dtype(args.compute, "--compute"), adapters_of(args.adapters, args.use, true), parse_quantization(args.quantization, "--quantization"), ops::choose_backend(args.device)),
        template_(text::ChatTemplate::create(args.chat_template, generator_.tokenizer())), system_(args.system), stops_(args.sampling.stop) {
    options_.stop_ids = generator_.stop_ids(template_->stop_texts());
    for (const std::string& text : template_->stop_texts())
      if (!generator_.tokenizer().token_to_id(text)) stops_.push_back(text);
    const int64_t context = infer::context_length(generator_.model().config());
    const uint64_t token = std::max<uint64_t>(1, generator_.model().cache_bytes(1, parse_dtype(args.compute, "--compute")));
    // Room is taken as the conversation grows; what could never be taken is not offered.
    const auto most = static_cast<int64_t>(generator_.model().embedding().device->free_memory() / 5 * 4 / token);
    kept_ = generator_.session().keep(std::max<int64_t>(16, std::min(context > 0 ? context : 8192, most)));
  }

  int run() {
    const InterruptGuard guard;
    if (style_.terminal) info("/help lists what can be done; Ctrl-D ends");
    LineReader reader;
    for (std::string line;;) {
      interrupted = 0;
      fmt::print("{}", style_.prompt());
      std::fflush(stdout);
      const auto got = reader.read(line);
      if (got == LineReader::Got::interrupted && style_.terminal) {
        fmt::print("\n");
        continue;
      }
      if (got != LineReader::Got::line) break;
      if (trimmed(line).empty()) continue;
      try {
        if (line[0] == '/' && !line.starts_with("//")) {
          if (!command(line)) break;
        } else {
          say(line.starts_with("//") ? line.substr(1) : line);
        }
      } catch (const Error& error) {
        warn("{}", error.what());
        failed_ = !style_.terminal;
      }
    }
    if (style_.terminal) fmt::print("\n");
    return failed_ ? 1 : 0;
  }

 private:
  bool command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space), rest = space == std::string::npos ? "" : trimmed(line.substr(space));
    if (name == "/exit" || name == "/quit") return false;
    if (name == "/help") fmt::print(stderr, "{}\n", kHelp);
    else if (name == "/reset") reset();
    else if (name == "/system") system_ = rest, reset();
    else if (name == "/history") history();
    else if (name == "/undo") undo();
    else if (name == "/retry") retry();
    else if (name == "/adapter") adapter(rest);
    else if (name == "/save") save(rest);
    else refuse("{}: no such command; /help lists them (a message that begins with / is written with //)", name);
    return true;
  }

  void reset() {
    messages_.clear();
    first_ = 0;
  }

  void history() const {
    if (!system_.empty()) fmt::print("system: {}\n", system_);
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (i == first_ && first_ > 0) fmt::print("(what stands above no longer fits into the context)\n");
      fmt::print("{}: {}\n", messages_[i].role, messages_[i].content);
    }
    fmt::print("({} of {} tokens)\n", kept_.ids.size(), kept_.capacity);
  }

  // Removes messages from the last one of the user on, which is returned.
  std::string take_last_question() {
    if (messages_.empty()) refuse("nothing has been said yet");
    std::string question;
    for (bool user = false; !user; messages_.pop_back()) {
      user = messages_.back().role == "user";
      if (user) question = messages_.back().content;
    }
    first_ = std::min(first_, messages_.size());
    return question;
  }

  void undo() { notice("taken back: {}", take_last_question()); }

  void retry() {
    if (options_.temperature == 0) notice("at temperature 0 the answer to the same question is the same; --temperature changes that");
    const std::string question = take_last_question();
    ++attempt_;
    answer(question);
  }

  // The conversation goes on, and is read again by the model that answers now.
  void adapter(const std::string& choice) {
    models::AdapterSet* set = generator_.adapters();
    if (!set) refuse("/adapter: there is nothing to choose among; name adapters with --adapter NAME=DIRECTORY (a chain, first,second, is one whole)");
    if (!choice.empty()) {
      set->select(models::parse_weights(choice, set->adapters()));
      kept_.ids.clear();
    }
    std::string all;
    for (const models::NamedAdapter& a : set->adapters()) all += fmt::format("{}{} ({})", all.empty() ? "" : ", ", a.name, a.directory);
    notice("adapter: {}; there are {}", models::weights_text(set->weights(), set->adapters()), all);
  }

  void save(const std::string& file) const {
    if (file.empty()) refuse("/save: name a file");
    if (messages_.empty()) refuse("/save: nothing has been said yet");
    data::Record record;
    record.conversation.messages = messages_;
    if (!system_.empty()) record.conversation.messages.insert(record.conversation.messages.begin(), {"system", system_, 1, ""});
    data::Notes lost;
    std::ofstream out(file, std::ios::app | std::ios::binary);
    out << dump_json(data::to_row(record, data::Format::sharegpt, lost)) << "\n" << std::flush;
    if (!out) fail("/save: cannot write {}: {}", file, std::strerror(errno));
    notice("appended to {}", file);
  }

  void say(const std::string& text) {
    attempt_ = 0;
    answer(text);
  }

  std::vector<int32_t> rendered() const {
    text::Conversation conversation;
    if (!system_.empty()) conversation.messages.push_back({"system", system_, 1, ""});
    conversation.messages.insert(conversation.messages.end(), messages_.begin() + static_cast<ptrdiff_t>(first_), messages_.end());
    return data::tokenize_prompt(conversation, generator_.tokenizer(), *template_);
  }

  // The conversation's ids; turns that no longer fit beside an answer are left out, the oldest first.
  std::vector<int32_t> prompt() {
    const size_t before = first_;
    const int64_t reserve = std::max<int64_t>(1, std::min(options_.max_new_tokens, kept_.capacity / 4));
    std::vector<int32_t> ids = rendered();
    while (static_cast<int64_t>(ids.size()) + reserve > kept_.capacity) {
      size_t next = first_ + 1;
      while (next < messages_.size() && messages_[next].role != "user") ++next;
      if (next >= messages_.size()) break;  // the last question stands alone
      first_ = next;
      ids = rendered();
    }
    if (static_cast<int64_t>(ids.size()) >= kept_.capacity)
      refuse("the message takes {} tokens with its system message, the context has {}: there is no room for an answer", ids.size(), kept_.capacity);
    if (first_ > before)
      notice("the context of {} tokens is full: the oldest {} messages are left out from now on", kept_.capacity, first_);
    return ids;
  }

  void answer(const std::string& question) {
    const size_t first = first_;
    messages_.push_back({"user", question, 1, ""});
    infer::TextStream text(generator_.tokenizer(), stops_);
    const auto show = [](const std::string& piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    infer::Listener listener;
    listener.on_token = [&](size_t, int32_t id) {
      show(text.push(id));
      return !text.stopped() && !interrupted;
    };
    infer::Generation result;
    try {
      result = generator_.session().generate(kept_, {prompt(), attempt_}, options_, listener);
    } catch (...) {
      messages_.pop_back();
      first_ = first;
      throw;
    }
    show(text.finish() + "\n");
    if (interrupted) notice("stopped");
    else if (!result.stopped) notice("the answer was cut off at {} tokens", result.ids.size());
    messages_.push_back({"assistant", text.text(), 1, ""});
  }

  infer::GenerateOptions options_;
  infer::Generator generator_;
  std::unique_ptr<text::ChatTemplate> template_;
  std::string system_;
  std::vector<std::string> stops_;
  infer::KeptText kept_;
  std::vector<text::Message> messages_;  // without the system message
  size_t first_ = 0;                     // the oldest that still fits
  uint64_t attempt_ = 0;                 // at the last question
  Style style_;
  bool failed_ = false;
};

}  // namespace

int chat(const ChatArgs& args) {
  note_base(adapters_of(args.adapters, args.use, true), parse_quantization(args.quantization, "--quantization"));
  return Chat(args).run();
}

}  // namespace attune::cli
