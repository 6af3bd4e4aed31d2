#include "text/bpe_trainer.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <set>
#include <unordered_map>

#include "text/bpe_trainer_files.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "util/error.h"
#include "util/files.h"

namespace attune::text {
namespace {

constexpr size_t kBlock = 4u << 20;

using WordCounts = std::unordered_map<std::string, int64_t>;

class WordCounter {
 public:
  explicit WordCounter(WordPattern pattern) { add_pipeline(pattern, normalizer_, pre_tokenizer_); }

  void add_text(std::string_view text) {
    Sections sections;
    std::vector<ByteRange> words;
    const Section& normal = normalizer_.apply(valid_section(text, sections), false, sections);
    const Section& cut = pre_tokenizer_.split(normal, false, sections, words);
    for (const ByteRange& word : words) {
      key_.assign(cut.text(), word.begin, word.end - word.begin);
      ++counts_[key_];
    }
  }

  // Reads in blocks that end behind a line where possible, so that memory does not grow with the file.
  int64_t add_file(const fs::path& file) {
    const FileReader reader(file);
    std::string block;
    for (uint64_t at = 0; at < reader.size() || !block.empty();) {
      const size_t kept = block.size();
      const uint64_t more = std::min<uint64_t>(kBlock, reader.size() - at);
      block.resize(kept + more);
      reader.read_at(at, block.data() + kept, more);
      at += more;
      size_t cut = block.size();
      if (at < reader.size()) {
        const size_t line = block.rfind('\n');
        cut = line != std::string::npos ? line + 1 : block.size() - unfinished_tail(block);
      }
      add_text(std::string_view(block).substr(0, cut));
      block.erase(0, cut);
    }
    return static_cast<int64_t>(reader.size());
  }

  WordCounts& counts() { return counts_; }

 private:
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  WordCounts counts_;
  std::string key_;
};

// Merges the most frequent pair of neighbours again and again; the counts follow each merge.
class PairMerger {
 public:
  PairMerger(const BpeTrainerOptions& options, TrainedBpe& out) : options_(options), out_(out) {
    for (const std::string& token : options.special_tokens) add_token("", token);
    // The order of the alphabet's characters, as the Hugging Face trainer numbers them.
    const ByteAlphabet& alphabet = ByteAlphabet::get();
    for (int byte : alphabet.to_byte)
      if (byte >= 0) of_byte_[byte] = add_token({static_cast<char>(byte)}, alphabet.of_byte[byte]);
  }

  void run(WordCounts& counts) {
    add_words(counts);
    count_pairs();
    const auto goal = static_cast<size_t>(options_.vocab_size);
    while (out_.tokens.size() < goal && !queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      Pair& pair = pairs_[top.pair];
      if (top.count != pair.count) {  // changed since it was put here
        push(top.pair, pair.count);
        continue;
      }
      if (top.count < std::max(1, options_.min_frequency)) break;
      merge(top.pair);
      if (options_.progress && out_.merges.size() % 256 == 0)
        options_.progress("merging", static_cast<int64_t>(out_.tokens.size()), options_.vocab_size);
    }
  }

 private:
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> words;  // where it stands or once stood
  };
  struct Candidate {
    int64_t count;
    uint64_t pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };
  struct Word {
    size_t begin;
    uint32_t length;
    int64_t count;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  }

  int32_t add_token(const std::string& bytes, const std::string& text) {
    const auto id = static_cast<int32_t>(out_.tokens.size());
    out_.tokens.push_back(text);
    bytes_.push_back(bytes.size());
    ids_.emplace(text, id);
    return id;
  }

  // Sorted, so that the result does not hang on the order of a hash table.
  void add_words(WordCounts& counts) {
    std::vector<std::pair<std::string, int64_t>> sorted(std::make_move_iterator(counts.begin()),
                                                        std::make_move_iterator(counts.end()));
    counts.clear();
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [text, count] : sorted) {
      words_.push_back({symbols_.size(), static_cast<uint32_t>(text.size()), count});
      for (char c : text) symbols_.push_back(of_byte_[static_cast<uint8_t>(c)]);
    }
  }

  void count_pairs() {
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const int32_t* symbols = symbols_.data() + words_[w].begin;
      for (uint32_t i = 0; i + 1 < words_[w].length; ++i)
        change(key(symbols[i], symbols[i + 1]), words_[w].count, w);
    }
    for (const auto& [pair, info] : pairs_) push(pair, info.count);
    changed_.clear();
  }

  void push(uint64_t pair, int64_t count) {
    if (count > 0 && is_allowed(pair)) queue_.push({count, pair});
  }

  bool is_allowed(uint64_t pair) const {
    const auto left = static_cast<size_t>(pair >> 32), right = static_cast<size_t>(pair & UINT32_MAX);
    if (options_.max_token_bytes > 0 &&
        bytes_[left] + bytes_[right] > static_cast<size_t>(options_.max_token_bytes))
      return false;
    // Ordinary text must never merge into a special token.
    const auto found = ids_.find(out_.tokens[left] + out_.tokens[right]);
    return found == ids_.end() || static_cast<size_t>(found->second) >= options_.special_tokens.size();
  }

  void change(uint64_t pair, int64_t by, uint32_t word) {
    Pair& info = pairs_[pair];
    info.count += by;
    if (by <= 0) return;
    if (info.words.empty() || info.words.back() != word) info.words.push_back(word);
    changed_.push_back(pair);
  }

  void merge(uint64_t pair) {
    const auto left = static_cast<int32_t>(pair >> 32), right = static_cast<int32_t>(pair & UINT32_MAX);
    const std::string text = out_.tokens[static_cast<size_t>(left)] + out_.tokens[static_cast<size_t>(right)];
    const auto known = ids_.find(text);
    const int32_t merged = known != ids_.end() ? known->second : add_token("", text);
    bytes_[static_cast<size_t>(merged)] =
        bytes_[static_cast<size_t>(left)] + bytes_[static_cast<size_t>(right)];
    out_.merges.emplace_back(left, right);
    std::vector<uint32_t> where = std::move(pairs_[pair].words);
    std::sort(where.begin(), where.end());
    where.erase(std::unique(where.begin(), where.end()), where.end());
    changed_.clear();
    for (uint32_t word : where) merge_in(word, left, right, merged);
    pairs_.erase(pair);
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (uint64_t other : changed_)
      if (const auto found = pairs_.find(other); found != pairs_.end()) push(other, found->second.count);
  }

  void merge_in(uint32_t index, int32_t left, int32_t right, int32_t merged) {
    Word& word = words_[index];
    int32_t* symbols = symbols_.data() + word.begin;
    uint32_t out = 0;
    for (uint32_t in = 0; in < word.length; ++in) {
      if (in + 1 >= word.length || symbols[in] != left || symbols[in + 1] != right) {
        symbols[out++] = symbols[in];
        continue;
      }
      if (out > 0) {
        change(key(symbols[out - 1], left), -word.count, index);
        change(key(symbols[out - 1], merged), word.count, index);
      }
      if (in + 2 < word.length) {
        change(key(right, symbols[in + 2]), -word.count, index);
        change(key(merged, symbols[in + 2]), word.count, index);
      }
      symbols[out++] = merged;
      ++in;
    }
    word.length = out;
  }

  const BpeTrainerOptions& options_;
  TrainedBpe& out_;
  int32_t of_byte_[256] = {};
  std::vector<size_t> bytes_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<int32_t> symbols_;
  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> queue_;
  std::vector<uint64_t> changed_;
};

void check(const std::vector<fs::path>& files, const BpeTrainerOptions& options) {
  if (files.empty()) refuse("tokenizer training: no text files were given");
  const std::set<std::string> specials(options.special_tokens.begin(), options.special_tokens.end());
  if (specials.size() != options.special_tokens.size())
    refuse("tokenizer training: a special token stands there twice");
  for (const std::string& token : specials) {
    if (token.empty() || !is_valid_utf8(token))
      refuse("tokenizer training: a special token is empty or not UTF-8");
    if (code_point_at(token, 0).bytes == token.size())
      refuse("tokenizer training: the special token \"{}\" is a single character, which ordinary text needs",
             token);
  }
  const int64_t least = static_cast<int64_t>(specials.size()) + 256;
  if (options.vocab_size < least || options.vocab_size > (1 << 24))
    refuse("tokenizer training: vocab_size is {}, expected {} (special tokens and bytes) to {}",
           options.vocab_size, least, 1 << 24);
  for (const auto* token : {&options.bos_token, &options.eos_token, &options.pad_token, &options.unk_token})
    if (*token && !specials.contains(**token))
      refuse("tokenizer training: \"{}\" is not among the special tokens", **token);
}

}  // namespace

BpeTrainerResult train_byte_level_bpe(const std::vector<fs::path>& files, const BpeTrainerOptions& options,
                                      const fs::path& out_dir) {
  check(files, options);
  BpeTrainerResult result;
  WordCounter counter(options.pattern);
  for (size_t i = 0; i < files.size(); ++i) {
    if (options.progress)
      options.progress("reading", static_cast<int64_t>(i), static_cast<int64_t>(files.size()));
    result.text_bytes += counter.add_file(files[i]);
  }
  result.distinct_words = static_cast<int64_t>(counter.counts().size());
  TrainedBpe trained;
  PairMerger(options, trained).run(counter.counts());
  result.vocab_size = static_cast<int64_t>(trained.tokens.size());
  result.merges = static_cast<int64_t>(trained.merges.size());
  write_tokenizer_files(trained, options, out_dir);
  return result;
}

}  // namespace attune::text
