// Trains a byte-level BPE tokenizer from text files; the result is an ordinary Hugging Face directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace attune::text {

// How text is cut into words. The Qwen2 pattern keeps single digits and also composes characters (NFC).
enum class WordPattern { gpt2, qwen2 };

struct BpeTrainerOptions {
  int vocab_size = 6400;    // special tokens, 256 bytes and merges together
  int min_frequency = 2;    // pairs seen less often are not merged
  int max_token_bytes = 0;  // longest token; 0 for no limit
  // Get the first ids, in this order.
  std::vector<std::string> special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  WordPattern pattern = WordPattern::qwen2;
  // Each must be one of the special tokens.
  std::optional<std::string> bos_token, eos_token, pad_token, unk_token;
  std::string chat_template;  // Jinja, may be empty
  int64_t model_max_length = 32768;
  // Called now and then with what has been done; may be empty.
  std::function<void(const std::string& stage, int64_t done, int64_t total)> progress;
};

struct BpeTrainerResult {
  int64_t vocab_size = 0;
  int64_t merges = 0;
  int64_t text_bytes = 0;
  int64_t distinct_words = 0;
};

// Writes tokenizer.json and tokenizer_config.json into `out_dir`. The same files and options give the same
// bytes.
BpeTrainerResult train_byte_level_bpe(const std::vector<std::filesystem::path>& files,
                                      const BpeTrainerOptions& options, const std::filesystem::path& out_dir);

}  // namespace attune::text
