#include "data/tokenized.h"

#include <algorithm>
#include <type_traits>

#include "util/files.h"
#include "util/hash.h"
#include "util/log.h"
#include "util/machine.h"
#include "util/progress.h"

namespace attune::data {
namespace {

// Every field with its length before it, so that no two requests give the same bytes.
class Key {
 public:
  template <class... Fields>
  void add(const Fields&... fields) {
    (add_one(fields), ...);
  }
  std::string hex() const { return hasher_.hex128(); }

 private:
  template <class T>
  void add_one(const T& value) {
    if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>) {
      hasher_.update(&value, sizeof value);
    } else {
      const std::string_view text = value;
      add_one(text.size());
      hasher_.update(text.data(), text.size());
    }
  }
  Hasher hasher_;
};

// In all of these the names on the left are all members: a new one does not compile until it stands in the key.
void add(Key& key, const Mapping& m) {
  const auto& [formatting, explicit_columns, prompt, query, response, history, messages, system, tools, chosen, rejected, kto_tag, ranking, role_tag,
               content_tag, user_tag, assistant_tag, observation_tag, function_tag, system_tag, where] = m;
  key.add(formatting, explicit_columns, prompt, query, response, history, messages, system, tools, chosen, rejected, kto_tag, ranking, role_tag,
          content_tag, user_tag, assistant_tag, observation_tag, function_tag, system_tag, where);
}

void add(Key& key, const DataSet& set) {
  const auto& [name, files, mapping, num_samples] = set;
  key.add(name, num_samples, files.size());
  add(key, mapping);
  // The name too: it stands in reports and messages.
  for (const auto& file : files) key.add(file.string(), hash128_file(file));
}

void add(Key& key, const TokenRequest& request) {
  const auto& [sets, read, tokenize, chat_template, tool_format] = request;
  const auto& [read_as, max_samples, seed] = read;
  const auto& [cutoff_len, train_on_prompt, kind, mask_history, ld_alpha] = tokenize;
  key.add(read_as, max_samples, seed, cutoff_len, train_on_prompt, kind, mask_history, ld_alpha, chat_template, tool_format, sets.size());
  for (const DataSet& set : sets) add(key, set);
}

// Tells how far it is: a line that is redrawn on a terminal, and now and then one that stays.
class ReadingProgress {
 public:
  explicit ReadingProgress(const TokenRequest& request) : total_(bytes_of(request)), bar_("tokenising (MB)", total_ / kMega), begin_(seconds_now()) {}

  void add(int64_t rows, uint64_t bytes) {
    rows_ += rows;
    bytes_ += static_cast<int64_t>(bytes);
    const double seconds = seconds_now() - begin_;
    if (seconds > kWorthABar) bar_.update(std::min(bytes_, total_) / kMega, rate(seconds));
    if (seconds < next_line_) return;
    next_line_ += kLineEvery;
    info("tokenising: {:.0f} MB of {:.0f} MB, {}, {} left", mega(bytes_), mega(total_), rate(seconds),
         format_seconds(seconds * static_cast<double>(std::max<int64_t>(0, total_ - bytes_)) / static_cast<double>(std::max<int64_t>(1, bytes_))));
  }
  // About how many tokens there will be, once some are known; no more than one a byte.
  size_t expected(int64_t tokens) const {
    const double share = static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, bytes_));
    return static_cast<size_t>(static_cast<double>(total_) * std::min(1.0, 1.05 * share));
  }
  void finish(const TokenSet& set) const {
    const double seconds = seconds_now() - begin_;
    if (seconds > kWorthALine) info("tokenised {} rows into {} tokens in {} ({})", rows_, set.total_tokens(), format_seconds(seconds), rate(seconds));
  }

 private:
  static constexpr int64_t kMega = 1'000'000;
  static constexpr double kWorthABar = 0.5, kLineEvery = 30, kWorthALine = 2;  // seconds
  static double mega(int64_t bytes) { return static_cast<double>(bytes) / kMega; }
  static int64_t bytes_of(const TokenRequest& request) {
    uint64_t bytes = 0;
    std::error_code error;  // a file that is missing is refused by its reader
    for (const DataSet& set : request.sets)
      for (const auto& file : set.files)
        if (const uint64_t size = fs::file_size(file, error); !error) bytes += size;
    return static_cast<int64_t>(bytes);
  }
  std::string rate(double seconds) const {
    const double s = std::max(1e-9, seconds);
    return fmt::format("{:.0f} rows/s, {:.1f} MB/s", static_cast<double>(rows_) / s, mega(bytes_) / s);
  }

  int64_t total_, rows_ = 0, bytes_ = 0;
  Progress bar_;
  double begin_, next_line_ = kLineEvery;
};

}  // namespace

TokenizedData tokenize_data_sets(const TokenRequest& request, const text::Tokenizer& tokenizer, const ChatSource& chat) {
  TokenizedData out;
  Records records;
  SetTokenizer tokens(tokenizer, request.tokenize);
  ReadingProgress progress(request);
  const text::ChatTemplate* used = nullptr;
  bool reserved = false;
  const TakeRows take = [&](Records& block, uint64_t bytes) {
    for (const Record& r : block.rows)
      if (!used && r.is_conversation()) used = &chat();
    tokens.add(block, used);
    progress.add(static_cast<int64_t>(block.rows.size()), bytes);
    block.rows.clear();
    if (reserved || tokens.set().size() == 0) return;
    // One piece of memory from the beginning: growing would need the tokens twice. Pages that stay empty cost nothing.
    tokens.set().reserve(progress.expected(tokens.set().total_tokens()));
    reserved = true;
  };
  for (const DataSet& set : request.sets) read_records(set, request.read, records, out.report, take);
  out.set = tokens.finish(records, out.report);
  progress.finish(out.set);
  out.conversations = used != nullptr;
  out.files = std::move(records.files);
  out.rows_read = records.rows_read;
  return out;
}

std::string key_of(const TokenRequest& request, const fs::path& tokenizer) {
  Key key;
  // Its rules, templates and mending are part of the result.
  static const std::string program = hash128_file("/proc/self/exe");
  key.add(program);
  for (const fs::path& file : text::Tokenizer::files(tokenizer)) key.add(file.filename().string(), hash128_file(file));
  add(key, request);
  return key.hex();
}

}  // namespace attune::data
