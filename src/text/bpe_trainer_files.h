// What a trained tokenizer is written as, shared between the trainer and its file writer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "text/bpe_trainer.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace attune::text {

struct TrainedBpe {
  std::vector<std::string> tokens;  // by id, in the byte alphabet; special tokens first
  std::vector<std::pair<int32_t, int32_t>> merges;
};

// Fills in the very components that the written file names.
void add_pipeline(WordPattern pattern, Normalizer& normalizer, PreTokenizer& pre_tokenizer);
void write_tokenizer_files(const TrainedBpe& trained, const BpeTrainerOptions& options,
                           const std::filesystem::path& out_dir);

}  // namespace attune::text
