// What generate and chat have in common: options, and what a file says about them.
#pragma once

#include <memory>
#include <string>

#include "cli/commands.h"
#include "infer/generator.h"
#include "text/chat.h"

namespace attune::cli {

// Without stop ids. With --generation-config, the model's generation_config.json says what the command line does not; keys of
// it that would change answers and are not supported are named in a warning. Refuses what cannot be.
infer::GenerateOptions sampling_options(const SamplingArgs& args, const std::string& model, int64_t max_new_tokens);

// The text as the model's tokenizer begins one.
std::vector<int32_t> raw_prompt(const std::string& text, const text::Tokenizer& tokenizer);

}  // namespace attune::cli
